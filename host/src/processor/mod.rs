//! The loop that ties source, plugin and read model:
//!
//! ```text
//! claim → page (checkpoint, H] → begin → handle each of mine → flush → buffered SQL → checkpoint → commit
//! ```
//!
//! [`worker`] is the life of one worker: claim or stand by, migrate, then batch after batch. [`reader`] cuts the log
//! into batches, as large as [`pace`] says, and [`paths`] says which way one goes. [`batch`] applies one on the fast path; when anything in it fails, [`careful`] applies it again
//! event by event, so that the culprit shows itself, and [`failure`] says what kind of failure it is; [`losses`] what is to be
//! made of a connection that is lost again and again. A plugin that has
//! replaced another is on [`trial`] in its first batch. [`policy`] is
//! what the operator chose to happen then. [`requests`] are what an operator asks of a worker about an aggregate that
//! is parked, and [`replay`] brings it back; [`unattended`] does it where no worker runs. [`pausing`] is how it hears that it
//! is to pause. [`standby`] is what a worker knows while it waits for its partition. [`supervisor`] runs the workers of a
//! process, or [`replica`] those that a replica set gives it; [`progress`] is how far each is; [`stop`] and [`backoff`] are
//! how they pause and end.

pub mod backoff;
pub mod batch;
pub mod careful;
pub mod failure;
mod losses;
pub mod pace;
mod paths;
mod pausing;
pub mod policy;
pub mod progress;
pub mod reader;
pub mod replay;
pub mod replica;
mod requests;
pub mod standby;
pub mod stop;
pub mod supervisor;
mod trial;
pub mod unattended;
pub mod worker;

pub use policy::{LiveOptions, OnError, Options, Priority};
pub use progress::Progress;
pub use stop::Stop;
pub use supervisor::Supervisor;
pub use worker::Outcome;
