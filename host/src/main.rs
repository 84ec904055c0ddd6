//! The binary `host`: parses, starts logging, dispatches. Everything else is in the library.

#![expect(unused_crate_dependencies, reason = "they are the library's")]

use std::process::ExitCode;

fn main() -> ExitCode {
    projectionist_host::cli::main()
}
