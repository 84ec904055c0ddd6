//! What spans are sent with: a client that waits in place, because spans have a thread of their own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use super::otlp::TracesError;

/// How much of an answer is read. It says which spans were refused, in a line.
const ANSWER: u64 = 1 << 20;

/// Sends requests.
#[derive(Clone, Debug)]
pub(super) struct Client {
    /// Sends, and keeps connections.
    agent: Agent,
    /// Why the last request had no answer, or not the right one.
    why_not: Arc<Mutex<Option<String>>>,
}

impl Client {
    /// For this endpoint. An `https` one is believed when its certificate comes from the authority in this file (named with
    /// the variable that names it), or else from one that the system trusts.
    pub(super) fn new(
        endpoint: &str,
        authority: Option<(String, String)>,
        timeout: Duration,
    ) -> Result<Self, TracesError> {
        // A collector has one address: to follow another would take the spans, and the headers that let them in, who knows where.
        let config = Agent::config_builder().timeout_global(Some(timeout)).http_status_as_error(false).max_redirects(0);
        let mut config = config.max_redirects_will_error(false);
        if endpoint.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:")) {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let roots = RootCerts::new_with_certs(&authorities(authority)?);
            let tls = TlsConfig::builder().unversioned_rustls_crypto_provider(provider).root_certs(roots).build();
            config = config.tls_config(tls);
        }
        Ok(Self { agent: config.build().into(), why_not: Arc::default() })
    }

    /// Why the last request that went wrong did, if none went right since.
    pub(super) fn why_not(&self) -> Option<String> {
        self.why_not.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends, and waits for the answer.
    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ureq::Error> {
        let (head, body) = request.into_parts();
        let answer = self.agent.run(Request::from_parts(head, body.to_vec()))?;
        let (head, mut body) = answer.into_parts();
        let body = body.with_config().limit(ANSWER).read_to_vec()?;
        Ok(Response::from_parts(head, Bytes::from(body)))
    }
}

/// Whose certificates are believed.
fn authorities(file: Option<(String, String)>) -> Result<Vec<Certificate<'static>>, TracesError> {
    let Some((name, path)) = file else {
        let system = rustls_native_certs::load_native_certs().certs;
        return Ok(system.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect());
    };
    let wrong = |reason: String| {
        let advice = "name a file with the certificates of the authorities to believe, in PEM";
        TracesError::new(format!("{name} is {path}: {reason}"), advice)
    };
    let pem = std::fs::read(&path).map_err(|error| wrong(error.to_string()))?;
    let certificates = parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(Ok(certificate)),
        Ok(_) => None,
        Err(error) => Some(Err(wrong(error.to_string()))),
    });
    let certificates = certificates.collect::<Result<Vec<_>, _>>()?;
    if certificates.is_empty() { Err(wrong("it holds no certificate".to_owned())) } else { Ok(certificates) }
}

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.send(request);
        *self.why_not.lock().unwrap_or_else(PoisonError::into_inner) = match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("the answer is {}", answer.status())),
            Err(error) => Some(error.to_string()),
        };
        Ok(answer?)
    }
}
