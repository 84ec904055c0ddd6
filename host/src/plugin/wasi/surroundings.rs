//! What a program finds around it: nothing.

use wasmtime::component::{LinkerInstance, Resource};

use super::super::imports::Guest;
use super::Nothing;

/// The resource `terminal-input`: there is none.
pub(super) struct TerminalInput;

/// The resource `terminal-output`: there is none.
pub(super) struct TerminalOutput;

/// Defines a function of the surroundings, if it is one.
pub(super) fn define(
    linked: &mut LinkerInstance<'_, Guest>,
    interface: &str,
    function: &str,
) -> wasmtime::Result<bool> {
    match (interface, function) {
        ("wasi:cli/environment", "get-environment") => {
            linked.func_wrap(function, |_, ()| Ok((Vec::<(String, String)>::new(),)))?;
        }
        ("wasi:cli/environment", "get-arguments") => {
            linked.func_wrap(function, |_, ()| Ok((Vec::<String>::new(),)))?;
        }
        ("wasi:cli/environment", "initial-cwd") => linked.func_wrap(function, |_, ()| Ok((None::<String>,)))?,
        ("wasi:cli/exit", _) => linked.func_new(function, |_, _, _, _| {
            wasmtime::bail!("the projection called `exit`: nothing of the event is kept")
        })?,
        ("wasi:cli/terminal-stdin", "get-terminal-stdin") => {
            linked.func_wrap(function, |_, ()| Ok((None::<Resource<TerminalInput>>,)))?;
        }
        ("wasi:cli/terminal-stdout", "get-terminal-stdout") | ("wasi:cli/terminal-stderr", "get-terminal-stderr") => {
            linked.func_wrap(function, |_, ()| Ok((None::<Resource<TerminalOutput>>,)))?;
        }
        ("wasi:filesystem/preopens", "get-directories") => {
            linked.func_wrap(function, |_, ()| Ok((Vec::<(Resource<Nothing<1>>, String)>::new(),)))?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}
