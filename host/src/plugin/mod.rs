//! Projections as components: loading, checking, compiling, limiting and calling them.
//!
//! In the order of a plugin's life: [`load`] reads a file and makes a [`load::Plugin`] of it (a core module is
//! turned into a component first). [`digest`] names its bytes, [`trust`] says whether they may run, [`world`] checks what
//! it imports and exports, [`cache`] keeps its compiled code, [`descriptor`] is what it says of itself, [`filter`] and
//! [`redaction`] are what it may see of the events. A worker then makes an [`instance::Instance`] and calls it;
//! [`imports`] are the functions that a guest may call back, [`wasi`] those of an operating system that it may need,
//! [`limits`] what it may take, and [`growth`] how long it keeps
//! that. [`engine`] is the one
//! wasmtime engine of the process. [`slot`] holds a plugin that may be
//! replaced, and [`watch`] loads a changed file into it while events flow.

pub mod cache;
pub mod descriptor;
pub mod digest;
pub mod engine;
pub mod filter;
mod growth;
pub mod imports;
pub mod instance;
pub mod limits;
pub mod load;
pub mod redaction;
pub mod slot;
pub mod trust;
mod wasi;
pub mod watch;
pub mod world;

pub use descriptor::Descriptor;
pub use instance::{CallError, Instance};
pub use load::{LoadError, Plugin, PluginFile};
pub use slot::PluginSlot;
