//! Where spans go: what the `OTEL_…` variables say, with the meaning that OpenTelemetry gives them.
//!
//! One departure, so that nothing is sent that nobody asked for: without an endpoint (or `OTEL_TRACES_EXPORTER=otlp`, which
//! means the one of this machine) traces are off. And what cannot be done as it is asked for is an error at the start, where the
//! library would go on with something else: another protocol, an unknown sampler, a file that cannot be read.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, SpanData};

use super::client::Client;

/// How long the end of a process waits for its last spans to be taken, at most: less where it was told to end soon ([`end_by`]).
const LAST_SPANS: Duration = Duration::from_secs(5);

/// When the process is to have ended.
static END: OnceLock<Instant> = OnceLock::new();

/// The process was told to end by then: whoever takes spans and does not answer shall not keep it longer.
pub fn end_by(end: Instant) {
    // The first time counts.
    END.set(end).ok();
}

/// How long one request may take, where nothing is said: what the standard has.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The samplers that there are.
const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

/// What traces of this process are made with; nothing while they are off.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// What makes spans, where they are wanted.
pub(super) fn tracer() -> Option<&'static SdkTracer> {
    TRACER.get()
}

/// Why spans cannot be sent as it is asked for.
#[derive(Debug, thiserror::Error)]
#[error("traces cannot be sent: {message}")]
pub struct TracesError {
    /// What is wrong, and with what.
    message: String,
    /// What to do next.
    advice: String,
}

impl TracesError {
    /// What is wrong, and what to do next.
    pub(super) fn new(message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { message: message.into(), advice: advice.into() }
    }

    /// What to do next.
    #[must_use]
    pub fn advice(&self) -> &str {
        &self.advice
    }
}

/// A variable of the environment that says something.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// What is said of traces, or else of everything, with the name of the variable that says it: `OTEL_EXPORTER_OTLP_TRACES_…`,
/// `OTEL_EXPORTER_OTLP_…`.
fn exporter_variable(what: &str) -> Option<(String, String)> {
    let names = [format!("OTEL_EXPORTER_OTLP_TRACES_{what}"), format!("OTEL_EXPORTER_OTLP_{what}")];
    names.into_iter().find_map(|name| variable(&name).map(|value| (name, value)))
}

/// Whether spans are wanted.
fn are_wanted() -> Result<bool, TracesError> {
    if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(false);
    }
    match variable("OTEL_TRACES_EXPORTER").as_deref() {
        None => Ok(exporter_variable("ENDPOINT").is_some()),
        Some("otlp") => Ok(true),
        Some("none") => Ok(false),
        Some(other) => Err(TracesError::new(format!("OTEL_TRACES_EXPORTER is {other}"), "say otlp or none")),
    }
}

/// Sees that what is asked for is what will be done.
fn check() -> Result<(), TracesError> {
    if let Some((name, protocol)) = exporter_variable("PROTOCOL").filter(|(_, protocol)| protocol != "http/protobuf") {
        let advice =
            "say http/protobuf in OTEL_EXPORTER_OTLP_TRACES_PROTOCOL, and an endpoint that speaks it, mostly port 4318";
        return Err(TracesError::new(format!("{name} is {protocol}"), advice));
    }
    if let Some((name, _)) = exporter_variable("CLIENT_CERTIFICATE").or_else(|| exporter_variable("CLIENT_KEY")) {
        let advice =
            "leave it out: OTEL_EXPORTER_OTLP_HEADERS can tell who this is; or send to a collector of this machine";
        return Err(TracesError::new(format!("{name} is set, and this host shows no certificate of its own"), advice));
    }
    let Some(sampler) = variable("OTEL_TRACES_SAMPLER") else { return Ok(()) };
    if !SAMPLERS.contains(&sampler.as_str()) {
        let advice = format!("it can be {}", SAMPLERS.join(", "));
        return Err(TracesError::new(format!("OTEL_TRACES_SAMPLER is {sampler}"), advice));
    }
    let ratio = variable("OTEL_TRACES_SAMPLER_ARG").unwrap_or_else(|| "1".to_owned());
    if sampler.ends_with("traceidratio") && !ratio.parse().is_ok_and(|ratio: f64| (0.0..=1.0).contains(&ratio)) {
        let message = format!("OTEL_TRACES_SAMPLER_ARG is {ratio}");
        return Err(TracesError::new(message, "say which part of the batches is traced, from 0.0 to 1.0"));
    }
    Ok(())
}

