//! A small run that `explore` serves in tests.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use scenerank::data::Dataset;
use serde_json::Value;
use tempfile::TempDir;

use crate::program::{SMALL_NETWORK, run, small_data};

/// A served run; the server stops when this is dropped.
pub struct Served {
    pub folder: TempDir,
    pub run: String,
    pub address: String,
    pub program: Child,
}

impl Served {
    pub fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let data = small_data(folder.path(), 3);
        let run_folder = folder.path().join("run").display().to_string();
        let data = data.display().to_string();
        run([
            &["train", &data, "--out", &run_folder, "--epochs", "1", "--device", "cpu"][..],
            &SMALL_NETWORK[..],
        ]
        .concat());
        let mut program = Command::new(assert_cmd::cargo::cargo_bin("scenerank"))
            .args(["explore", &run_folder, "--port", "0", "--split", "all", "--device", "cpu"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(program.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("http://").and_then(|rest| rest.strip_suffix('/'));
        let address = address.unwrap_or_else(|| panic!("{line:?} is no address")).to_string();
        Served { folder, run: run_folder, address, program }
    }

    pub fn dataset(&self) -> Dataset {
        Dataset::open(self.folder.path().join("data3")).unwrap()
    }

    /// Sends `request` unchanged; returns the status, header and body of the response.
    pub fn send(&self, request: &[u8]) -> (u16, String, Vec<u8>) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(request).unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "the head ends early: {head:?}");
        }
        let field = |name: &str| {
            head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_string))
        };
        let length = field("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), head, body)
    }

    pub fn get(&self, path: &str) -> (u16, Value) {
        let (status, _, body) =
            self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    pub fn post(&self, body: &str) -> (u16, Value) {
        let head = "POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n";
        let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        let (status, _, body) = self.send(request.as_bytes());
        (status, serde_json::from_slice(&body).unwrap())
    }

    pub fn search(&self, query: Value) -> Value {
        let (status, answer) = self.post(&query.to_string());
        assert_eq!(status, 200, "{answer}");
        answer
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}
