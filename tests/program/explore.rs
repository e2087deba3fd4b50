//! `explore`: its answers agree with those of `search` and `retrieve`, and invalid requests are rejected.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use crate::program::{refuse, run_json};
use crate::served::Served;
use scenerank::data::query_graph::QueryGraph;
use scenerank::data::scene_graph::SceneGraph;
use scenerank::data::{Dataset, Split};
use scenerank::evaluation::{QueryEdges, incomplete_query};
use serde_json::{Value, json};

fn ids(results: &Value) -> Vec<u64> {
    results.as_array().unwrap().iter().map(|found| found["image_id"].as_u64().unwrap()).collect()
}

#[test]
fn explore_answers_as_search_does_and_refuses_the_rest() {
    let served = Served::new();
    let dataset = served.dataset();
    the_same_as_search(&served, &dataset);
    images_and_their_ranks(&served, &dataset);
    bad_requests(&served, &dataset);
    sentences(&served, &dataset);
    examples_occur_in_the_images(&served, &dataset);
    results_have_the_wanted_objects(&served, &dataset);
    ranks_against_removed_edges(&served, &dataset);
    many_at_once(&served, &dataset);
    the_page_in_a_browser(&served);
    ctrl_c_ends_it(served);
}

/// A sentence becomes the statements of a query.
fn sentences(served: &Served, dataset: &Dataset) {
    let (object, predicate) = (dataset.object_name(0), dataset.predicate_name(0));
    let words = format!("The {object} {predicate} a quixotic {object}").replace(' ', "+");
    let (status, got) = served.get(&format!("/api/sentence?text={words}"));
    let statement = [object, predicate, &format!("{object}#2")];
    assert_eq!((status, got), (200, json!({ "graph": [statement], "not_understood": ["quixotic"] })));
    assert_eq!(served.get("/api/sentence?words=a").0, 400);
}

/// Nodes of a graph that have the relationship of these types: subjects and objects.
fn holders(graph: SceneGraph<'_>, types: [u32; 3]) -> Vec<[u32; 2]> {
    let object = |node: u32| graph.node_object[node as usize];
    let edges = 0..graph.edge_predicate.len();
    let ends =
        edges.map(|edge| (graph.edge_subject[edge], graph.edge_predicate[edge], graph.edge_object[edge]));
    ends.filter(|&(s, p, o)| [object(s), p, object(o)] == types).map(|(s, _, o)| [s, o]).collect()
}

/// The relationships are listed by the number of images that have them. Each example is a query whose relationships some image has
/// together, at the same objects.
fn examples_occur_in_the_images(served: &Served, dataset: &Dataset) {
    let (_, vocabulary) = served.get("/api/vocabulary");
    let listed: Vec<[u32; 3]> = serde_json::from_value(vocabulary["relationships"].clone()).unwrap();
    let images_with = |types: [u32; 3]| {
        dataset.split(Split::All).filter(|&image| !holders(dataset.graph(image), types).is_empty()).count()
    };
    assert!(listed.len() > 20, "{}", listed.len());
    assert_eq!(listed.iter().collect::<HashSet<_>>().len(), listed.len());
    let counts: Vec<usize> = listed.iter().take(40).map(|&types| images_with(types)).collect();
    assert!(counts.is_sorted_by(|a, b| a >= b) && counts[0] > 1, "{counts:?}");

    let examples: Vec<Vec<Vec<String>>> = serde_json::from_value(vocabulary["examples"].clone()).unwrap();
    assert_eq!(examples.iter().map(Vec::len).collect::<Vec<_>>(), [1, 2, 2], "{examples:?}");
    let mut subjects = HashSet::new();
    for example in &examples {
        assert!(subjects.insert(example[0][0].clone()), "{examples:?}");
        let types: Vec<[u32; 3]> = example
            .iter()
            .map(|names| {
                let (vocabulary, object) =
                    (dataset.vocabulary(), |name: &String| dataset.vocabulary().find_object(name));
                [
                    object(&names[0]).unwrap(),
                    vocabulary.find_predicate(&names[1]).unwrap(),
                    object(&names[2]).unwrap(),
                ]
            })
            .collect();
        let together = dataset.split(Split::All).any(|image| {
            let first = holders(dataset.graph(image), types[0]);
            let touches = |ends: &[u32; 2]| first.iter().flatten().any(|node| ends.contains(node));
            !first.is_empty()
                && types[1..].iter().all(|&other| holders(dataset.graph(image), other).iter().any(touches))
        });
        assert!(together, "{example:?}");
        assert_eq!(
            served.search(json!({ "graph": example, "k": 3 }))["results"].as_array().unwrap().len(),
            3
        );
    }
}

