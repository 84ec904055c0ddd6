//! [`Output`]: a file that appears under its name only when it is whole (it is written beside, and renamed at the
//! end), or stdout, or a pipe; compressed where the name says so.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, StdoutLock, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::NamedTempFile;

/// Where lines go, compressed or not.
pub(super) enum Output {
    /// As they are.
    Plain(BufWriter<Destination>),
    /// By gzip.
    Gzip(GzEncoder<BufWriter<Destination>>),
}

/// Where bytes go.
pub(super) enum Destination {
    /// To whoever reads ours.
    Stdout(StdoutLock<'static>),
    /// Into something that is no plain file, such as a named pipe.
    Special(File),
    /// Into a file that has another name yet.
    Beside {
        /// Deleted when it is dropped before it has its name.
        file: NamedTempFile,
        /// The name it gets.
        path: PathBuf,
    },
}

impl Output {
    /// Opens the file.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Plain(BufWriter::new(Destination::Stdout(io::stdout().lock()))));
        }
        let destination = BufWriter::new(Destination::create(path)?);
        Ok(if path.extension().is_some_and(|extension| extension == "gz") {
            Self::Gzip(GzEncoder::new(destination, Compression::default()))
        } else {
            Self::Plain(destination)
        })
    }

    /// Writes what is buffered, and gives the file its name, which is returned.
    pub(super) fn finish(self) -> io::Result<Option<PathBuf>> {
        let buffered = match self {
            Self::Plain(output) => output,
            Self::Gzip(output) => output.finish()?,
        };
        match buffered.into_inner().map_err(io::IntoInnerError::into_error)? {
            Destination::Stdout(mut stdout) => stdout.flush().map(|()| None),
            Destination::Special(mut file) => file.flush().map(|()| None),
            Destination::Beside { file, path } => {
                file.as_file().sync_all()?;
                file.persist(&path).map_err(|error| error.error)?;
                Ok(Some(path))
            }
        }
    }
}

impl Destination {
    /// Opens it.
    fn create(path: &Path) -> io::Result<Self> {
        // Behind a link, the file that it points to is replaced, and not the link.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        match path.metadata() {
            Ok(metadata) if metadata.is_dir() => return Err(ErrorKind::IsADirectory.into()),
            Ok(metadata) if !metadata.is_file() => return Ok(Self::Special(File::options().write(true).open(path)?)),
            _ => {}
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        builder.prefix(".host-export-").suffix(".part");
        // As any new file; the umask takes from it what it takes from others.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        Ok(Self::Beside { file: builder.tempfile_in(folder)?, path })
    }
}

impl Write for Destination {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(output) => output.write(bytes),
            Self::Special(output) => output.write(bytes),
            Self::Beside { file, .. } => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(output) => output.flush(),
            Self::Special(output) => output.flush(),
            Self::Beside { file, .. } => file.flush(),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(output) => output.write(bytes),
            Self::Gzip(output) => output.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(output) => output.flush(),
            Self::Gzip(output) => output.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    /// The names in a folder.
    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_has_its_name_when_it_is_whole_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.ndjson");
        std::fs::write(&path, "old").unwrap();

        let mut output = Output::create(&path).unwrap();
        output.write_all(b"half").unwrap();
        output.flush().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        drop(output);
        assert_eq!(names(folder.path()), ["x.ndjson"]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");

        let mut output = Output::create(&path).unwrap();
        output.write_all(b"whole").unwrap();
        assert!(output.finish().unwrap().is_some());
        assert_eq!(names(folder.path()), ["x.ndjson"]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "whole");
    }

    #[test]
    fn a_name_that_ends_in_gz_is_compressed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.ndjson.gz");
        let mut output = Output::create(&path).unwrap();
        output.write_all(b"text").unwrap();
        output.finish().unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(File::open(&path).unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");
    }

    #[test]
    fn a_folder_is_no_file_and_a_missing_one_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Output::create(folder.path()).is_err());
        assert!(Output::create(&folder.path().join("missing/x")).is_err());
    }
}
