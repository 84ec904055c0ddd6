//! Somebody who receives spans as OTLP over HTTP has it, and decodes what comes.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::tls::Identity;

/// What it does with a request.
#[derive(Clone, Debug)]
pub(super) enum Manner {
    /// Takes it.
    Takes,
    /// Never answers.
    Silent,
    /// Takes it over TLS.
    Encrypted(Arc<rustls::ServerConfig>),
}

/// A request that came.
#[derive(Clone, Debug)]
pub(super) struct Received {
    /// Its head, in small letters.
    pub(super) head: String,
    /// What it says.
    pub(super) body: ExportTraceServiceRequest,
}

/// Receives until the process ends.
#[derive(Clone, Debug)]
pub(super) struct Receiver {
    /// At this port.
    pub(super) port: u16,
    /// What came.
    received: Arc<Mutex<Vec<Received>>>,
}

impl Receiver {
    /// At some port.
    pub(super) fn new(manner: Manner) -> Self {
        Self::at(0, manner)
    }

    /// At this port.
    pub(super) fn at(port: u16, manner: Manner) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let receiver = Self { port, received: Arc::default() };
        let receives = receiver.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, receives, manner) = (stream.expect("a connection"), receives.clone(), manner.clone());
                std::thread::spawn(move || receives.serve(stream, &manner));
            }
        });
        receiver
    }

    /// With TLS, as this host.
    pub(super) fn encrypted(identity: &Identity) -> Self {
        let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("a certificate with its key");
        Self::new(Manner::Encrypted(Arc::new(config)))
    }

    /// Where spans are to be sent.
    pub(super) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What has come so far.
    pub(super) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The spans that have come so far.
    pub(super) fn spans(&self) -> Vec<Span> {
        let resources = self.received().into_iter().flat_map(|received| received.body.resource_spans);
        resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
    }

    /// One connection. Whoever sends ends it as it likes.
    fn serve(&self, mut stream: TcpStream, manner: &Manner) {
        match manner {
            Manner::Takes | Manner::Silent => while self.answer(&mut stream, manner).is_some() {},
            Manner::Encrypted(config) => {
                let Ok(connection) = rustls::ServerConnection::new(Arc::clone(config)) else { return };
                let mut stream = rustls::StreamOwned::new(connection, stream);
                while self.answer(&mut stream, manner).is_some() {}
            }
        }
    }

    /// One request.
    fn answer(&self, stream: &mut (impl Read + Write), manner: &Manner) -> Option<()> {
        let (mut text, mut piece) = (Vec::new(), [0; 4096]);
        let (head, body) = loop {
            let count = stream.read(&mut piece).ok().filter(|count| *count > 0)?;
            text.extend_from_slice(&piece[..count]);
            let Some(end) = text.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&text[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            let body = &text[end + 4..];
            if body.len() == length.unwrap_or(0_usize) {
                break (head, body.to_vec());
            }
        };
        let body = ExportTraceServiceRequest::decode(&body[..]).expect("spans, as OTLP has them");
        self.received.lock().unwrap_or_else(PoisonError::into_inner).push(Received { head, body });
        if matches!(manner, Manner::Silent) {
            // Until whoever sends has had enough.
            while stream.read(&mut piece).is_ok_and(|count| count > 0) {}
            return None;
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n")
            .ok()?;
        stream.flush().ok()
    }
}

/// An attribute, as text.
pub(super) fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    Some(match found.value.clone()?.value? {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        other => panic!("{key} is {other:?}"),
    })
}

/// Bytes in hexadecimal, as ids are written.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