/// The filter leaves out images and changes nothing else: the ranks are those among all images.
fn results_have_the_wanted_objects(served: &Served, dataset: &Dataset) {
    let query = |having: &[&str], k: usize| {
        let graph = json!([[dataset.object_name(0), dataset.predicate_name(0), dataset.object_name(1)]]);
        served.search(json!({ "graph": graph, "having": having, "k": k }))
    };
    let all = query(&[], 100);
    assert_eq!(all["matching"], dataset.image_count());
    // A rare object, so that the nearest images lack it, and two at once.
    let rare =
        (0..dataset.object_count() - 1).rev().find(|&object| dataset.object_occurrences(object) > 0).unwrap();
    for objects in [vec![0], vec![rare], vec![0, 1]] {
        let names: Vec<&str> = objects.iter().map(|&object| dataset.object_name(object)).collect();
        let has = |image: usize| {
            objects.iter().all(|&object| dataset.graph(image).node_object.contains(&(object as u32)))
        };
        let found_has = |found: &Value| has(dataset.find_image(found["image_id"].as_u64().unwrap()).unwrap());
        let got = query(&names, 100);
        let matching = dataset.split(Split::All).filter(|&image| has(image)).count();
        assert_eq!(got["matching"], matching, "{names:?}");
        assert!(matching > 0, "{names:?}");
        let results = got["results"].as_array().unwrap();
        assert_eq!(results.len(), matching.min(100));
        assert!(results.iter().all(found_has), "{names:?}");
        assert!(results.is_sorted_by_key(|found| found["rank"].as_u64().unwrap()));
        let nearest = all["results"].as_array().unwrap();
        let want: Vec<&Value> = nearest.iter().filter(|found| found_has(found)).collect();
        let near = results.iter().filter(|found| found["rank"].as_u64().unwrap() as usize <= nearest.len());
        assert_eq!(near.collect::<Vec<_>>(), want);
        assert_eq!(query(&names, 1)["results"][0], results[0]);
    }
    let unknown = json!({ "graph": [[dataset.object_name(0)]], "having": ["quixotry"] });
    let (status, body) = served.post(&unknown.to_string());
    assert!(
        status == 422 && body["error"].as_str().unwrap().starts_with("having: the data has no object"),
        "{body}"
    );
    assert!(body.get("statement").is_none() && !body["suggestions"].as_array().unwrap().is_empty(), "{body}");
    let many = json!({ "graph": [[dataset.object_name(0)]], "having": vec![dataset.object_name(0); 17] });
    assert_eq!(served.post(&many.to_string()).0, 400);
}

