//! The spans of a batch: `batch`, and in it `read`, `guest`, `sql` and `commit`.
//!
//! The guest and its statements take turns, as often as it likes. Their spans reach from the first turn to the last, and the
//! attribute `projectionist.busy_seconds` says how much of that was theirs.
//!
//! A batch is linked to the traces in which its events were written, as far as their `trace_id` names one: 32 hexadecimal digits
//! (also with the hyphens of a UUID), or a whole `traceparent`, which names the span as well.

use std::time::{Duration, Instant, SystemTime};

use fnv::FnvHashSet;
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId,
    TraceState, Tracer as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{SdkTracer, Span};

use super::otlp;
use crate::event::{Event, Position};

/// How many traces a batch is linked to at most: what the standard has for the links of a span.
const LINKS: usize = 128;

/// How many characters of an error a span keeps.
const ERROR: usize = 1_024;

/// From when to when.
#[derive(Clone, Copy, Debug)]
pub struct Interval {
    /// From when.
    pub from: Instant,
    /// To when.
    pub to: Instant,
}

/// What became of a batch, with the times that were taken.
#[derive(Debug)]
pub struct Done<'batch> {
    /// When its events were read, if they were read for it.
    pub read: Option<Interval>,
    /// When its transaction began.
    pub began: Instant,
    /// The first statement's begin to the last one's end, and how much of it was spent in the database.
    pub sql: Option<(Interval, Duration)>,
    /// When the commit was asked for, if it came to that.
    pub asked: Option<Instant>,
    /// When it was over.
    pub ended: Instant,
    /// Whether each event had its savepoint.
    pub path: Path,
    /// How far it was to go.
    pub to: Position,
    /// How many events were committed.
    pub applied: u64,
    /// What went wrong.
    pub error: Option<&'batch dyn std::error::Error>,
}

/// How a batch is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// All at once.
    Fast,
    /// Event by event.
    Careful,
}

/// Makes the spans of a worker's batches.
#[derive(Clone, Debug)]
pub struct Spans {
    /// With this.
    tracer: &'static SdkTracer,
    /// Whose they are.
    of: [KeyValue; 2],
}

/// Instants as the clock on the wall has them.
struct Clock(SystemTime, Instant);

impl Clock {
    /// What time that was.
    fn at(&self, instant: Instant) -> SystemTime {
        self.0 - self.1.saturating_duration_since(instant)
    }
}

impl Spans {
    /// Of a partition; nothing where traces are off.
    #[must_use]
    pub fn of(projection: &str, partition: &str) -> Option<Self> {
        let of = [
            KeyValue::new("projectionist.projection", projection.to_owned()),
            KeyValue::new("projectionist.partition", partition.to_owned()),
        ];
        Some(Self { tracer: otlp::tracer()?, of })
    }

    /// A batch is done.
    pub fn done<'event>(&self, events: impl ExactSizeIterator<Item = &'event Event>, done: &Done<'_>) {
        let clock = Clock(SystemTime::now(), Instant::now());
        let (of, count) = (self.of.iter().cloned(), i64::try_from(events.len()).unwrap_or(i64::MAX));
        let attributes = of.chain([
            KeyValue::new("projectionist.events", count),
            KeyValue::new("projectionist.events_applied", i64::try_from(done.applied).unwrap_or(i64::MAX)),
            KeyValue::new("projectionist.position", done.to.get().cast_signed()),
            KeyValue::new("projectionist.path", if done.path == Path::Fast { "fast" } else { "careful" }),
        ]);
        let begins = done.read.map_or(done.began, |read| read.from);
        let span = SpanBuilder::from_name("batch")
            .with_kind(SpanKind::Consumer)
            .with_start_time(clock.at(begins))
            .with_attributes(attributes);
        let mut span = self.tracer.build_with_context(span, &Context::new());
        if !span.is_recording() {
            return;
        }
        link(&mut span, events);
        if let Some(error) = done.error {
            let error: String = error.to_string().chars().take(ERROR).collect();
            span.set_status(Status::error(error));
        }
        let inside = Context::new().with_remote_span_context(span.span_context().clone());
        let child = |name, interval: Interval, busy: Option<Duration>| {
            let busy = busy.map(|busy| KeyValue::new("projectionist.busy_seconds", busy.as_secs_f64()));
            let child = SpanBuilder::from_name(name)
                .with_kind(SpanKind::Internal)
                .with_start_time(clock.at(interval.from))
                .with_attributes(busy);
            self.tracer.build_with_context(child, &inside).end_with_timestamp(clock.at(interval.to));
        };
        if let Some(read) = done.read {
            child("read", read, None);
        }
        let guest = Interval { from: done.began, to: done.asked.unwrap_or(done.ended) };
        let in_sql = done.sql.map_or(Duration::ZERO, |(_, busy)| busy);
        child("guest", guest, Some((guest.to - guest.from).saturating_sub(in_sql)));
        if let Some((sql, busy)) = done.sql {
            child("sql", sql, Some(busy));
        }
        if let Some(asked) = done.asked {
            child("commit", Interval { from: asked, to: done.ended }, None);
        }
        span.end_with_timestamp(clock.at(done.ended));
    }
}

/// Links a batch to the traces of its events.
fn link<'event>(span: &mut Span, events: impl Iterator<Item = &'event Event>) {
    let mut known = FnvHashSet::default();
    for event in events {
        let Some(id) = &event.trace_id else { continue };
        if known.insert(id.as_str())
            && let Some(context) = context_of(id)
        {
            let position = KeyValue::new("projectionist.position", event.global_position.cast_signed());
            span.add_link(context, vec![position]);
        }
        if known.len() == LINKS {
            return;
        }
    }
}

/// What a `trace_id` names, if it is one of OpenTelemetry's.
fn context_of(id: &str) -> Option<SpanContext> {
    let in_hex = |text: &str, digits| text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let parts: Vec<_> = id.splitn(5, '-').collect();
    let (trace, span, flags) = match parts[..] {
        // A traceparent of this version, or of a later one, which may have more behind.
        [version, trace, span, flags, ..] if version.len() == 2 && trace.len() == 32 => {
            let whole = in_hex(version, 2) && in_hex(span, 16) && in_hex(flags, 2);
            (trace.to_owned(), SpanId::from_hex(span).ok().filter(|_| whole)?, u8::from_str_radix(flags, 16).ok()?)
        }
        _ => (id.replace('-', ""), SpanId::INVALID, 0),
    };
    let trace = in_hex(&trace, 32).then(|| TraceId::from_hex(&trace).ok()).flatten()?;
    let flags = TraceFlags::new(flags);
    (trace != TraceId::INVALID).then(|| SpanContext::new(trace, span, flags, true, TraceState::NONE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_named_in_hexadecimal_or_by_a_traceparent() {
        let named =
            |id: &str| context_of(id).map(|context| (context.trace_id().to_string(), context.span_id().to_string()));
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let whole = Some((trace.to_owned(), span.to_owned()));
        assert_eq!(named(&format!("00-{trace}-{span}-01")), whole);
        assert_eq!(named(&format!("cc-{trace}-{span}-01-more")), whole);
        let alone = Some((trace.to_owned(), "0000000000000000".to_owned()));
        assert_eq!(named(trace), alone);
        assert_eq!(named("0af76519-16cd-43dd-8448-eb211c80319c"), alone);
        for other in
            ["", "order-17", "0", &"0".repeat(32), &"g".repeat(32), &format!("00-{trace}-{}-01", "x".repeat(16))]
        {
            assert_eq!(named(other), None, "{other:?}");
        }
    }
}
