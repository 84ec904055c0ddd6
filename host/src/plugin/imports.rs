//! The functions that a guest may call: `transactions`, `log` and `config` of the WIT world, and nothing else but the
//! virtual [`wasi`] of those that need one.
//!
//! They are defined by hand rather than generated, so that values go straight from the guest's memory into the
//! types that the unit of work takes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use wasmtime::component::{Component, ComponentType, Lift, Linker, Resource, ResourceType};
use wasmtime::{Engine, StoreContextMut};

use super::limits::{Limits, LogRate, LogVerdict, Resources};
use super::redaction::Redaction;
use super::wasi::{self, Wasi};
use crate::event::Position;
use crate::read_model::unit_of_work::UnitOfWork;
use crate::read_model::value::{Dialect, Rowset, SqlError, Value};

/// The interfaces a guest may import, without their version.
pub(super) const INTERFACES: [&str; 4] = [
    "projectionist:projection/types",
    "projectionist:projection/transactions",
    "projectionist:projection/log",
    "projectionist:projection/config",
];

/// Their version.
pub(super) const VERSION: &str = "0.1.0";

/// The resource `transaction`. It is only ever lent, so there is nothing in it: which transaction is meant is the
/// guest's state.
#[derive(Debug)]
pub struct Transaction;

/// What the operator set with `--set`.
pub type Settings = Arc<BTreeMap<String, String>>;

/// What the host knows of one instance.
#[derive(Debug)]
pub struct Guest {
    /// The transaction, while there is a database.
    pub(super) work: Option<Arc<Mutex<UnitOfWork>>>,
    /// `--set`.
    pub(super) settings: Settings,
    /// What it may not see of events.
    pub(super) redaction: Option<Arc<Redaction>>,
    /// Its memory and tables.
    pub(super) resources: Resources,
    /// What it takes for an operating system, if it imports any of it.
    pub(super) wasi: Option<Box<Wasi>>,
    /// Its other limits.
    pub(super) limits: Limits,
    /// The log of its projection.
    pub(super) log: Arc<Mutex<LogRate>>,
    /// Which event it works on.
    pub(super) position: Position,
    /// When the running call began; nothing until it has taken long.
    pub(super) began: Option<Instant>,
    /// How much of it was spent in the database.
    pub(super) waited: Duration,
}

impl Guest {
    /// The unit of work.
    fn work(&self) -> wasmtime::Result<MutexGuard<'_, UnitOfWork>> {
        match &self.work {
            Some(work) => Ok(work.lock().unwrap_or_else(PoisonError::into_inner)),
            None => wasmtime::bail!("`describe` is called without a database"),
        }
    }

    /// Writes a line to the log, as far as the limits of its projection let it.
    pub(super) fn log(&self, level: Level, message: &str) {
        let position = self.position.get();
        // Whatever a projection says, it says it in its own name: only the first line stands where log lines begin.
        let message = cut(message, self.limits.log_line).replace('\r', "").replace('\n', "\n    ");
        match self.log.lock().unwrap_or_else(PoisonError::into_inner).count(message.len()) {
            LogVerdict::Drop => return,
            LogVerdict::WriteAfterDropping(dropped) => {
                tracing::warn!(target: "plugin", position, dropped, "the projection logs too much: lines were dropped");
            }
            LogVerdict::Write => {}
        }
        match level {
            Level::Trace => tracing::trace!(target: "plugin", position, "{message}"),
            Level::Debug => tracing::debug!(target: "plugin", position, "{message}"),
            Level::Info => tracing::info!(target: "plugin", position, "{message}"),
            Level::Warn => tracing::warn!(target: "plugin", position, "{message}"),
            Level::Error => tracing::error!(target: "plugin", position, "{message}"),
        }
    }
}

/// The WIT enum `level`.
#[derive(Clone, Copy, Debug, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "a guest makes them")]
pub(super) enum Level {
    /// Every step.
    #[component(name = "trace")]
    Trace,
    /// For whoever writes the projection.
    #[component(name = "debug")]
    Debug,
    /// What happened.
    #[component(name = "info")]
    Info,
    /// What somebody should look at.
    #[component(name = "warn")]
    Warn,
    /// What went wrong.
    #[component(name = "error")]
    Error,
}

/// A linker with exactly what the world imports, and what this component wants of WASI.
pub(super) fn linker(engine: &Engine, component: &Component) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    let [types, transactions, log, config] = INTERFACES.map(|name| format!("{name}@{VERSION}"));
    // Only types: nothing to define, but there to be imported.
    linker.instance(&types)?;

    let mut instance = linker.instance(&transactions)?;
    instance.resource("transaction", ResourceType::host::<Transaction>(), |_, _| Ok(()))?;
    instance.func_wrap("[method]transaction.execute", execute)?;
    instance.func_wrap("[method]transaction.query", query)?;
    instance.func_wrap("[method]transaction.dialect", dialect)?;

    linker.instance(&log)?.func_wrap("log", write_log)?;
    linker.instance(&config)?.func_wrap("get", |store: StoreContextMut<'_, Guest>, (key,): (String,)| {
        Ok((store.data().settings.get(&key).cloned(),))
    })?;
    wasi::link(&mut linker, engine, component)?;
    Ok(linker)
}

/// `transaction.execute`
fn execute(
    store: StoreContextMut<'_, Guest>,
    (_, sql, parameters): (Resource<Transaction>, String, Vec<Value>),
) -> wasmtime::Result<(Result<(), SqlError>,)> {
    Ok((store.data().work()?.execute(&sql, parameters),))
}

/// `transaction.query`
fn query(
    store: StoreContextMut<'_, Guest>,
    (_, sql, parameters): (Resource<Transaction>, String, Vec<Value>),
) -> wasmtime::Result<(Result<Rowset, SqlError>,)> {
    Ok((store.data().work()?.query(&sql, parameters),))
}

/// `transaction.dialect`
fn dialect(store: StoreContextMut<'_, Guest>, _: (Resource<Transaction>,)) -> wasmtime::Result<(Dialect,)> {
    Ok((store.data().work()?.dialect(),))
}

/// `log.log`
fn write_log(store: StoreContextMut<'_, Guest>, (level, message): (Level, String)) -> wasmtime::Result<()> {
    store.data().log(level, &message);
    Ok(())
}

/// The beginning of a text, of at most so many bytes.
pub(super) fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}