/// Each point of the curve is what a search for the incomplete query gives.
fn ranks_against_removed_edges(served: &Served, dataset: &Dataset) {
    let in_image = dataset.vocabulary().in_image_type();
    let image = dataset.split(Split::All).max_by_key(|&image| dataset.graph(image).edge_count()).unwrap();
    let (id, graph) = (dataset.image_id(image), dataset.graph(image));
    let relationships = graph.edge_predicate.iter().filter(|&&of| of != in_image).count();
    for (edges, count) in [("augmented", graph.edge_count()), ("relationships", relationships)] {
        let (status, curve) = served.get(&format!("/api/image/{id}/ranks?edges={edges}&seed=5"));
        assert_eq!((status, &curve["edges"]), (200, &json!(count)));
        let points = curve["points"].as_array().unwrap();
        assert!(points.len() > 1 && points.len() <= 25, "{}", points.len());
        assert_eq!(
            (&points[0]["removed"], &points[points.len() - 1]["removed"]),
            (&json!(0), &json!(count - 1))
        );
        for point in points {
            let removed = &point["removed"];
            let (_, query) = served.get(&format!("/api/image/{id}?remove={removed}&edges={edges}&seed=5"));
            let found = served.search(json!({
                "graph": query["graph"], "without_in_image": query["without_in_image"], "target": id, "k": 1
            }));
            assert_eq!(
                (&found["target"]["rank"], &found["target"]["cosine"]),
                (&point["rank"], &point["cosine"])
            );
        }
    }
    assert_eq!(served.get(&format!("/api/image/{id}/ranks?remove=2")).0, 400);
    assert_eq!(served.get("/api/image/4711/ranks").0, 404);
}

/// Equal to the last bit: the same graph, embedded alone, against the same embeddings.
fn the_same_as_search(served: &Served, dataset: &Dataset) {
    let (object, predicate) = (dataset.object_name(0), dataset.predicate_name(0));
    let other = dataset.object_name(1);
    let graphs = [
        json!([[object, predicate, other]]),
        json!([[object, predicate, format!("{object}#2")], [other]]),
        json!([[other], [object.to_uppercase(), predicate, other], [object, predicate, other]]),
    ];
    for graph in graphs {
        let path = served.folder.path().join("query.json");
        std::fs::write(&path, graph.to_string()).unwrap();
        let path = path.to_str().unwrap();
        let want =
            run_json(["search", &served.run, "--graph", path, "-k", "20", "--device", "cpu", "--json"]);
        let got = served.search(json!({ "graph": graph, "k": 20 }));
        assert_eq!(got["images"], dataset.image_count());
        assert!(got["target"].is_null());
        assert_eq!(ids(&got["results"]), ids(&want), "{graph}");
        for (rank, (got, want)) in
            got["results"].as_array().unwrap().iter().zip(want.as_array().unwrap()).enumerate()
        {
            assert_eq!(got["rank"], rank + 1);
            for field in ["cosine", "coco_id", "caption_similarity"] {
                assert_eq!(got[field], want[field], "{graph}: {field}");
            }
            assert_eq!(got["captions"].as_array().unwrap().len(), want["captions"].as_array().unwrap().len());
        }
        shared_is_what_both_have(&graph, &got["results"]);
        boxes_are_drawn(dataset, &got["results"]);
    }
}

/// Each box occurs once, with its object's index in the graph.
fn boxes_are_drawn(dataset: &Dataset, results: &Value) {
    for found in results.as_array().unwrap() {
        let image = dataset.find_image(found["image_id"].as_u64().unwrap()).unwrap();
        let elements = found["drawing"]["elements"].as_str().unwrap();
        assert_eq!(elements.matches("<rect class=\"box ").count(), dataset.boxes(image).flatten().count());
        for object in 0..dataset.graph(image).node_count() - 1 {
            assert!(elements.contains(&format!("data-object=\"{object}\"")), "{object}: {elements}");
        }
        assert!(found["url"].is_null(), "{found}");
    }
}

