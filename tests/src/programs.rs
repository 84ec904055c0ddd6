//! Where the things under test are: the binary `host`, the plugins, the compilation cache.
//!
//! Cargo builds no other package's binary for a test, so they have to be there before: `make test` builds them. The
//! binary is the one of the same profile as the test, beside its executable (`target/debug/host`), or what
//! `PROJECTIONIST_HOST` names. Plugins, samples and those of these tests alike, are in `target/plugins`, or in the
//! folder that `PROJECTIONIST_PLUGINS` names.

use std::path::{Path, PathBuf};

/// The path of a plugin, `target/plugins/NAME.wasm`, as an argument.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn plugin(name: &str) -> String {
    let folder = std::env::var_os("PROJECTIONIST_PLUGINS").map_or_else(|| target().join("plugins"), PathBuf::from);
    existing(folder.join(format!("{name}.wasm")), "scripts/build-plugins [tests/plugins]")
}

/// The binary `host`.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn host() -> PathBuf {
    let path = std::env::var_os("PROJECTIONIST_HOST").map_or_else(|| profile().join("host"), PathBuf::from);
    existing(path, "cargo build -p projectionist-host --bin host").into()
}

/// The program `unguarded`, which cargo builds with the tests: the host with its guard switched off.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn unguarded() -> PathBuf {
    existing(profile().join("unguarded"), "cargo build -p projectionist-tests --bin unguarded").into()
}

/// Where the hosts of tests keep compiled code, so that each plugin is compiled once and not once a process.
#[must_use]
pub fn cache() -> PathBuf {
    target().join("tests-cache")
}

/// The folder of the profile, such as `target/debug`: test executables are in its `deps`.
fn profile() -> PathBuf {
    let executable = std::env::current_exe().expect("the test executable has a path");
    let folder = executable.parent().expect("the test executable is in a folder");
    // A doc test's executable is somewhere else, but nothing is looked for in a doc test that does not run.
    folder.parent().filter(|_| folder.ends_with("deps")).unwrap_or(folder).to_owned()
}

/// The target folder: the one above the profile's, or above the target triple's where one was asked for.
fn target() -> PathBuf {
    let profile = profile();
    let is_target = |folder: &&Path| folder.join("CACHEDIR.TAG").exists() || folder.join("plugins").exists();
    profile.ancestors().skip(1).find(is_target).unwrap_or(&profile).to_owned()
}

/// The path, if something is there.
fn existing(path: PathBuf, command: &str) -> String {
    assert!(path.exists(), "{} is missing; `make test` builds it, and so does `{command}`", path.display());
    path.into_os_string().into_string().expect("a path in UTF-8")
}
