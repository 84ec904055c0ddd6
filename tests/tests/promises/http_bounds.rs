//! Whoever can connect to a host's HTTP can hold up neither it nor who asks for something in earnest: not with many
//! connections, not with slow ones, not with large ones.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use projectionist_tests::http::Request;
use projectionist_tests::{Host, Kind, Setup, wait_until};
use serde_json::json;

use crate::metrics::HTTP;
use crate::sabotage::{follow, note, noted};

/// A token that is long enough.
const TOKEN: &str = "correct horse battery staple";

/// How many connections a host has at most, as docs/metrics.md says.
const MOST: usize = 256;

/// How many dashboards may be open, as docs/metrics.md says.
const FOLLOWERS: usize = 32;

/// How many files, sockets among them, a host has open.
fn open_files(host: &Host) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", host.pid())).unwrap().count()
}

/// Whether the other end has closed a connection. What it has said is read.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut piece = [0; 4096];
    let closed = loop {
        match stream.read(&mut piece) {
            Ok(0) => break true,
            Ok(_) => {}
            Err(error) => break error.kind() != ErrorKind::WouldBlock,
        }
    };
    stream.set_nonblocking(false).unwrap();
    closed
}

#[test]
fn hundreds_of_silent_connections_keep_nobody_from_asking() {
    let setup = Setup::new(Kind::Sqlite);
    let mut host = follow(&setup, &HTTP);
    setup.insert(&[note("a")]);
    wait_until("it works", || noted(&setup) == 1);
    let address = host.address();
    let before = open_files(&host);
    let (mut silent, mut most) = (Vec::new(), 0);
    for _ in 0..2 * MOST {
        silent.push(TcpStream::connect(&address).unwrap());
        most = most.max(open_files(&host));
    }
    assert_eq!(host.get("/metrics").ask().code, 200, "who asks is answered");
    most = most.max(open_files(&host));
    // A few for files of the databases.
    assert!(most <= before + MOST + 16, "{before} files before, {most} with {} connections", silent.len());
    assert!(is_closed(&mut silent[0]), "who was there first and said nothing has made room");
    setup.insert(&[note("b")]);
    wait_until("events are applied", || noted(&setup) == 2);
    assert!(host.log().contains("many connections over HTTP"), "{}", host.log());
}

#[test]
fn who_speaks_too_slowly_is_cut_off() {
    let setup = Setup::new(Kind::Sqlite);
    drop(setup.file("token", TOKEN));
    let mut host = follow(&setup, &[&HTTP[..], &["--http-token-file", "token"]].concat());
    let address = host.address();
    let mut head = TcpStream::connect(&address).unwrap();
    head.write_all(format!("GET /live HTTP/1.1\r\nHost: {address}\r\nX: ").as_bytes()).unwrap();
    let mut body = TcpStream::connect(&address).unwrap();
    let more = format!("Host: {address}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n");
    body.write_all(format!("POST /api/dead-letters HTTP/1.1\r\n{more}Content-Length: 60000\r\n\r\n").as_bytes())
        .unwrap();
    let mut slow = [head, body];
    wait_until("both are closed", || {
        std::thread::sleep(Duration::from_millis(50));
        slow.iter_mut().all(|stream| stream.write_all(b" ").is_err() || is_closed(stream))
    });
    assert_eq!(host.get("/live").ask().code, 200);
}

#[test]
fn only_so_many_dashboards_are_open_at_a_time() {
    let setup = Setup::new(Kind::Sqlite);
    let mut host = follow(&setup, &HTTP);
    let address = host.address();
    let open = || {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(format!("GET /api/events HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).unwrap();
        let (mut text, mut piece) = (String::new(), [0; 4096]);
        while !text.contains("\r\n") {
            let count = stream.read(&mut piece).unwrap();
            assert!(count > 0, "it was closed: {text:?}");
            text.push_str(&String::from_utf8_lossy(&piece[..count]));
        }
        (text.split(' ').nth(1).unwrap().to_owned(), stream)
    };
    let mut followed: Vec<_> = (0..FOLLOWERS).map(|_| open()).collect();
    assert!(followed.iter().all(|(code, _)| code == "200"), "{followed:?}");
    assert_eq!(open().0, "503");
    assert_eq!(host.get("/metrics").ask().code, 200);
    followed.pop();
    wait_until("another one has room", || open().0 == "200");
}

#[test]
fn a_request_that_is_too_large_is_refused() {
    let setup = Setup::new(Kind::Sqlite);
    drop(setup.file("token", TOKEN));
    let mut host = follow(&setup, &[&HTTP[..], &["--http-token-file", "token"]].concat());
    // Who is refused before all was said may find that out from the connection alone.
    let is_refused = |request: Request, code: u16| request.try_ask().map_or(true, |answer| answer.code == code);
    let large = json!({"projection": "x".repeat(65 << 10)});
    assert!(is_refused(host.post("/api/dead-letters", &large).bearing(TOKEN), 413));
    let head = format!("X: {}", "x".repeat(65 << 10));
    assert!(is_refused(host.get("/live").with(&head), 431));
    assert_eq!(host.get("/live").ask().code, 200);
}