fn shared_is_what_both_have(graph: &Value, results: &Value) {
    let bare = |name: &Value| name.as_str().unwrap().to_lowercase().split('#').next().unwrap().to_string();
    let typed = |statement: &Value| statement.as_array().unwrap().iter().map(bare).collect::<Vec<_>>();
    let query: Vec<_> = graph.as_array().unwrap().iter().map(typed).collect();
    let names: Vec<String> =
        query.iter().flat_map(|s| [s.first(), s.get(2)].into_iter().flatten().cloned()).collect();
    for found in results.as_array().unwrap() {
        let own = found["graph"].as_array().unwrap();
        let relationships: Vec<&Value> =
            own.iter().filter(|s| s.as_array().unwrap().len() == 3 && query.contains(&typed(s))).collect();
        let objects: Vec<&Value> = own
            .iter()
            .filter(|s| s.as_array().unwrap().len() == 1)
            .map(|s| &s[0])
            .filter(|name| names.contains(&bare(name)))
            .collect();
        assert_eq!(found["shared"]["relationships"], json!(relationships));
        assert_eq!(found["shared"]["objects"], json!(objects));
    }
}

/// The graph of an image by names reproduces the graph, complete or incomplete, and finds the image.
fn images_and_their_ranks(served: &Served, dataset: &Dataset) {
    let in_image = dataset.predicate_count() as u32 - 1;
    for image in dataset.split(Split::All) {
        for (remove, edges) in
            [(0, QueryEdges::Augmented), (7, QueryEdges::Augmented), (90, QueryEdges::Relationships)]
        {
            let id = dataset.image_id(image);
            let graph = incomplete_query(dataset.graph(image), remove, edges, in_image, 1, id);
            let (named, without) = QueryGraph::naming(graph.view(), dataset.vocabulary());
            let again =
                QueryGraph::new(&named.statements(dataset.vocabulary()), dataset.vocabulary()).unwrap();
            assert_eq!(
                again.partly_augmented(&without, dataset.vocabulary()).unwrap(),
                graph,
                "image {id} without {remove}"
            );
        }
    }

    let id = dataset.image_id(5);
    let (status, image) = served.get(&format!("/api/image/{id}"));
    assert_eq!(status, 200);
    assert_eq!(image["captions"][0], dataset.captions(5).next().unwrap().trim());
    assert_eq!(image["without_in_image"], json!([]));
    let whole = served.search(json!({ "graph": image["graph"], "target": id, "k": 100 }));
    assert_eq!(whole["target"]["image_id"], id);
    let results = whole["results"].as_array().unwrap();
    let own = results.iter().find(|found| found["image_id"] == id).expect("it finds itself");
    // Images with the same score rank before it.
    assert!(own["rank"].as_u64().unwrap() <= whole["target"]["rank"].as_u64().unwrap(), "{own}");
    // Graphs are embedded in other batches, so the last bits may differ.
    assert!(own["cosine"].as_f64().unwrap() > 0.9999, "{own}");
    for found in results {
        let image = dataset.find_image(found["image_id"].as_u64().unwrap()).unwrap();
        let similarity = found["caption_similarity"].as_f64().unwrap() as f32;
        assert_eq!(similarity, dataset.similarity().get(5, image));
    }

    // For incomplete graphs, as measured by `retrieve`: the mean reciprocal rank over all images is equal.
    let retrieval = run_json(
        [
            &["retrieve", &served.run, "--split", "all", "--noise", "6", "--device", "cpu", "--json"][..],
            &["--edges", "relationships"],
        ]
        .concat(),
    );
    let reciprocal: f64 = dataset
        .split(Split::All)
        .map(|image| {
            let id = dataset.image_id(image);
            let (_, query) = served.get(&format!("/api/image/{id}?remove=6&edges=relationships&seed=1"));
            let found = served.search(json!({
                "graph": query["graph"], "without_in_image": query["without_in_image"], "target": id, "k": 1
            }));
            1.0 / found["target"]["rank"].as_f64().unwrap()
        })
        .sum();
    let mean = reciprocal / dataset.image_count() as f64;
    // A single query and a batch round differently, which may swap two images with the same score.
    let want = retrieval["levels"][0]["mrr"].as_f64().unwrap();
    assert!((mean - want).abs() < 2e-3, "{mean} and {want}");

    let (status, vocabulary) = served.get("/api/vocabulary");
    assert_eq!((status, &vocabulary["images"]), (200, &json!(dataset.image_count())));
    let objects = vocabulary["objects"].as_array().unwrap();
    assert_eq!((objects.len(), &objects[0]), (dataset.object_count() - 1, &json!(dataset.object_name(0))));
    let (status, random) = served.get("/api/random");
    assert_eq!(status, 200);
    assert!(dataset.find_image(random["image_id"].as_u64().unwrap()).is_some());
    let words: Vec<&str> = dataset.captions(5).next().unwrap().split_whitespace().collect();
    let (_, listing) = served.get(&format!("/api/images?caption={}+{}", words[0], words[1]));
    assert!(!listing["images"].as_array().unwrap().is_empty());
    let (_, listing) = served.get("/api/images?caption=zzzz");
    assert_eq!(listing["images"], json!([]));
}

