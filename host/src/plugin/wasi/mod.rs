//! A virtual WASI (0.2) for guests whose language needs one: JavaScript, Python, whatever is built for `wasm32-wasip2`.
//!
//! There is nothing behind it. No file, no network, no environment, no arguments, no time but that of the event and no
//! randomness but what follows from it: **a projection's output is a function of its events**, so that a replay, a
//! rebuild or another partitioning arrives at the same tables.
//!
//! - [`clocks`]: the time is the `created_at` of the event at hand, on both clocks, and stands still. Sleeping is over at
//!   once.
//! - [`random`]: numbers that follow from projection, position and how many were drawn before in that call.
//! - [`io`]: what is written to stdout and stderr goes to the log line by line, with its limits. stdin is at its end.
//! - [`surroundings`]: environment and arguments are empty, there is no folder and no terminal; `exit` is a trap. Opening
//!   a file fails as it does where there is none; everything about sockets traps.
//!
//! Not the crate wasmtime-wasi, though it takes clocks and generators of one's own: it needs wasmtime's fibers and a
//! tokio runtime for each call, its timers really sleep (a host call that no epoch ends), and it brings files and sockets
//! that would have to be kept shut. This is less code than to hold that down.
//!
//! Functions are linked by the names that a component imports, so one that imports none of them pays nothing, and none is
//! there that was not asked for.

mod clocks;
mod io;
mod random;
mod surroundings;

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker, LinkerInstance, Resource, ResourceType};
use wasmtime::{Engine, StoreContextMut};

use super::imports::{Guest, Level};
use crate::event::{Event, Position};

/// The interfaces that a guest may import, without their version.
const INTERFACES: [&str; 27] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/stderr",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:cli/terminal-stderr",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/types",
    "wasi:filesystem/preopens",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/random",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:sockets/network",
    "wasi:sockets/instance-network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
    "wasi:sockets/ip-name-lookup",
];

/// What stands before all their names.
const PREFIX: &str = "wasi:";

/// Their version: every 0.2.x is compatible with 0.2.0.
pub(super) const VERSION: &str = "0.2.";

/// How many handles (streams, timers) a guest may hold at once. They live in the host's memory.
const HANDLES: u32 = 10_000;

/// Whether an import is one of these, whatever its version.
pub(super) fn has(interface: &str) -> bool {
    INTERFACES.contains(&interface)
}

/// Whether a component imports any of them, by the names of what it imports.
pub(super) fn is_wanted(imports: &[String]) -> bool {
    imports.iter().any(|name| name.starts_with(PREFIX))
}

/// Which of the four calls runs: none draws the numbers of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Call {
    /// What a guest does before it is called, and `describe`.
    Start,
    /// `migrate`
    Migrate,
    /// `handle`
    Handle,
    /// `flush`
    Flush,
}

/// The little world of one instance.
#[derive(Debug)]
pub(super) struct Wasi {
    /// Where its numbers come from.
    random: random::Source,
    /// The time: microseconds since 1970.
    now: u64,
    /// Handles that it holds.
    handles: u32,
    /// What it has written to stdout, up to the end of a line.
    out: io::Lines,
    /// What it has written to stderr.
    err: io::Lines,
}

impl Wasi {
    /// For an instance of this projection.
    pub(super) fn new(projection: &str) -> Self {
        Self {
            random: random::Source::new(projection),
            now: 0,
            handles: 0,
            out: io::Lines::default(),
            err: io::Lines::default(),
        }
    }

    /// A call begins that is about no event.
    pub(super) fn begin(&mut self, call: Call, position: Position) {
        self.random.begin(call, position);
    }

    /// As [`Wasi::begin`], at the time of an event. That before 1970 is 1970: the clock has no sign.
    pub(super) fn begin_event(&mut self, event: &Event) {
        self.now = u64::try_from(event.created_at).unwrap_or(0);
        self.random.begin(Call::Handle, event.position());
    }
}

