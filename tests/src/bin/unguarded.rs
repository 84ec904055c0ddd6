//! The host with its guard switched off: `unguarded run …`, for tests of what holds then. It is the program `host` in every
//! other respect. A release build has no such switch.

#![expect(unused_crate_dependencies, reason = "they are the harness's")]

use std::process::ExitCode;

#[cfg(debug_assertions)]
fn main() -> ExitCode {
    projectionist_host::read_model::guard::off::switch_off();
    projectionist_host::cli::main()
}

#[cfg(not(debug_assertions))]
fn main() -> ExitCode {
    use std::io::Write as _;

    writeln!(std::io::stderr(), "error: the guard of a release build cannot be switched off").ok();
    ExitCode::from(2)
}
