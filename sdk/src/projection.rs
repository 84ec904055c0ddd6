//! The trait that a projection implements.

use crate::{Event, Failure, Transaction};

/// A projection: which events it wants, which tables it has, and what an event changes in them.
///
/// The host makes one instance with [`Default`], calls [`configure`](Self::configure) before anything else,
/// and goes on with the same instance from batch to batch. **Memory rolls back with the transaction**: when
/// a batch fails, the instance is dropped with it, and a new one starts again from `Default`. So a field may
/// hold what [`handle`](Self::handle) folded for [`flush`](Self::flush) to write, or a cache; it must never
/// be the only place where something is kept.
///
/// A projection should be deterministic: the same events must make the same tables, because a rebuild
/// replays them. There is no clock here for that reason; use [`Event::created_at`].
pub trait Projection: Default + 'static {
    /// Its name, `[a-z_][a-z0-9_]{0,47}`. It becomes the schema, or the file, with its tables.
    fn name() -> &'static str;

    /// The version of its tables; 1 unless said otherwise. Raise it when [`migrate`](Self::migrate) learns
    /// a new step.
    fn version() -> u32 {
        1
    }

    /// The event types it wants; empty (the default) for all. The host's database leaves out the others
    /// before they are read.
    fn event_types() -> &'static [&'static str] {
        &[]
    }

    /// The aggregate types it wants; empty (the default) for all.
    fn aggregate_types() -> &'static [&'static str] {
        &[]
    }

    /// The bounded contexts it wants; empty (the default) for all.
    fn bounded_contexts() -> &'static [&'static str] {
        &[]
    }

    /// Reads its settings with [`config`](crate::config). Called once on each new instance, before anything
    /// else, and once when the host loads the component. Does nothing unless overridden.
    ///
    /// # Errors
    ///
    /// A failure says that the settings are wrong: the host then refuses to load the component.
    fn configure(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// Brings the tables from `from_version` (0: there are none) to [`version`](Self::version). The one
    /// place where tables, indexes and views may be created, altered and dropped. Does nothing unless
    /// overridden.
    ///
    /// # Errors
    ///
    /// Any failure: nothing of the migration is kept, and the projection does not start.
    fn migrate(&mut self, tx: &Transaction<'_>, from_version: u32) -> Result<(), Failure> {
        let _ = (tx, from_version);
        Ok(())
    }

    /// Applies one event. All events of one aggregate arrive in order.
    ///
    /// # Errors
    ///
    /// [`Failure::Transient`] is tried again, [`Failure::Permanent`] is left to the operator's policy;
    /// either way nothing of the event is kept.
    fn handle(&mut self, tx: &Transaction<'_>, event: &Event) -> Result<(), Failure>;

    /// Ends a batch, right before the commit: writes what [`handle`](Self::handle) has folded in memory.
    /// Does nothing unless overridden.
    ///
    /// # Errors
    ///
    /// As for [`handle`](Self::handle); the whole batch is rolled back.
    fn flush(&mut self, tx: &Transaction<'_>) -> Result<(), Failure> {
        let _ = tx;
        Ok(())
    }
}