/// How long one request may take.
fn timeout() -> Result<Duration, TracesError> {
    match exporter_variable("TIMEOUT") {
        None => Ok(TIMEOUT),
        Some((name, value)) => match value.parse() {
            Ok(milliseconds) if milliseconds > 0 => Ok(Duration::from_millis(milliseconds)),
            _ => Err(TracesError::new(format!("{name} is {value}"), "say how many milliseconds")),
        },
    }
}

/// Sends the spans of this process for as long as it lives; those that wait at its end have [`LAST_SPANS`] at most.
#[derive(Debug)]
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Begins, if spans are wanted.
    ///
    /// # Errors
    /// When they cannot be sent as it is asked for.
    pub fn start() -> Result<Option<Self>, TracesError> {
        if !are_wanted()? {
            return Ok(None);
        }
        check()?;
        let endpoint = exporter_variable("ENDPOINT").map(|(_, endpoint)| endpoint);
        let authority = exporter_variable("CERTIFICATE");
        let client = Client::new(endpoint.as_deref().unwrap_or_default(), authority, timeout()?)?;
        let exporter = SpanExporter::builder().with_http().with_http_client(client.clone()).build();
        let exporter = exporter.map_err(|error| {
            TracesError::new(
                error.to_string(),
                "say a URL in OTEL_EXPORTER_OTLP_ENDPOINT, such as http://collector:4318",
            )
        })?;
        let mut resource = Resource::builder();
        let named = variable("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|attributes| attributes.contains("service.name="));
        if variable("OTEL_SERVICE_NAME").is_none() && !named {
            resource = resource.with_service_name("projectionist");
        }
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(Told { exporter, client, away: Mutex::default() })
            .with_resource(resource.build())
            .build();
        tracing::info!(endpoint = shown(endpoint.as_deref().unwrap_or("http://localhost:4318")), "spans are sent");
        // Traces are started once a process.
        TRACER.set(provider.tracer("projectionist")).ok();
        Ok(Some(Self(provider)))
    }
}

/// An address without what may be a secret in it: user and password, path and query.
fn shown(endpoint: &str) -> String {
    let (scheme, rest) = endpoint.split_once("://").unwrap_or(("http", endpoint));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}")
}

impl Drop for Traces {
    fn drop(&mut self) {
        let left = END.get().map_or(LAST_SPANS, |end| end.saturating_duration_since(Instant::now()).min(LAST_SPANS));
        tracing::debug!(milliseconds = left.as_millis(), "waiting for the last spans to be taken, for so long at most");
        // What was not taken by then is lost, and that is said where it is sent.
        self.0.shutdown_with_timeout(left).ok();
    }
}

/// Sends spans, and tells when that stops and starts to work: once each, not at every attempt.
#[derive(Debug)]
struct Told {
    /// Sends.
    exporter: SpanExporter,
    /// With which it does, and which knows why it could not.
    client: Client,
    /// How many spans were lost since it worked; nothing while it works.
    away: Mutex<Option<usize>>,
}

impl opentelemetry_sdk::trace::SpanExporter for Told {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.exporter.export(batch).await;
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        match (result, *away) {
            (Ok(()), None) => {}
            (Ok(()), Some(lost)) => {
                tracing::info!(lost, "spans are taken again");
                *away = None;
            }
            (Err(error), lost) => {
                if lost.is_none() {
                    let reason = self.client.why_not().unwrap_or_else(|| error.to_string());
                    tracing::warn!(
                        reason,
                        "spans are not taken: they are lost until they are; events are applied all the same"
                    );
                }
                *away = Some(lost.unwrap_or_default() + spans);
            }
        }
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
