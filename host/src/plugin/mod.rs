//! Projections as components: loading, checking, compiling, limiting and calling them.
//!
//! In the order of a plugin's life: [`load`] reads a file and makes a [`load::Plugin`] of it (a core module is
//! turned into a component first), [`world`] checks what it imports and exports, [`cache`] keeps its compiled code,
//! [`descriptor`] is what it says of itself. A worker then makes an [`instance::Instance`] and calls it;
//! [`imports`] are the functions that a guest may call back, [`limits`] what it may take. [`engine`] is the one
//! wasmtime engine of the process. [`slot`] holds a plugin that may be
//! replaced, and [`watch`] loads a changed file into it while events flow.

pub mod cache;
pub mod descriptor;
pub mod engine;
pub mod imports;
pub mod instance;
pub mod limits;
pub mod load;
pub mod slot;
pub mod watch;
pub mod world;

pub use descriptor::Descriptor;
pub use instance::{CallError, Instance};
pub use load::{LoadError, Plugin};
pub use slot::PluginSlot;
