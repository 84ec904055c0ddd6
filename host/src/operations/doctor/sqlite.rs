//! What SQLite files tell: whether they are there and can be written, and how much room is left.

use std::path::Path;

use super::{Findings, Role};
use crate::database::sqlite;

/// With less room than this, in bytes, a batch may not fit.
const ROOM: u64 = 256 << 20;

/// Looks at a file, or at the files of the read models beside it.
pub(super) fn examine(path: &Path, role: Role, findings: &mut Findings) {
    let shown = path.display();
    if role == Role::Events {
        if !path.exists() {
            let advice = "host append, import or run makes it; or correct the URL (DATABASE_URL)";
            findings.problem("events", format!("{shown}: there is no such file"), advice);
            return;
        }
        match sqlite::open_existing(path) {
            Ok(_) => findings.ok("version", format!("{shown}: SQLite {}", rusqlite::version())),
            Err(error) => findings.error("events", &error),
        }
    } else {
        match sqlite::projection_files(path) {
            Err(error) => findings.error("read model", &error),
            Ok(files) => {
                for file in files {
                    if let Err(error) = sqlite::open_existing(&file.path) {
                        findings.error("read model", &error);
                    }
                }
            }
        }
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match rustix::fs::statvfs(folder) {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let message = format!("{}: {} MiB are free", folder.display(), free >> 20);
            if free < ROOM {
                findings.problem("disk", message, "make room: a full disk is waited out, but nothing is applied");
            } else {
                findings.ok("disk", message);
            }
        }
        Err(error) => findings.warn("disk", format!("{}: {error}", folder.display()), "check the folder"),
    }
}