fn bad_requests(served: &Served, dataset: &Dataset) {
    let (object, predicate) = (dataset.object_name(0), dataset.predicate_name(0));
    let refused = |answer: (u16, Value), status: u16, words: &str| {
        let (got, body) = answer;
        let sentence = body["error"].as_str().unwrap_or_else(|| panic!("{got}: no sentence in {body}"));
        assert_eq!(got, status, "{sentence}");
        assert!(sentence.contains(words), "`{words}` is not in: {sentence}");
        body
    };
    // Invalid searches.
    refused(served.post(""), 400, "EOF");
    refused(served.post("{\"graph\": [[\"man\""), 400, "EOF");
    refused(served.post("[]"), 400, "");
    refused(served.post("{}"), 400, "missing field `graph`");
    refused(served.post("{\"graph\": [[\"man\", 3]]}"), 400, "invalid type");
    refused(served.post("{\"graph\": [], \"limit\": 4}"), 400, "unknown field `limit`");
    refused(served.post("{\"graph\": [[\"\\ud800\"]]}"), 400, "");
    let search = |query: Value| served.post(&query.to_string());
    refused(search(json!({ "graph": [[object]], "k": 0 })), 400, "ask for 1 to 100");
    refused(search(json!({ "graph": [[object]], "k": 101 })), 400, "ask for 1 to 100");
    refused(search(json!({ "graph": [[object]], "k": -1 })), 400, "");
    refused(search(json!({ "graph": [] })), 422, "name at least one object");
    refused(search(json!({ "graph": [[object], [object, predicate]] })), 422, "statement 2: has 2 names");
    let misspelt = format!("{object}x");
    let unknown = refused(search(json!({ "graph": [[object], [misspelt]] })), 422, "the data has no object");
    assert_eq!(unknown["statement"], 1);
    assert!(unknown["suggestions"].as_array().unwrap().contains(&json!(object)), "{unknown}");
    let unknown = refused(search(json!({ "graph": [[object, "onn", object]] })), 422, "no predicate \"onn\"");
    assert!(unknown["suggestions"].as_array().unwrap().contains(&json!("on")), "{unknown}");
    let alone = json!({ "graph": [[object]], "without_in_image": [object] });
    refused(search(alone), 422, "has no edge left");
    refused(search(json!({ "graph": [[object]], "without_in_image": ["?"] })), 422, "no statement names");
    refused(search(json!({ "graph": [[object]], "target": 4711 })), 404, "no image 4711");
    let many: Vec<_> = (0..129).map(|number| json!([format!("{object}#{number}")])).collect();
    refused(search(json!({ "graph": many })), 400, "129 objects");
    refused(search(json!({ "graph": vec![json!([object]); 513] })), 400, "513 statements");
    let most: Vec<_> = (0..128).map(|number| json!([format!("{object}#{number}")])).collect();
    assert_eq!(search(json!({ "graph": most })).0, 200);
    // Bodies that are too large, by declaration and in fact.
    refused(served.post(&" ".repeat(70_000)), 413, "at most 65536 bytes");
    let head = "POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let announced = format!("{head}Content-Length: 18446744073709551615\r\n\r\n");
    assert!((400..500).contains(&served.send(announced.as_bytes()).0));
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    let sent = format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n");
    assert_eq!(served.send(sent.as_bytes()).0, 413);
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(40_000));
    assert!((400..500).contains(&served.send(long.as_bytes()).0));

    // Paths, methods, hosts, media types.
    refused(served.get("/api/image/4711"), 404, "no image 4711");
    refused(served.get("/api/image/"), 400, "not a whole number");
    refused(served.get("/api/image/-1"), 400, "not a whole number");
    let id = dataset.image_id(0);
    refused(served.get(&format!("/api/image/{id}?remove=x")), 400, "remove: \"x\"");
    refused(served.get(&format!("/api/image/{id}?edges=all")), 400, "use augmented or relationships");
    refused(served.get(&format!("/api/image/{id}?colour=red")), 400, "unknown option \"colour\"");
    refused(served.get("/api/images?words=dog"), 400, "unknown option \"words\"");
    for path in [
        "/nothing",
        "/../../etc/passwd",
        "/page/../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/page.css/",
        "/best.safetensors",
        "/api/search/",
        "/api/image/..%2f..%2fetc%2fpasswd",
    ] {
        let (status, body) = served.get(path);
        assert!([400, 404].contains(&status), "{path}: {status} {body}");
    }
    let request = |method: &str, path: &str, head: &str| {
        let (status, head, body) = served.send(format!("{method} {path} HTTP/1.1\r\n{head}\r\n").as_bytes());
        (status, head, String::from_utf8(body).unwrap())
    };
    let local = "Host: localhost:80\r\n";
    for (method, path, allow) in
        [("GET", "/api/search", "POST"), ("POST", "/", "GET, HEAD"), ("DELETE", "/api/random", "GET, HEAD")]
    {
        let (status, head, body) = request(method, path, local);
        assert_eq!(status, 405, "{body}");
        assert!(
            head.contains(&format!("allow: {allow}\r\n")) && body.contains("is not answered here"),
            "{head}{body}"
        );
    }
    let (status, _, body) = request("POST", "/api/search", &format!("{local}Content-Type: text/plain\r\n"));
    assert!(status == 415 && body.contains("application/json"), "{status} {body}");
    for host in [
        "Host: evil.example\r\n",
        "Host: localhost.evil.example\r\n",
        "Host: 127.0.0.1.evil\r\n",
        "",
        "Host: \r\n",
    ] {
        let (status, _, body) = request("GET", "/", host);
        assert!(status == 421 && body.contains("Host header"), "{host:?}: {status} {body}");
    }
    // Pages of other origins: of another host or port, from a file, and two origins in one request.
    for origin in
        ["http://evil.example", "http://localhost:8080", "http://localhost", "null", "", "localhost:80"]
    {
        let (status, _, body) = request("GET", "/api/random", &format!("{local}Origin: {origin}\r\n"));
        assert!(status == 403 && body.contains("another origin"), "{origin:?}: {status} {body}");
    }
    let own = "Origin: http://localhost:80\r\n";
    assert_eq!(request("GET", "/api/random", &format!("{local}{own}")).0, 200);
    let two = format!("{local}{own}Origin: http://evil.example\r\n");
    assert_eq!(request("GET", "/api/random", &two).0, 403);
    let two = "Host: localhost\r\nHost: evil.example\r\n";
    assert!([400, 421].contains(&request("GET", "/", two).0));
    assert_eq!(request("GET", "http://evil.example/", local).0, 421);
    for host in ["127.0.0.1:7411", "LOCALHOST", "[::1]:7411"] {
        let (status, head, body) = request("GET", "/", &format!("Host: {host}\r\n"));
        assert!(status == 200 && body.starts_with("<!doctype html>"), "{host}: {status}");
        for line in ["content-security-policy: default-src 'none'; ", "x-content-type-options: nosniff\r\n"] {
            assert!(head.contains(line), "{head}");
        }
    }
    assert!((400..500).contains(&served.send(b"nonsense\r\n\r\n").0));
    compressed_if_asked_for(served);
    refuse(
        ["explore", &served.run, "--host", "0.0.0.0"],
        &["--host: other machines can reach 0.0.0.0", "--allow-remote"],
    );
    let port = served.address.rsplit(':').next().unwrap();
    refuse(
        ["explore", &served.run, "--port", port],
        &["--port: cannot listen at 127.0.0.1", "--port", "such as 0"],
    );
}

