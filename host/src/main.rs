//! The binary `host`: parses, starts logging, dispatches. Everything else is in the library.

#![expect(unused_crate_dependencies, reason = "they are the library's")]

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// One thread reads events, another applies and frees them: what that costs is a tenth of the host's time with the system's
/// allocator, and half of that with this one.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    projectionist_host::cli::main()
}