impl Guest {
    /// A call is over: what it has written without ending the line is a line.
    pub(super) fn end_lines(&mut self) {
        let Some(wasi) = &mut self.wasi else { return };
        let (out, err) = (wasi.out.take(), wasi.err.take());
        for (level, line) in [(Level::Info, out), (Level::Warn, err)] {
            if let Some(line) = line {
                self.log(level, &line);
            }
        }
    }
}

/// The world of the guest that calls.
fn world<'a>(store: &'a mut StoreContextMut<'_, Guest>) -> wasmtime::Result<&'a mut Wasi> {
    // It is there whenever something was linked.
    store.data_mut().wasi.as_deref_mut().ok_or_else(|| wasmtime::Error::msg("there is no WASI"))
}

/// A new handle, for as long as there are not too many.
fn handle<T: 'static>(mut store: StoreContextMut<'_, Guest>, number: u32) -> wasmtime::Result<Resource<T>> {
    let wasi = world(&mut store)?;
    if wasi.handles >= HANDLES {
        wasmtime::bail!("the projection holds {HANDLES} handles of WASI, and none is left");
    }
    wasi.handles += 1;
    Ok(Resource::new_own(number))
}

/// A kind of resource that there is never one of.
struct Nothing<const KIND: usize>;

/// The host's type of a resource, by its name. Interfaces share them, so the name has to say which it is.
fn resource(name: &str) -> ResourceType {
    match name {
        "pollable" => ResourceType::host::<io::Pollable>(),
        "input-stream" => ResourceType::host::<io::Input>(),
        "output-stream" => ResourceType::host::<io::Output>(),
        "error" => ResourceType::host::<Nothing<0>>(),
        "descriptor" => ResourceType::host::<Nothing<1>>(),
        "directory-entry-stream" => ResourceType::host::<Nothing<2>>(),
        "network" => ResourceType::host::<Nothing<3>>(),
        "tcp-socket" => ResourceType::host::<Nothing<4>>(),
        "udp-socket" => ResourceType::host::<Nothing<5>>(),
        "incoming-datagram-stream" => ResourceType::host::<Nothing<6>>(),
        "outgoing-datagram-stream" => ResourceType::host::<Nothing<7>>(),
        "resolve-address-stream" => ResourceType::host::<Nothing<8>>(),
        "terminal-input" => ResourceType::host::<surroundings::TerminalInput>(),
        "terminal-output" => ResourceType::host::<surroundings::TerminalOutput>(),
        _ => ResourceType::host::<Nothing<9>>(),
    }
}

/// Defines what a component imports of these interfaces, under the names it has for them.
///
/// # Errors
/// When one has another type than here.
pub(super) fn link(linker: &mut Linker<Guest>, engine: &Engine, component: &Component) -> wasmtime::Result<()> {
    for (name, import) in component.component_type().imports(engine) {
        let (interface, _) = name.split_once('@').unwrap_or((name, ""));
        let ComponentItem::ComponentInstance(instance) = &import.ty else { continue };
        if !has(interface) {
            continue;
        }
        let mut linked = linker.instance(name)?;
        for (item, export) in instance.exports(engine) {
            match export.ty {
                ComponentItem::Resource(_) => linked.resource(item, resource(item), |mut store, _| {
                    let wasi = world(&mut store)?;
                    wasi.handles = wasi.handles.saturating_sub(1);
                    Ok(())
                })?,
                ComponentItem::ComponentFunc(_) => define(&mut linked, interface, item)?,
                _ => {}
            }
        }
    }
    Ok(())
}

/// Defines a function; one that could only do harm is a trap.
fn define(linked: &mut LinkerInstance<'_, Guest>, interface: &str, function: &str) -> wasmtime::Result<()> {
    let is_defined = clocks::define(linked, interface, function)?
        || random::define(linked, interface, function)?
        || io::define(linked, interface, function)?
        || surroundings::define(linked, interface, function)?;
    if is_defined {
        return Ok(());
    }
    let name = format!("{interface}#{function}");
    linked.func_new(function, move |_, _, _, _| {
        wasmtime::bail!("the projection called `{name}`, and there is nothing behind it: no files and no network")
    })
}