/// A client that understands gzip gets it; the content is the same.
fn compressed_if_asked_for(served: &Served) {
    let request = |more: &str| {
        let head = format!("GET /page.js HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n");
        let mut stream = TcpStream::connect(&served.address).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
        (String::from_utf8(answer[..end].to_vec()).unwrap(), answer[end..].to_vec())
    };
    let (head, plain) = request("");
    assert!(!head.contains("content-encoding"), "{head}");
    let (head, body) = request("Accept-Encoding: br, gzip\r\n");
    assert!(
        head.contains("content-encoding: gzip\r\n") && head.contains("transfer-encoding: chunked"),
        "{head}"
    );
    let mut zipped = Vec::new();
    let mut chunks = BufReader::new(&body[..]);
    loop {
        let mut length = String::new();
        chunks.read_line(&mut length).unwrap();
        let length = usize::from_str_radix(length.trim(), 16).unwrap();
        let at = zipped.len();
        zipped.resize(at + length, 0);
        chunks.read_exact(&mut zipped[at..]).unwrap();
        chunks.read_exact(&mut [0; 2]).unwrap();
        if length == 0 {
            break;
        }
    }
    assert!(zipped.len() < plain.len() / 2, "{} of {}", zipped.len(), plain.len());
    let mut unzipped = Vec::new();
    flate2::read::GzDecoder::new(&zipped[..]).read_to_end(&mut unzipped).unwrap();
    assert_eq!(unzipped, plain);
}

