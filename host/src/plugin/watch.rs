//! Loading a changed file while events flow.
//!
//! The folder is watched, not the file: editors and deployments replace files by renaming, and a watched inode
//! would be the old one. A change is taken up when size and digest have stayed the same for a moment, so that a
//! half-written file is never loaded. Whatever is wrong with the new one: the last good one goes on.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use notify::event::AccessKind;
use notify::{EventKind, RecursiveMode, Watcher as _};

use super::digest::Digest;
use super::imports::Settings;
use super::load::{Loader, PluginFile};
use super::slot::PluginSlot;
use super::trust::signature;
use crate::telemetry::reloads;

/// How long a file must stay the same.
const STABLE: Duration = Duration::from_millis(60);

/// How often the files are looked at anyway: notifications can be lost, and some file systems give none.
const LOOK: Duration = Duration::from_secs(2);

/// A file that may change.
#[derive(Debug)]
pub struct Watched {
    /// The file, with its name and its pin.
    pub file: PluginFile,
    /// What the operator set for it.
    pub settings: Settings,
    /// What runs now.
    pub slot: Arc<PluginSlot>,
}

/// Watches for as long as it lives.
#[derive(Debug)]
pub struct Watcher {
    /// Tells its thread of changes; the thread ends when this is dropped.
    _notifications: notify::RecommendedWatcher,
}

/// Starts watching some files.
///
/// # Errors
/// When a folder cannot be watched.
pub fn start(loader: Arc<Loader>, files: Vec<Watched>) -> notify::Result<Watcher> {
    let (sender, changes) = channel::<()>();
    let mut notifications = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Looking at a file opens it, and that is no reason to look again.
        let only_read =
            event.is_ok_and(|event| matches!(event.kind, EventKind::Access(AccessKind::Open(_) | AccessKind::Read)));
        if !only_read {
            // The thread has ended: so has the process, nearly.
            sender.send(()).ok();
        }
    })?;
    let folders: BTreeSet<PathBuf> = files.iter().map(|file| folder(&file.file.path)).collect();
    for folder in &folders {
        notifications.watch(folder, RecursiveMode::NonRecursive)?;
    }
    let span = tracing::Span::current();
    std::thread::Builder::new().name("watch plugins".into()).spawn(move || {
        let _entered = span.enter();
        // What was looked at last, by file: what was refused, or taken up and given back, is not taken up again
        // until it changes.
        let mut seen: Vec<Option<Seen>> = vec![None; files.len()];
        loop {
            match changes.recv_timeout(LOOK) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while changes.try_recv().is_ok() {}
            for (file, seen) in files.iter().zip(&mut seen) {
                take_up(&loader, file, seen);
            }
        }
    })?;
    Ok(Watcher { _notifications: notifications })
}

/// The folder of a file.
fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// A state of a file: its digest, and that of its signatures. A signature may come after the file.
type Seen = (Digest, Option<Digest>);

/// Loads a file if it is another than what runs, and has stopped changing.
fn take_up(loader: &Loader, watched: &Watched, seen: &mut Option<Seen>) {
    let file = &watched.file;
    let Some((bytes, digest)) = stable(&file.path) else { return };
    let running = watched.slot.get();
    let signatures = signature::state_of(&file.path);
    let hex = digest.to_string();
    if *running.digest == hex {
        // What was refused before may come again; but not this, if it is given back after all: only another file is a reason
        // to try.
        *seen = Some((digest, signatures));
        return;
    }
    if *seen == Some((digest, signatures)) {
        return;
    }
    *seen = Some((digest, signatures));
    let name = Some(running.descriptor.name.as_str());
    let projection = running.descriptor.name.as_str();
    let path = file.path.display();
    let loaded = match loader.load_bytes(file, &bytes, &watched.settings) {
        Ok(loaded) => loaded,
        Err(error) => {
            tracing::error!(projection, %error, "the changed plugin is not taken up; the last good one goes on");
            reloads::note(projection, &running.digest, &hex, Some(&error.to_string()));
            return;
        }
    };
    if Some(loaded.descriptor.name.as_str()) != name {
        let now = loaded.descriptor.name;
        tracing::error!(projection, now, %path, "the changed plugin has another name; the last good one goes on");
        reloads::note(projection, &running.digest, &hex, Some("it has another name"));
    } else if loaded.descriptor.version < running.descriptor.version {
        let (from, to) = (running.descriptor.version, loaded.descriptor.version);
        tracing::error!(projection, from, to, %path, "the changed plugin has a lower version; the last good one goes on");
        reloads::note(projection, &running.digest, &hex, Some("it has a lower version"));
    } else {
        let signature = &loaded.standing;
        tracing::info!(projection, digest = &hex[..12], %signature, %path, "plugin changed: taken up at the next batch");
        reloads::note(projection, &running.digest, &hex, None);
        watched.slot.set(loaded);
    }
}

/// The bytes of a file that has stayed the same for a moment; nothing while it is missing or being written.
fn stable(path: &Path) -> Option<(Vec<u8>, Digest)> {
    let mut last = None;
    for _ in 0..20 {
        let bytes = std::fs::read(path).ok()?;
        let digest = Digest::of(&bytes);
        if last == Some(digest) {
            return Some((bytes, digest));
        }
        last = Some(digest);
        std::thread::sleep(STABLE);
    }
    None
}
