//! Building a crate for WebAssembly, with cargo and whichever toolchain has the target.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::no_crate;
use crate::cli::exit::{Ended, UsageError};

/// What projections are built for.
const TARGET: &str = "wasm32-unknown-unknown";

/// Debian's compiler, cargo and linker, which build the standard library from source: see `scripts/build-plugins`.
const DEBIAN: [&str; 3] = ["/usr/bin/rustc", "/usr/bin/cargo", "/usr/bin/wasm-ld-19"];

/// A projection's crate.
#[derive(Debug)]
pub(super) struct Crate {
    /// Its folder.
    pub(super) folder: PathBuf,
    /// Where cargo builds.
    pub(super) target: PathBuf,
}

impl Crate {
    /// The crate in a folder.
    ///
    /// # Errors
    /// When there is none, or cargo does not understand it.
    pub(super) fn at(folder: &Path) -> anyhow::Result<Self> {
        let shown = folder.display();
        let folder = folder.canonicalize().map_err(|error| no_crate(format!("cannot open {shown}: {error}")))?;
        if !folder.join("Cargo.toml").is_file() {
            return Err(no_crate(format!("there is no Cargo.toml in {shown}")));
        }
        let mut metadata = Command::new("cargo");
        metadata.args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(&folder);
        let output = run(metadata.stderr(Stdio::inherit()))?;
        let found: Value = serde_json::from_slice(&output).unwrap_or_default();
        match found["target_directory"].as_str() {
            Some(target) => Ok(Self { folder, target: target.into() }),
            None => Err(no_crate(format!("cargo cannot read the crate in {shown}"))),
        }
    }

    /// Builds it; gives where the module is. What the compiler says goes to the terminal.
    ///
    /// # Errors
    /// When it does not compile, or there is no toolchain for it.
    pub(super) fn build(&self) -> anyhow::Result<PathBuf> {
        let mut command = toolchain()?;
        // Diagnostics go to stderr as people read them; stdout says what was made.
        command.args(["--release", "--target", TARGET, "--message-format", "json-render-diagnostics"]);
        command.current_dir(&self.folder).stderr(Stdio::inherit());
        let output = run(&mut command)?;
        let messages =
            output.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Value>(line).ok());
        let modules: Vec<PathBuf> = messages
            .filter(|message| message["reason"] == "compiler-artifact")
            .flat_map(|message| message["filenames"].as_array().cloned().unwrap_or_default())
            .filter_map(|name| name.as_str().map(PathBuf::from))
            .filter(|path| path.extension().is_some_and(|extension| extension == "wasm"))
            .collect();
        match &modules[..] {
            [module] => Ok(module.clone()),
            [] => Err(no_crate("the crate makes no WebAssembly module: it needs `crate-type = [\"cdylib\"]`")),
            _ => Err(no_crate(format!("{} crates are built here, and one can be run", modules.len()))),
        }
    }
}

/// Runs a command to its end; gives what it wrote to stdout.
fn run(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|error| {
        UsageError::new(format!("cannot run {program}: {error}"), "install Rust: https://rustup.rs")
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(Ended::failed("the crate does not compile", "the compiler has said why, above").into())
}

/// `cargo build` with the first toolchain that has the target: the one at hand, or Debian's.
fn toolchain() -> anyhow::Result<Command> {
    let libraries = Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).output();
    let has_target = libraries.is_ok_and(|output| {
        let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
        names.into_iter().any(|name| name.to_string_lossy().starts_with("libstd-"))
    });
    if has_target {
        let mut command = Command::new("cargo");
        command.arg("build");
        return Ok(command);
    }
    let [rustc, cargo, linker] = DEBIAN;
    if DEBIAN.iter().all(|program| Path::new(program).exists()) {
        let mut command = Command::new(cargo);
        // The option is for nightly compilers; Debian has no compiled library for this target.
        command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
        command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
        command.args(["build", "-Zbuild-std=std,panic_abort"]);
        return Ok(command);
    }
    let hint =
        format!("rustup target add {TARGET}; on Debian: apt-get install rustc-web cargo-web rust-web-src lld-19");
    Err(UsageError::new(format!("no Rust toolchain here builds for {TARGET}"), hint).into())
}
