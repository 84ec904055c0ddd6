//! Events made in a test.

use std::fmt;

use serde::Serialize;

use crate::{Event, Timestamp, bindings};

/// An event of this type, of the aggregate `Test` `1` and with the payload `{}` until something else is said.
pub fn event(event_type: impl Into<String>) -> EventBuilder {
    EventBuilder(bindings::Event {
        global_position: 0,
        event_id: String::new(),
        bounded_context: "default".into(),
        aggregate_type: "Test".into(),
        aggregate_id: "1".into(),
        aggregate_version: 0,
        event_type: event_type.into(),
        event_version: 1,
        payload: b"{}".to_vec(),
        metadata: b"{}".to_vec(),
        trace_id: None,
        correlation_id: None,
        causation_id: None,
        created_at: i64::MIN,
    })
}

/// An event in the making. What is not set here, the [`TestHost`](super::TestHost) sets as a store would:
/// positions and versions count up, ids follow from the position, and one event is written each second
/// from 2024-01-01T00:00:00Z on.
#[derive(Clone, Debug)]
#[must_use = "an event happens only when a TestHost applies it"]
pub struct EventBuilder(bindings::Event);

/// Setters of one field each.
macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty => $field:ident = $value:expr;)*) => {
        impl EventBuilder {$(
            $(#[$doc])*
            pub fn $name(mut self, $name: $type) -> Self {
                self.0.$field = $value;
                self
            }
        )*}
    };
}

setters! {
    /// The payload's schema version; 1 otherwise.
    event_version: u32 => event_version = event_version;
    /// Where the event stands in the log; the next position otherwise.
    position: u64 => global_position = position;
    /// Its number within the aggregate; the next one otherwise.
    aggregate_version: u64 => aggregate_version = aggregate_version;
    /// Its UUID; one that follows from the position otherwise.
    event_id: impl Into<String> => event_id = event_id.into();
    /// Its bounded context; `default` otherwise.
    bounded_context: impl Into<String> => bounded_context = bounded_context.into();
    /// The payload as bytes, for payloads that are not JSON.
    payload_bytes: impl Into<Vec<u8>> => payload = payload_bytes.into();
    /// The trace it was written in; none otherwise.
    trace_id: impl Into<String> => trace_id = Some(trace_id.into());
    /// What it belongs to; nothing otherwise.
    correlation_id: impl Into<String> => correlation_id = Some(correlation_id.into());
    /// What made it happen; nothing otherwise.
    causation_id: impl Into<String> => causation_id = Some(causation_id.into());
}

impl EventBuilder {
    /// Whose event it is; `Test` `1` otherwise.
    pub fn aggregate(mut self, aggregate_type: impl Into<String>, id: impl Into<String>) -> Self {
        self.0.aggregate_type = aggregate_type.into();
        self.0.aggregate_id = id.into();
        self
    }

    /// The payload, as JSON; `{}` otherwise.
    ///
    /// # Panics
    ///
    /// When it does not serialise.
    pub fn payload(mut self, payload: impl Serialize) -> Self {
        self.0.payload = serde_json::to_vec(&payload).expect("a payload that serialises");
        self
    }

    /// The metadata, as JSON; `{}` otherwise.
    ///
    /// # Panics
    ///
    /// When it does not serialise.
    pub fn metadata(mut self, metadata: impl Serialize) -> Self {
        self.0.metadata = serde_json::to_vec(&metadata).expect("metadata that serialises");
        self
    }

    /// When it was written, such as `2013-01-01T10:15:00Z` or a [`Timestamp`].
    ///
    /// # Panics
    ///
    /// For what is no timestamp.
    #[track_caller]
    pub fn created_at(mut self, created_at: impl fmt::Display) -> Self {
        let moment: Timestamp = created_at.to_string().parse().expect("a timestamp");
        self.0.created_at = moment.as_micros();
        self
    }

    /// The type and id of its aggregate, and its version where one is set.
    pub(super) fn aggregate_key(&self) -> (String, String, String) {
        let event = &self.0;
        (event.bounded_context.clone(), event.aggregate_type.clone(), event.aggregate_id.clone())
    }

    /// The event as stored, given what a store would fill in.
    pub(super) fn stored(self, next_position: u64, next_version: u64) -> Event {
        /// 2024-01-01T00:00:00Z, in seconds.
        const FIRST: i64 = 1_704_067_200;
        let mut event = self.0;
        if event.global_position == 0 {
            event.global_position = next_position;
        }
        if event.aggregate_version == 0 {
            event.aggregate_version = next_version;
        }
        if event.event_id.is_empty() {
            event.event_id = format!("00000000-0000-4000-8000-{:012x}", event.global_position);
        }
        if event.created_at == i64::MIN {
            let seconds = i64::try_from(event.global_position).map_or(FIRST, |n| FIRST + n - 1);
            event.created_at = seconds.saturating_mul(1_000_000);
        }
        Event::new(event)
    }
}

impl From<EventBuilder> for Event {
    /// The first event of a log.
    fn from(builder: EventBuilder) -> Self {
        builder.stored(1, 1)
    }
}
