//! A file system of its own that is soon full, so that a test meets the real ENOSPC.

use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A small tmpfs, gone when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    /// What it is mounted in.
    folder: TempDir,
}

impl SmallDisk {
    /// Mounts one of so many KiB, for this user and group.
    ///
    /// # Errors
    /// When this user may not mount, which mostly only root may; with what `mount` says.
    ///
    /// # Panics
    /// When there is no temporary folder.
    pub fn mount(kib: u32, owner: Option<(u32, u32)>) -> Result<Self, String> {
        let folder = tempfile::Builder::new().prefix("projectionist-disk-").tempdir().expect("a temporary folder");
        // Its owner has to get through.
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).expect("opening the folder");
        let disk = folder.path().join("disk");
        std::fs::create_dir(&disk).expect("a folder to mount on");
        let mut options = format!("size={kib}k,mode=0700");
        if let Some((uid, gid)) = owner {
            options.push_str(&format!(",uid={uid},gid={gid}"));
        }
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "projectionist-test"]).arg(&disk).output();
        match mounted {
            Ok(output) if output.status.success() => Ok(Self { folder }),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Err(format!("mount: {error}")),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// The file that takes all the room there is.
    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Fills it to the last byte.
    ///
    /// # Panics
    /// When that fails with anything but a full disk.
    pub fn fill(&self) {
        fill(&self.filler());
    }

    /// Makes room again.
    ///
    /// # Panics
    /// When it was not filled.
    pub fn clear(&self) {
        std::fs::remove_file(self.filler()).expect("removing the filler");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Whoever still has files open keeps them until it ends.
        Command::new("umount").arg("-l").arg(self.path()).status().ok();
    }
}

/// Writes into a file until the disk is full.
fn fill(path: &Path) {
    let mut file = std::fs::File::create(path).expect("a file that takes all the room");
    // In the end byte by byte, so that nothing is left.
    for size in [1 << 16, 1 << 10, 1] {
        let piece = vec![0; size];
        loop {
            match file.write_all(&piece) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("filling the disk: {error}"),
            }
        }
    }
}
