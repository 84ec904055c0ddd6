//! One running instance of a projection, and its calls.
//!
//! An instance belongs to one worker and one unit of work. It is dropped whenever the transaction rolls back, so
//! that what it has folded in memory for events that did not commit is gone with them.

use std::borrow::Cow;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use wasmtime::component::{ComponentType, Lift, Resource, TypedFunc};
use wasmtime::{Store, UpdateDeadline};

use super::descriptor::Descriptor;
use super::engine::TICK;
use super::growth::Growth;
use super::imports::{Guest, Transaction, cut};
use super::limits::{Limits, Refused, Resources, Size};
use super::load::Plugin;
use super::redaction::Unsearchable;
use super::wasi::{self, Call, Wasi};
use crate::event::{Event, Position};
use crate::read_model::unit_of_work::UnitOfWork;

/// The WIT variant `failure`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, ComponentType, Lift)]
#[component(variant)]
pub enum Failure {
    /// May pass by itself.
    #[component(name = "transient")]
    #[error("{0}")]
    Transient(String),
    /// Will happen again.
    #[component(name = "permanent")]
    #[error("{0}")]
    Permanent(String),
}

impl Failure {
    /// With no more text than a log line may have: what a projection says of a failure is logged, and kept with a dead
    /// letter.
    fn cut(self, limits: &Limits) -> Self {
        match self {
            Self::Transient(text) => Self::Transient(cut(&text, limits.log_line).to_owned()),
            Self::Permanent(text) => Self::Permanent(cut(&text, limits.log_line).to_owned()),
        }
    }
}

/// Why a call did not do its work. The instance is not called again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// It said so.
    #[error("the projection failed: {0}")]
    Failure(Failure),
    /// It computed for too long.
    #[error("the projection ran longer than {0:?} and was stopped")]
    Deadline(Duration),
    /// It wanted more memory than it may have.
    #[error("the projection wanted more than its {} of memory, and stopped: {reason}", Size(*allowed))]
    Memory {
        /// Bytes it may have.
        allowed: usize,
        /// The trap that followed.
        reason: String,
    },
    /// It wanted more elements in its tables than it may have.
    #[error("the projection wanted more than its {allowed} table elements, and stopped: {reason}")]
    TableElements {
        /// How many it may have.
        allowed: usize,
        /// The trap that followed.
        reason: String,
    },
    /// It is made of more memories, tables or core instances than it may have.
    #[error("the component is made of more parts than it may have: {0}")]
    Parts(String),
    /// It passed more to the host than it may.
    #[error("the projection passed more than {} to the host in one call (--max-call-data)", Size(*.0))]
    CallData(usize),
    /// The event is larger than what may be passed to it.
    #[error("the event has {size} bytes, and a projection is shown {allowed} at most (--max-event-size)")]
    EventTooLarge {
        /// Bytes of all its fields.
        size: usize,
        /// Bytes it may have.
        allowed: usize,
    },
    /// The event holds what it may not see, in a form from which that cannot be taken out.
    #[error(transparent)]
    Redaction(#[from] Unsearchable),
    /// It trapped.
    #[error("the projection trapped: {0}")]
    Trap(String),
}

/// Why a component is not fit to run.
#[derive(Debug)]
pub(super) enum Unfit {
    /// An export has another type than the world's.
    Types(wasmtime::Error),
    /// It does not start.
    Start(CallError),
}

/// Interrupts a guest that runs too long; told from other traps by its type.
#[derive(Debug, thiserror::Error)]
#[error("the call ran too long")]
struct Overrun;

/// What every call but `describe` answers.
type Answer = (Result<(), Failure>,);

/// A running instance.
pub struct Instance {
    /// Its memory, and what the host knows of it.
    store: Store<Guest>,
    /// How much of that it has taken since it was made.
    growth: Growth,
    /// `handle`. The lifetime stands for any: an event is only read during the call.
    handle: TypedFunc<(Resource<Transaction>, &'static Event), Answer>,
    /// `flush`
    flush: TypedFunc<(Resource<Transaction>,), Answer>,
    /// `migrate`
    migrate: TypedFunc<(Resource<Transaction>, u32), Answer>,
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance").field("position", &self.store.data().position).finish_non_exhaustive()
    }
}

impl Instance {
    /// A fresh instance that works in `work`.
    ///
    /// # Errors
    /// When it does not fit its limits from the start, or traps in its start function.
    pub fn new(plugin: &Plugin, work: Arc<Mutex<UnitOfWork>>) -> Result<Self, CallError> {
        let mut store = store(plugin, Some(work));
        let made = plugin.pre.instantiate(&mut store).and_then(|instance| {
            let handle = instance.get_typed_func(&mut store, "handle")?;
            let flush = instance.get_typed_func(&mut store, "flush")?;
            let migrate = instance.get_typed_func(&mut store, "migrate")?;
            Ok((handle, flush, migrate))
        });
        match made {
            Ok((handle, flush, migrate)) => {
                let growth = Growth::from(store.data().resources.memory());
                Ok(Self { store, growth, handle, flush, migrate })
            }
            Err(error) => Err(explain(&store, &error)),
        }
    }