fn many_at_once(served: &Served, dataset: &Dataset) {
    // A client that never sends its declared body must not block others.
    let mut slow = TcpStream::connect(&served.address).unwrap();
    slow.write_all(b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n")
        .unwrap();
    let query = |object: usize| json!({ "graph": [[dataset.object_name(object)]], "k": 5 });
    let want: Vec<Value> = (0..8).map(|object| served.search(query(object))).collect();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (want, query) = (&want, &query);
            scope.spawn(move || {
                for turn in 0..8 {
                    let object = (thread + turn) % 8;
                    assert_eq!(served.search(query(object)), want[object]);
                }
            });
        }
    });
}

/// Main use of the page in headless Chromium, by `scripts/explore_page/test.mjs`.
fn the_page_in_a_browser(served: &Served) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/explore_page/test.mjs");
    let Ok(output) = Command::new("node").arg(script).arg(format!("http://{}/", served.address)).output()
    else {
        println!("skipped: there is no node to drive a browser");
        return;
    };
    let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{said}");
    assert!(output.status.success(), "{said}{wrong}");
}

fn ctrl_c_ends_it(mut served: Served) {
    // The client that never sends its body is still connected, like the idle connection of a browser.
    let _idle = TcpStream::connect(&served.address).unwrap();
    #[cfg(unix)]
    {
        use rustix::process::{Pid, kill_process};
        kill_process(Pid::from_child(&served.program), crate::program::ctrl_c()).unwrap();
        let status = served.program.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{status}");
        assert!(TcpStream::connect(&served.address).is_err());
    }
}
