//! Compiled code, kept between runs.
//!
//! Known by the component's digest and by wasmtime's own hash of its version and settings, so that nothing stale is
//! ever loaded. Compiled code is trusted code: the folder is readable and writable by this user alone, and a
//! file that somebody else could have written is not loaded. Files are written beside and renamed, so a half-written
//! one is never found. Whatever fails here costs only time: the component is compiled anew.

use std::hash::{Hash as _, Hasher as _};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use wasmtime::Engine;
use wasmtime::component::Component;

/// Where compiled code is kept.
#[derive(Clone, Debug)]
pub struct Cache {
    /// The folder; nothing to keep no code at all.
    folder: Option<PathBuf>,
}

impl Cache {
    /// The user's cache folder: `PROJECTIONIST_CACHE`, else `projectionist` in `XDG_CACHE_HOME` or `~/.cache`. An
    /// empty `PROJECTIONIST_CACHE` switches it off.
    #[must_use]
    pub fn of_user() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = match std::env::var_os("PROJECTIONIST_CACHE") {
            Some(folder) => Some(PathBuf::from(folder)).filter(|folder| !folder.as_os_str().is_empty()),
            None => set("XDG_CACHE_HOME")
                .or_else(|| set("HOME").map(|home| home.join(".cache")))
                .map(|folder| folder.join("projectionist")),
        };
        Self { folder }
    }

    /// The compiled component, from the cache or by compiling it now.
    ///
    /// # Errors
    /// When it does not compile.
    pub fn compile(&self, engine: &Engine, digest: &str, bytes: &[u8]) -> wasmtime::Result<Component> {
        let Some(folder) = &self.folder else { return Component::new(engine, bytes) };
        let mut hasher = fnv::FnvHasher::default();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let path = folder.join(format!("{digest}-{:016x}.cwasm", hasher.finish()));
        if is_ours_alone(folder) && is_ours_alone(&path) {
            #[expect(unsafe_code, reason = "compiled code can only be loaded on trust")]
            // SAFETY: the file and its folder belong to this user and nobody else may write them, the file was
            // renamed into place whole, and its name holds the digest and the hash of the engine that compiled it.
            let loaded = unsafe { Component::deserialize_file(engine, &path) };
            match loaded {
                Ok(component) => return Ok(component),
                Err(error) => tracing::debug!(%error, path = %path.display(), "cached code not usable: compiling"),
            }
        }
        let component = Component::new(engine, bytes)?;
        if let Err(error) = component.serialize().and_then(|code| Ok(keep(folder, &path, &code)?)) {
            tracing::debug!(%error, path = %path.display(), "compiled code not cached");
        }
        Ok(component)
    }
}

/// Writes a file beside its place and renames it there.
fn keep(folder: &Path, path: &Path, code: &[u8]) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    // Made readable and writable by this user alone.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(code)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Whether a path belongs to this user, and nobody else may write it.
fn is_ours_alone(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| {
        !found.file_type().is_symlink()
            && found.uid() == rustix::process::geteuid().as_raw()
            && found.mode() & 0o022 == 0
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn code_that_others_could_have_written_is_not_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("code");
        keep(folder.path(), &path, b"code").unwrap();
        assert!(is_ours_alone(&path));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(!is_ours_alone(&path));
        assert!(!is_ours_alone(&folder.path().join("missing")));
    }

    #[test]
    fn a_damaged_file_is_compiled_anew() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache { folder: Some(folder.path().join("cache")) };
        let engine = super::super::engine::new(512 << 10).unwrap();
        let empty = b"\0asm\x0d\0\x01\0";
        cache.compile(&engine, "digest", empty).unwrap();
        let kept: Vec<_> = std::fs::read_dir(folder.path().join("cache")).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(kept.len(), 1);
        std::fs::write(&kept[0], b"not code").unwrap();
        cache.compile(&engine, "digest", empty).unwrap();
        assert!(std::fs::metadata(&kept[0]).unwrap().len() > 8, "the damaged file was replaced");
    }
}
