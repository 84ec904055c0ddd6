//! Asking a host over HTTP, as `curl` would.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::Host;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub code: u16,
    /// The head, as it came.
    pub head: String,
    /// What it says.
    pub body: String,
}

impl Answer {
    /// Its body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The value of a metric whose line holds all of these texts; nothing when there is no such line.
    ///
    /// # Panics
    /// When there are several.
    #[must_use]
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let is_it = |line: &&str| {
            let of = line.strip_prefix(name);
            of.is_some_and(|rest| rest.starts_with(['{', ' ']) && labels.iter().all(|label| rest.contains(label)))
        };
        let mut lines = self.body.lines().filter(is_it);
        let line = lines.next()?;
        assert_eq!(lines.next(), None, "{name} {labels:?} is no single metric");
        line.rsplit(' ').next()?.parse().ok()
    }
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where to.
    address: String,
    /// The line that names what is asked for.
    line: String,
    /// More lines of its head.
    head: Vec<String>,
    /// What it says.
    body: String,
}

impl Host {
    /// Where it serves, once it does (`--http 127.0.0.1:0`).
    #[must_use]
    #[track_caller]
    pub fn address(&mut self) -> String {
        self.wait_for_log("over HTTP");
        let log = self.log();
        let line = log.lines().find(|line| line.contains("over HTTP")).expect("the line");
        let after = line.split("address=").nth(1).unwrap_or_else(|| panic!("no address in {line:?}"));
        after.split_whitespace().next().expect("an address").to_owned()
    }

    /// A request for a path.
    #[must_use]
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Request {
        Request { address: self.address(), line: format!("GET {path}"), head: vec![], body: String::new() }
    }

    /// A request that asks for something to be done.
    #[must_use]
    #[track_caller]
    pub fn post(&mut self, path: &str, body: &serde_json::Value) -> Request {
        let head = vec!["Content-Type: application/json".to_owned()];
        Request { address: self.address(), line: format!("POST {path}"), head, body: body.to_string() }
    }
}

impl Request {
    /// A request to any server, for a path.
    #[must_use]
    pub fn to(address: &str, path: &str) -> Self {
        Self { address: address.to_owned(), line: format!("GET {path}"), head: vec![], body: String::new() }
    }

    /// With this token.
    #[must_use]
    pub fn bearing(mut self, token: &str) -> Self {
        self.head.push(format!("Authorization: Bearer {token}"));
        self
    }

    /// With this line in its head; a `Host` takes the place of the usual one.
    #[must_use]
    pub fn with(mut self, line: &str) -> Self {
        self.head.push(line.to_owned());
        self
    }

    /// Asks.
    ///
    /// # Panics
    /// When nobody answers.
    #[must_use]
    #[track_caller]
    pub fn ask(&self) -> Answer {
        self.try_ask().unwrap_or_else(|error| panic!("{} at {}: {error}", self.line, self.address))
    }

    /// As [`Request::ask`], where perhaps nobody answers.
    ///
    /// # Errors
    /// When nobody does.
    pub fn try_ask(&self) -> std::io::Result<Answer> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut text = format!("{} HTTP/1.1\r\nConnection: close\r\n", self.line);
        if !self.head.iter().any(|line| line.starts_with("Host:")) {
            text.push_str(&format!("Host: {}\r\n", self.address));
        }
        for line in &self.head {
            text.push_str(&format!("{line}\r\n"));
        }
        text.push_str(&format!("Content-Length: {}\r\n\r\n{}", self.body.len(), self.body));
        stream.write_all(text.as_bytes())?;
        let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
        // Some servers say how much there is, and leave the connection open.
        while !is_whole(&answer) {
            match stream.read(&mut piece)? {
                0 => break,
                count => answer.extend_from_slice(&piece[..count]),
            }
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let code = code.ok_or_else(|| std::io::Error::other(format!("no answer of HTTP: {answer:?}")))?;
        Ok(Answer { code, head: head.to_owned(), body: body.to_owned() })
    }
}

/// Whether an answer has all that its head announces.
fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, _)) = text.split_once("\r\n\r\n") else { return false };
    let announced = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    announced.is_some_and(|length| answer.len() >= head.len() + 4 + length)
}
