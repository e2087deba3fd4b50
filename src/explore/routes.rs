//! Routes of the page and of the API, and the checks that every request passes.
//!
//! A foreign web page could make its own name point to this machine and thereby read the responses. A request
//! must therefore name the host by an IP address or as `localhost`, which no foreign page can claim. A search
//! must be declared as JSON, which a page of another origin cannot send without a preflight request; an `Origin`
//! other than the host is refused.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, RawQuery, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::TimeoutLayer;

use super::Collection;
use super::api::{self, Answer, Refusal};
use super::curve::curve;
use super::page::PAGE;

/// Limit on receiving a header, and on receiving the rest of a request and computing its answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// Largest size of a search in bytes, about ten times the largest query.
const MOST_BODY_BYTES: usize = 1 << 16;
/// Number of bytes of a body that are read. A slightly larger body gets an error response, which closing the
/// connection with unread bytes would prevent.
const MOST_READ_BYTES: usize = 1 << 20;
/// Headers of every response. Only resources of this server are allowed to the page.
const HEADERS: [(header::HeaderName, &str); 4] = [
    (header::CACHE_CONTROL, "no-store"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
];
const JSON: &str = "application/json";
const SEARCH: &str = "/api/search";

/// The page and the API of this collection.
pub(super) fn routes(collection: Arc<Collection>) -> Router {
    let mut router = Router::new()
        .route("/api/vocabulary", get(vocabulary))
        .route("/api/image/", get(no_image))
        .route("/api/image/{id}", get(image))
        .route("/api/image/{id}/ranks", get(ranks))
        .route("/api/images", get(images))
        .route("/api/random", get(random))
        .route("/api/sentence", get(sentence))
        .route(SEARCH, post(search));
    for file in &PAGE {
        let media_type = [(header::CONTENT_TYPE, file.media_type)];
        router = router.route(file.path, get(async move || (media_type, file.content)));
    }
    router
        .fallback(nothing)
        .method_not_allowed_fallback(other_method)
        // The first of these is the innermost.
        .layer(DefaultBodyLimit::disable())
        .layer(RequestBodyLimitLayer::new(MOST_READ_BYTES))
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, PATIENCE))
        .layer(CompressionLayer::new().quality(CompressionLevel::Fastest))
        .layer(from_fn(checked))
        .with_state(collection)
}

/// Checks a request and completes its response.
async fn checked(request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_string());
    let mut response = match check_host(&request).and_then(|()| check_origin(request.headers())) {
        Ok(()) => in_a_sentence(next.run(request).await),
        Err(refusal) => refusal.into_response(),
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    tracing::debug!("{method} {path}: {}", response.status());
    response
}

/// Gives the limits of the layers the form of all other errors.
fn in_a_sentence(response: Response) -> Response {
    match response.status() {
        StatusCode::REQUEST_TIMEOUT => {
            let sentence = "the request did not arrive, or was not answered, in time; send it again";
            Refusal::new(StatusCode::REQUEST_TIMEOUT, sentence).into_response()
        }
        StatusCode::PAYLOAD_TOO_LARGE => too_large().into_response(),
        _ => response,
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self)).into_response()
    }
}

/// A response in JSON.
struct Json<T>(T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        let content = serde_json::to_vec(&self.0).expect("plain fields");
        ([(header::CONTENT_TYPE, JSON)], content).into_response()
    }
}

type Collected = State<Arc<Collection>>;

async fn vocabulary(State(collection): Collected) -> Answer<Json<impl Serialize>> {
    api::beside(move |_| Ok(Json(serde_json::to_value(api::vocabulary(&collection)).expect("plain fields"))))
        .await
}

async fn image(
    State(collection): Collected,
    Path(id): Path<String>,
    RawQuery(options): RawQuery,
) -> Answer<Json<impl Serialize>> {
    api::beside(move |_| api::image(&collection, &id, &options.unwrap_or_default()).map(Json)).await
}

async fn ranks(
    State(collection): Collected,
    Path(id): Path<String>,
    RawQuery(options): RawQuery,
) -> Answer<Json<impl Serialize>> {
    curve(collection, &id, &options.unwrap_or_default()).await.map(Json)
}

async fn no_image(collection: Collected, options: RawQuery) -> Answer<Json<impl Serialize>> {
    image(collection, Path(String::new()), options).await
}

async fn images(State(collection): Collected, RawQuery(options): RawQuery) -> Answer<Json<impl Serialize>> {
    api::beside(move |client| api::images(&collection, &options.unwrap_or_default(), client).map(Json)).await
}

async fn sentence(State(collection): Collected, RawQuery(options): RawQuery) -> Answer<Json<impl Serialize>> {
    api::beside(move |_| api::sentence(&collection, &options.unwrap_or_default()).map(Json)).await
}

async fn random(State(collection): Collected) -> Json<impl Serialize> {
    Json(api::random(&collection))
}

async fn search(
    State(collection): Collected,
    headers: HeaderMap,
    body: std::result::Result<Bytes, BytesRejection>,
) -> Answer<Json<impl Serialize>> {
    let declared = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = declared.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case(JSON) {
        let sentence = "send the query as JSON, with the header Content-Type: application/json";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, sentence));
    }
    let body = body.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_large(),
        status => Refusal::new(status, format!("the body cannot be read: {}", error.body_text())),
    })?;
    if body.len() > MOST_BODY_BYTES {
        return Err(too_large());
    }
    api::search(collection, &body).await.map(Json)
}

fn too_large() -> Refusal {
    let sentence = format!("a query has at most {MOST_BODY_BYTES} bytes; send a smaller graph");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, sentence)
}

async fn nothing() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "there is nothing here; the page is at /")
}

async fn other_method(method: Method, uri: Uri) -> Response {
    let allow = if uri.path() == SEARCH { "POST" } else { "GET, HEAD" };
    let sentence = format!("{method} is not answered here; use {allow}");
    let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, sentence);
    ([(header::ALLOW, allow)], refusal).into_response()
}

/// Checks that the request names this machine in a way that no foreign page can.
fn check_host(request: &Request) -> Answer<()> {
    let own = |authority: &Authority| {
        let host = authority.host();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
    };
    match host(request.headers()).is_some_and(|host| own(&host)) && request.uri().authority().is_none_or(own)
    {
        true => Ok(()),
        false => Err(Refusal::new(
            StatusCode::MISDIRECTED_REQUEST,
            "the Host header must name this machine by its address or as localhost; open the address that \
             `scenerank explore` printed",
        )),
    }
}

/// Checks that a request from a web page is from a page of this server.
fn check_origin(headers: &HeaderMap) -> Answer<()> {
    let host = host(headers);
    let own = |origin: &HeaderValue| {
        let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, of)| of);
        authority.and_then(|authority| authority.parse::<Authority>().ok()) == host
    };
    match headers.get_all(header::ORIGIN).iter().all(own) {
        true => Ok(()),
        false => Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "the request is from a page of another origin; open the address that `scenerank explore` printed",
        )),
    }
}

/// Host that the request names, if it names exactly one.
fn host(headers: &HeaderMap) -> Option<Authority> {
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok()?.parse().ok(),
        _ => None,
    }
}
