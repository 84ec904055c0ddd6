//! The one wasmtime engine of the process, and the clock that interrupts guests.

use std::time::Duration;

use wasmtime::{Config, Engine, OptLevel};

/// How often the epoch moves: how late a guest that runs too long can be interrupted.
pub const TICK: Duration = Duration::from_millis(10);

/// Makes the engine, whose guests have `stack` bytes of stack, and the thread that moves its epoch for as long as it
/// lives.
///
/// # Errors
/// When this machine cannot run WebAssembly at all.
pub fn new(stack: usize) -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .epoch_interruption(true)
        .cranelift_opt_level(OptLevel::Speed)
        .max_wasm_stack(stack);
    let engine = Engine::new(&config)?;
    let weak = engine.weak();
    std::thread::Builder::new().name("epoch".into()).spawn(move || {
        loop {
            std::thread::sleep(TICK);
            match weak.upgrade() {
                Some(engine) => engine.increment_epoch(),
                None => return,
            }
        }
    })?;
    Ok(engine)
}
