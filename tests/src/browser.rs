//! A headless Chromium that shows one page, and is asked what is on it, through its DevTools protocol.

use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use tungstenite::{Message, WebSocket};

use crate::wait_for;

/// A page in a browser of its own. Dropped, the browser ends.
#[derive(Debug)]
pub struct Browser {
    /// The browser.
    child: Child,
    /// The line to the page.
    page: WebSocket<TcpStream>,
    /// The number of the last command.
    last: u64,
    /// The browser's profile.
    _profile: TempDir,
}

/// The browser's program.
fn program() -> PathBuf {
    if let Some(named) = std::env::var_os("CHROMIUM") {
        return named.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found =
        names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).find(|file| file.exists());
    found.unwrap_or_else(|| panic!("there is no Chromium: scripts/ensure-chromium says what to install"))
}

impl Browser {
    /// Opens a page.
    ///
    /// # Panics
    /// When there is no browser, or it does not start.
    #[must_use]
    pub fn open(url: &str) -> Self {
        let profile = tempfile::Builder::new().prefix("projectionist-browser-").tempdir().expect("a folder");
        let mut command = Command::new(program());
        command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]);
        command.args(["--disable-extensions", "--disable-background-networking", "--remote-debugging-port=0"]);
        command.arg(format!("--user-data-dir={}", profile.path().display())).arg(url);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("starting Chromium");
        let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut said = String::new();
        let address = loop {
            let mut line = String::new();
            let read = stderr.read_line(&mut line).expect("reading what Chromium says");
            assert!(read > 0, "Chromium has ended:\n{said}");
            said.push_str(&line);
            if let Some(rest) = line.trim().strip_prefix("DevTools listening on ws://") {
                break rest.split('/').next().unwrap_or_default().to_owned();
            }
        };
        // It goes on talking, and must not wait for anybody to listen.
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        let socket = wait_for("the page is there", || {
            let pages = crate::http::Request::to(&address, "/json/list").try_ask().ok()?;
            let pages: Vec<Value> = serde_json::from_str(&pages.body).ok()?;
            let page = pages.into_iter().find(|page| page["type"] == "page")?;
            page["webSocketDebuggerUrl"].as_str().map(str::to_owned)
        });
        let stream = TcpStream::connect(&address).expect("connecting to Chromium");
        let (page, _) = tungstenite::client(socket, stream).expect("talking to the page");
        let mut browser = Self { child, page, last: 0, _profile: profile };
        browser.wait_until("location.protocol === 'http:' && document.readyState === 'complete'");
        browser
    }

    /// Sends a command, and gives its result.
    fn command(&mut self, method: &str, params: &Value) -> Value {
        self.last += 1;
        let command = json!({"id": self.last, "method": method, "params": params}).to_string();
        self.page.send(Message::text(command)).expect("asking the page");
        loop {
            let message = self.page.read().expect("the page's answer");
            let Message::Text(text) = message else { continue };
            let answer: Value = serde_json::from_str(text.as_str()).expect("an answer in JSON");
            if answer["id"] == self.last {
                return answer["result"].clone();
            }
        }
    }

    /// What an expression is on the page.
    ///
    /// # Panics
    /// When it throws.
    #[track_caller]
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let result = self.command("Runtime.evaluate", &params);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {}", result["exceptionDetails"]);
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true on the page.
    ///
    /// # Panics
    /// When it is not in two minutes.
    #[track_caller]
    pub fn wait_until(&mut self, expression: &str) {
        crate::wait_until(expression, || self.evaluate(expression) == true);
    }

    /// The text of the first element that a selector finds; empty when there is none.
    #[must_use]
    #[track_caller]
    pub fn text(&mut self, selector: &str) -> String {
        let found = self.evaluate(&format!("document.querySelector({})?.textContent ?? ''", json!(selector)));
        found.as_str().unwrap_or_default().to_owned()
    }

    /// Shows the page as a device with this screen would, in the dark or not.
    pub fn show_as(&mut self, width: u32, height: u32, dark: &str) {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.command("Emulation.setDeviceMetricsOverride", &metrics);
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": dark}]});
        self.command("Emulation.setEmulatedMedia", &features);
    }

    /// Presses and lets go of a key, as `Tab` or `Enter`.
    pub fn press(&mut self, key: &str) {
        let (code, text) = if key == "Enter" { (13, "\r") } else { (9, "") };
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let event = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text});
            self.command("Input.dispatchKeyEvent", &event);
        }
    }

    /// A picture of the page, as PNG in base64.
    #[must_use]
    pub fn picture(&mut self) -> String {
        let picture = self.command("Page.captureScreenshot", &json!({"format": "png"}));
        picture["data"].as_str().unwrap_or_default().to_owned()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
