//! Events that a test inserts into the events table itself, as any writer would.

use uuid::Uuid;

/// An event to insert. Its version is the next of its aggregate.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its UUID, made at random.
    pub event_id: Uuid,
    /// `default` unless set.
    pub bounded_context: String,
    /// The kind of aggregate.
    pub aggregate_type: String,
    /// Which aggregate of that kind.
    pub aggregate_id: String,
    /// What happened.
    pub event_type: String,
    /// JSON, `{}` unless set.
    pub payload: String,
    /// RFC 3339, the time of the insertion unless set.
    pub created_at: Option<String>,
}

/// An event of this type, of this aggregate.
#[must_use]
pub fn event(event_type: &str, aggregate_type: &str, aggregate_id: &str) -> Event {
    Event {
        event_id: Uuid::new_v4(),
        bounded_context: "default".to_owned(),
        aggregate_type: aggregate_type.to_owned(),
        aggregate_id: aggregate_id.to_owned(),
        event_type: event_type.to_owned(),
        payload: "{}".to_owned(),
        created_at: None,
    }
}

impl Event {
    /// With this payload.
    #[must_use]
    pub fn payload(self, json: impl ToString) -> Self {
        Self { payload: json.to_string(), ..self }
    }

    /// In this bounded context.
    #[must_use]
    pub fn context(self, bounded_context: &str) -> Self {
        Self { bounded_context: bounded_context.to_owned(), ..self }
    }

    /// Written at this time (RFC 3339, UTC, `2013-01-01T10:15:00.000000Z`).
    #[must_use]
    pub fn at(self, created_at: &str) -> Self {
        Self { created_at: Some(created_at.to_owned()), ..self }
    }
}