    /// Asks what the projection is, without a database.
    pub(super) fn describe(plugin: &Plugin) -> Result<Descriptor, CallError> {
        let mut store = store(plugin, None);
        let described = plugin.pre.instantiate(&mut store).and_then(|instance| {
            let describe = instance.get_typed_func::<(), (Descriptor,)>(&mut store, "describe")?;
            describe.call(&mut store, ())
        });
        store.data_mut().end_lines();
        match described {
            Ok((descriptor,)) => Ok(descriptor),
            Err(error) => Err(explain(&store, &error)),
        }
    }

    /// Sees that it can be instantiated within its limits, and that every export has the type of the world.
    pub(super) fn check(plugin: &Plugin) -> Result<(), Unfit> {
        let mut store = store(plugin, None);
        let instance = match plugin.pre.instantiate(&mut store) {
            Ok(instance) => instance,
            Err(error) => return Err(Unfit::Start(explain(&store, &error))),
        };
        let wrong = |name: &'static str| {
            move |error: wasmtime::Error| Unfit::Types(error.context(format!("its export `{name}`")))
        };
        instance.get_typed_func::<(), (Descriptor,)>(&mut store, "describe").map_err(wrong("describe"))?;
        instance
            .get_typed_func::<(Resource<Transaction>, u32), Answer>(&mut store, "migrate")
            .map_err(wrong("migrate"))?;
        instance
            .get_typed_func::<(Resource<Transaction>, &'static Event), Answer>(&mut store, "handle")
            .map_err(wrong("handle"))?;
        instance.get_typed_func::<(Resource<Transaction>,), Answer>(&mut store, "flush").map_err(wrong("flush"))?;
        Ok(())
    }

    /// Brings the projection's tables up from a version.
    ///
    /// # Errors
    /// When it fails; then the instance is of no more use.
    pub fn migrate(&mut self, from: u32) -> Result<(), CallError> {
        self.begin(Position::START);
        self.in_wasi(|wasi| wasi.begin(Call::Migrate, Position::START));
        let answer = self.migrate.call(&mut self.store, (transaction(), from));
        self.end(answer)
    }

    /// Applies an event. This is the one way that an event has into a guest, from the log and from a replay alike, so
    /// here it becomes what the projection may see.
    ///
    /// # Errors
    /// When it fails; then the instance is of no more use.
    pub fn handle(&mut self, event: &Event) -> Result<(), CallError> {
        let seen = match &self.store.data().redaction {
            None => Cow::Borrowed(event),
            Some(redaction) => redaction.apply(event)?,
        };
        let event = &*seen;
        let (size, allowed) = (size(event), self.store.data().limits.event);
        if size > allowed {
            return Err(CallError::EventTooLarge { size, allowed });
        }
        self.begin(event.position());
        self.in_wasi(|wasi| wasi.begin_event(event));
        // A shorter lifetime than 'static: the function only reads the event while it runs.
        let handle: TypedFunc<(Resource<Transaction>, &Event), Answer> = self.handle;
        let answer = handle.call(&mut self.store, (transaction(), event));
        self.end(answer)
    }

    /// Ends a batch.
    ///
    /// # Errors
    /// When it fails; then the instance is of no more use.
    pub fn flush(&mut self) -> Result<(), CallError> {
        let position = self.store.data().position;
        self.begin(position);
        self.in_wasi(|wasi| wasi.begin(Call::Flush, position));
        let answer = self.flush.call(&mut self.store, (transaction(),));
        self.end(answer)
    }

