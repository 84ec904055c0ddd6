//! Two clocks that stand still at the time of the event, so that a replay a year later shows the same.

use wasmtime::component::{ComponentType, LinkerInstance, Lower};

use super::super::imports::Guest;
use super::{handle, io, world};

/// The WIT record `datetime`.
#[derive(Clone, Copy, Debug, ComponentType, Lower)]
#[component(record)]
struct Datetime {
    /// Since 1970.
    seconds: u64,
    /// Of the second.
    nanoseconds: u32,
}

/// What an event's time is measured in.
const MICROSECOND: u64 = 1_000;

/// Defines a function of the clocks, if it is one.
pub(super) fn define(
    linked: &mut LinkerInstance<'_, Guest>,
    interface: &str,
    function: &str,
) -> wasmtime::Result<bool> {
    match (interface, function) {
        ("wasi:clocks/wall-clock", "now") => linked.func_wrap(function, |mut store, ()| {
            let now = world(&mut store)?.now;
            let nanoseconds = u32::try_from(now % 1_000_000 * MICROSECOND)?;
            Ok((Datetime { seconds: now / 1_000_000, nanoseconds },))
        })?,
        ("wasi:clocks/wall-clock", "resolution") => {
            linked.func_wrap(function, |_, ()| Ok((Datetime { seconds: 0, nanoseconds: 1_000 },)))?;
        }
        ("wasi:clocks/monotonic-clock", "now") => {
            linked.func_wrap(function, |mut store, ()| Ok((world(&mut store)?.now.saturating_mul(MICROSECOND),)))?;
        }
        ("wasi:clocks/monotonic-clock", "resolution") => linked.func_wrap(function, |_, ()| Ok((MICROSECOND,)))?,
        // Whatever is waited for has come: time that stands still would never bring it.
        ("wasi:clocks/monotonic-clock", "subscribe-instant" | "subscribe-duration") => {
            linked.func_wrap(function, |store, (_,): (u64,)| Ok((handle::<io::Pollable>(store, 0)?,)))?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}
