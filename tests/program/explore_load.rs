//! `explore` under load: many requests at once, clients that never read, clients that go.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::served::Served;
use serde_json::json;

/// Concurrent connections of the load.
const CONNECTIONS: usize = 32;
/// Connections among them that send requests and never read an answer.
const NEVER_READ: usize = 4;

/// A connection that is kept for many requests.
struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    fn new(address: &str) -> Self {
        let stream = slow_reader(address);
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Client { stream: BufReader::new(stream) }
    }

    /// Sends a request and reads the whole answer; returns its status and the length of its body.
    fn ask(&mut self, request: &str) -> (u16, usize) {
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
        let (mut status, mut length) = (0, 0);
        loop {
            let mut line = String::new();
            assert!(self.stream.read_line(&mut line).unwrap() > 0, "the server closed the connection");
            match line.trim_end().split_once(": ") {
                Some(("content-length", text)) => length = text.parse().unwrap(),
                None if line == "\r\n" => break,
                None => status = line.split(' ').nth(1).unwrap().parse().unwrap(),
                Some(_) => {}
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        (status, length)
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

fn post(body: &str) -> String {
    let head = "POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// Requests with their expected status.
fn requests(served: &Served) -> Vec<(String, u16)> {
    let dataset = served.dataset();
    let name = |object: usize| dataset.object_name(object);
    let search = |object: usize, k: usize| post(&json!({ "graph": [[name(object)]], "k": k }).to_string());
    let image = dataset.image_id(7);
    vec![
        (get("/"), 200),
        (search(0, 12), 200),
        (get("/page.js"), 200),
        (search(1, 100), 200),
        (get("/api/vocabulary"), 200),
        (get(&format!("/api/image/{image}?remove=5&seed=3")), 200),
        (search(2, 3), 200),
        (get("/api/images?caption=a"), 200),
        (get("/api/random"), 200),
        (get("/nothing"), 404),
        (post("{\"graph\": [[\"no such thing\"]]}"), 422),
        (post("{"), 400),
    ]
}

/// A connection with a small buffer for answers, which is soon full if nobody reads them.
fn slow_reader(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    #[cfg(unix)]
    {
        use std::os::fd::AsRawFd;
        let size: libc::c_int = 4096;
        // SAFETY: the descriptor is open, and the option takes a pointer to an int and its size.
        let set = unsafe {
            let (value, length) = ((&raw const size).cast(), size_of::<libc::c_int>() as libc::socklen_t);
            libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, value, length)
        };
        assert_eq!(set, 0);
    }
    stream
}

/// Fills the server's buffers with answers that nobody reads, until it takes no more requests. Returns whether the server
/// still keeps the connection.
fn never_read(stream: &mut TcpStream) -> bool {
    let request = get("/page.js").repeat(50);
    stream.set_nonblocking(true).unwrap();
    loop {
        match stream.write(request.as_bytes()) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}

/// Memory of the server in KiB, resident.
fn memory(served: &Served) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", served.program.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Sends `total` requests from [`CONNECTIONS`] connections. Prints counts, and fails on a wrong answer or if memory grows.
fn load(total: usize) {
    let served = Served::new();
    let requests = requests(&served);
    let (sent, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let warm = total / 5;
    let (mut before, mut closed) = (0, 0);
    std::thread::scope(|scope| {
        let slow: Vec<_> = (0..NEVER_READ)
            .map(|_| {
                let (address, done) = (&served.address, &done);
                scope.spawn(move || {
                    let (mut stream, mut closed) = (slow_reader(address), 0);
                    while !done.load(Ordering::Relaxed) {
                        if !never_read(&mut stream) {
                            closed += 1;
                            stream = TcpStream::connect(address).unwrap();
                        }
                        std::thread::sleep(Duration::from_millis(50));
                    }
                    closed
                })
            })
            .collect();
        let readers: Vec<_> = (0..CONNECTIONS - NEVER_READ)
            .map(|_| {
                let (address, requests, sent) = (&served.address, &requests, &sent);
                scope.spawn(move || {
                    let mut client = Client::new(address);
                    loop {
                        let number = sent.fetch_add(1, Ordering::Relaxed);
                        if number >= total {
                            return;
                        }
                        let (request, expected) = &requests[number % requests.len()];
                        let (status, length) = client.ask(request);
                        assert!(status == *expected && length > 0, "{status} for {request}");
                    }
                })
            })
            .collect();
        while sent.load(Ordering::Relaxed) < warm {
            std::thread::sleep(Duration::from_millis(5));
        }
        before = memory(&served);
        let results: Vec<_> = readers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        closed = slow.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>();
        results.into_iter().for_each(|result| result.unwrap());
    });
    let after = memory(&served);
    println!(
        "{total} requests answered, {NEVER_READ} connections that never read, {closed} times closed by the server; \
         {before} KiB after {warm} requests, {after} KiB at the end"
    );
    // Allocators keep some memory of the busiest moment.
    assert!(after < before + 8 * 1024, "{before} KiB, then {after} KiB");
}

#[cfg(target_os = "linux")]
#[test]
fn a_thousand_requests_from_32_connections() {
    load(1_000);
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "the long form, for .ci/full"]
fn ten_thousand_requests_from_32_connections() {
    load(10_000);
}

/// 128 connections that never read are all that the server allows. Another client waits for the limit on sending, ten
/// seconds, so the test does too.
#[test]
fn clients_that_never_read_do_not_block_others() {
    let served = Served::new();
    let mut slow: Vec<TcpStream> = (0..128).map(|_| slow_reader(&served.address)).collect();
    for _ in 0..3 {
        slow.iter_mut().for_each(|stream| {
            never_read(stream);
        });
        std::thread::sleep(Duration::from_millis(200));
    }
    let began = Instant::now();
    let (status, _) = Client::new(&served.address).ask(&get("/api/random"));
    println!("another client was served after {:?}", began.elapsed());
    assert_eq!(status, 200);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

/// Clients that send a search and go leave no work behind.
#[test]
fn searches_of_clients_that_have_gone_are_left_out() {
    let served = Served::new();
    let search = &requests(&served)[3].0;
    for _ in 0..400 {
        let mut stream = TcpStream::connect(&served.address).unwrap();
        stream.write_all(search.as_bytes()).unwrap();
    }
    let (status, _) = Client::new(&served.address).ask(search);
    assert_eq!(status, 200);
}