    /// Bytes of memory it has.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.store.data().resources.memory()
    }

    /// A batch is committed. Says whether the instance has had memory for long enough, and is to be dropped.
    #[must_use]
    pub fn has_had_enough(&mut self) -> bool {
        let guest = self.store.data();
        self.growth.has_had_enough(guest.resources.memory(), guest.limits.memory)
    }

    /// Whether it has taken memory since it was made.
    #[must_use]
    pub fn has_grown(&self) -> bool {
        self.growth.has_grown(self.store.data().resources.memory())
    }

    /// Does something with its virtual WASI, if it has one.
    fn in_wasi(&mut self, change: impl FnOnce(&mut Wasi)) {
        if let Some(wasi) = &mut self.store.data_mut().wasi {
            change(wasi);
        }
    }

    /// Starts the clock of a call.
    fn begin(&mut self, position: Position) {
        let guest = self.store.data_mut();
        guest.position = position;
        guest.began = None;
        guest.waited = Duration::ZERO;
        if let Some(work) = &guest.work {
            // What was waited for before this call is not its own.
            work.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take_waited();
        }
        let ticks = ticks(guest.limits.call);
        self.store.set_epoch_deadline(ticks);
    }

    /// Sorts how a call ended.
    fn end(&mut self, answer: wasmtime::Result<Answer>) -> Result<(), CallError> {
        self.store.data_mut().end_lines();
        match answer {
            Ok((Ok(()),)) => Ok(()),
            Ok((Err(failure),)) => Err(CallError::Failure(failure.cut(&self.store.data().limits))),
            Err(error) => Err(explain(&self.store, &error)),
        }
    }
}

/// The transaction, lent for one call. Which one it is, is the guest's state.
fn transaction() -> Resource<Transaction> {
    Resource::new_borrow(0)
}

/// Bytes of an event, all its fields together.
fn size(event: &Event) -> usize {
    let optional = [&event.trace_id, &event.correlation_id, &event.causation_id];
    let texts =
        [&event.event_id, &event.bounded_context, &event.aggregate_type, &event.aggregate_id, &event.event_type];
    let bytes = event.payload.len() + event.metadata.len() + texts.into_iter().map(String::len).sum::<usize>();
    // Four numbers of 8 bytes and one of 4.
    bytes + optional.into_iter().flatten().map(String::len).sum::<usize>() + 36
}

/// How many ticks of the epoch a time is, rounded up, and one for the tick that is under way.
fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(TICK.as_nanos())).unwrap_or(u64::MAX - 1) + 1
}

/// A store for one instance.
fn store(plugin: &Plugin, work: Option<Arc<Mutex<UnitOfWork>>>) -> Store<Guest> {
    let limits = plugin.limits;
    let guest = Guest {
        work,
        settings: Arc::clone(&plugin.settings),
        redaction: plugin.redaction.clone(),
        resources: Resources::new(limits),
        wasi: wasi::is_wanted(&plugin.imports).then(|| Box::new(Wasi::new(&plugin.seed))),
        limits,
        log: Arc::clone(&plugin.log),
        position: Position::START,
        began: None,
        waited: Duration::ZERO,
    };
    let mut store = Store::new(plugin.pre.engine(), guest);
    store.limiter(|guest| &mut guest.resources);
    store.set_hostcall_fuel(limits.call_data);
    store.set_epoch_deadline(ticks(limits.call));
    // The epoch says only that time has passed. Time in the database is not the guest's own: it gets it back.
    store.epoch_deadline_callback(|mut store| {
        let guest = store.data_mut();
        let waited = match &guest.work {
            Some(work) => work.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take_waited(),
            None => Duration::ZERO,
        };
        // This comes when the epoch has moved by what a call may take, and a tick more: so long ago it began, at least. To look
        // at the clock then costs nothing; to do it when each call begins would.
        let (now, limit) = (Instant::now(), guest.limits.call);
        let began = match guest.began {
            Some(began) => {
                guest.waited += waited;
                began
            }
            None if waited.is_zero() => now.checked_sub(limit).unwrap_or(now),
            // Nobody knows how much of the time was its own. It counts from here, so it may take twice what is allowed.
            None => now,
        };
        guest.began = Some(began);
        let own = (now - began).saturating_sub(guest.waited);
        match guest.limits.call.checked_sub(own) {
            Some(left) if !left.is_zero() => Ok(UpdateDeadline::Continue(ticks(left))),
            _ => Err(Overrun.into()),
        }
    });
    store
}

/// Why a call trapped.
fn explain(store: &Store<Guest>, error: &wasmtime::Error) -> CallError {
    if error.downcast_ref::<Overrun>().is_some() {
        return CallError::Deadline(store.data().limits.call);
    }
    // The backtrace is for whoever writes the projection; the message has the reason.
    tracing::debug!(target: "plugin", error = format!("{error:?}"), "the guest trapped");
    let reason = error.root_cause().to_string();
    let limits = &store.data().limits;
    match store.data().resources.refused {
        Some(Refused::Memory) => return CallError::Memory { allowed: limits.memory, reason },
        Some(Refused::TableElements) => return CallError::TableElements { allowed: limits.table_elements, reason },
        None => {}
    }
    // These two are told by their text: wasmtime keeps their types to itself.
    if reason.starts_with("resource limit exceeded") {
        return CallError::Parts(reason);
    }
    if reason.contains("fuel allocated for hostcalls has been exhausted") {
        return CallError::CallData(limits.call_data);
    }
    CallError::Trap(reason)
}
