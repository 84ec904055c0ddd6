//! Detached signatures: what is signed, and the file `FILE.sig` beside a plugin's file.
//!
//! The message that a key signs is [`DOMAIN`] and then the 32 bytes of the file's SHA-256. The domain names what the
//! signature is for and in which version, so that no signature made for anything else, or for a later form of this
//! one, can be passed off as one of a plugin.
//!
//! The file has a line a signature, `projectionist-signature-v1 ed25519 PUBLIC-KEY SIGNATURE`, both in base64. The key
//! in it is only a hint which one to try: it counts for nothing unless the operator trusts it.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::super::digest::Digest;
use super::key::{PrivateKey, PublicKey, decode};

/// What a signed message begins with.
const DOMAIN: &[u8] = b"projectionist plugin signature v1, sha256\0";

/// What a line begins with.
const LINE: &str = "projectionist-signature-v1 ed25519 ";

/// No file of signatures is longer: whoever can write a plugin's folder must not be able to fill the host's memory.
const LONGEST: u64 = 64 << 10;

/// A signature and whose it claims to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Whose.
    pub key: PublicKey,
    /// The signature itself.
    bytes: [u8; 64],
}

impl Signature {
    /// Whether its key has made it, for a file with this digest.
    #[must_use]
    pub fn fits(&self, digest: &Digest) -> bool {
        self.key.verifies(&message(digest), &self.bytes)
    }

    /// As a line of text.
    fn line(&self) -> String {
        format!("{LINE}{} {}\n", self.key, BASE64_STANDARD.encode(self.bytes))
    }
}

/// What a key signs for a file with this digest.
fn message(digest: &Digest) -> Vec<u8> {
    [DOMAIN, digest.as_bytes()].concat()
}

/// The signatures of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signatures(Vec<Signature>);

/// Why the signatures of a file are not known.
#[derive(Debug, thiserror::Error)]
pub enum SignaturesError {
    /// They cannot be read.
    #[error("cannot read the signature {}: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("{} holds no signature, as `host plugin trust sign` makes it", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
    },
}

impl Signatures {
    /// Those beside a plugin's file; nothing where there is no file of signatures.
    ///
    /// # Errors
    /// When there is one, and it cannot be read or holds something else.
    pub fn beside(plugin: &Path) -> Result<Option<Self>, SignaturesError> {
        let path = path_of(plugin);
        let bytes = match read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(SignaturesError::Unreadable { path, source }),
        };
        let text = std::str::from_utf8(&bytes).ok().filter(|text| text.len() as u64 <= LONGEST);
        match text.and_then(parse) {
            Some(signatures) => Ok(Some(signatures)),
            None => Err(SignaturesError::Malformed { path }),
        }
    }

    /// One by one.
    pub fn iter(&self) -> impl Iterator<Item = &Signature> {
        self.0.iter()
    }
}

/// The bytes of a file, and no more of them than say that they are too many.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LONGEST + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What the file of a plugin's signatures holds now, to see that it has changed; nothing where there is none.
#[must_use]
pub fn state_of(plugin: &Path) -> Option<Digest> {
    read(&path_of(plugin)).ok().map(|bytes| Digest::of(&bytes))
}

/// The signatures in a text; nothing when anything else is in it.
fn parse(text: &str) -> Option<Signatures> {
    let line = |line: &str| {
        let (key, bytes) = line.strip_prefix(LINE)?.split_once(' ')?;
        Some(Signature { key: key.parse().ok()?, bytes: decode(bytes)? })
    };
    text.lines().map(line).collect::<Option<Vec<_>>>().filter(|all| !all.is_empty()).map(Signatures)
}

/// Where the signatures of a plugin's file are.
#[must_use]
pub fn path_of(plugin: &Path) -> PathBuf {
    let mut name = plugin.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}

/// Signs a file with this digest, and writes the signature beside it. What others have signed stays, unless it was for
/// other bytes: a file may be signed by an old and a new key while keys change.
///
/// # Errors
/// When it cannot be written.
pub fn sign(plugin: &Path, digest: &Digest, key: &PrivateKey) -> std::io::Result<PathBuf> {
    let path = path_of(plugin);
    let ours = Signature { key: key.public(), bytes: key.sign(&message(digest)) };
    let others = Signatures::beside(plugin).ok().flatten().unwrap_or_default();
    let others = others.0.iter().filter(|other| other.key != ours.key && other.fits(digest));
    let text: String = others.chain([&ours]).map(Signature::line).collect();
    // Written beside and renamed: a host that watches never finds half of it.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let readable = std::fs::Permissions::from_mode(0o644);
    let mut file = tempfile::Builder::new().prefix(".signature").permissions(readable).tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.persist(&path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_a_signature_is_for_ever() {
        // Made by another implementation (OpenSSL), with the secret key of RFC 8032's first test vector.
        let line = "projectionist-signature-v1 ed25519 11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo= 7zQrsKvpeXiHVPwCzwXB/B0wOHejJhGFOP69MFlBgvJTTuDH16XWkc1lUopBTbOTfSIwy9RyURSf4WOZpxHfDw==";
        let signatures = parse(line).unwrap();
        assert!(signatures.0[0].fits(&Digest::of(b"abc")));
        assert!(!signatures.0[0].fits(&Digest::of(b"abd")));
        assert_eq!(signatures.0[0].line().trim_end(), line);
    }

    #[test]
    fn a_signature_for_anything_else_is_none_of_a_plugin() {
        let key = PrivateKey::generate().unwrap();
        let digest = Digest::of(b"plugin");
        for message in [digest.as_bytes().to_vec(), [&DOMAIN[..DOMAIN.len() - 1], digest.as_bytes()].concat()] {
            assert!(!Signature { key: key.public(), bytes: key.sign(&message) }.fits(&digest));
        }
        assert!(Signature { key: key.public(), bytes: key.sign(&message(&digest)) }.fits(&digest));
    }

    #[test]
    fn what_holds_anything_else_is_no_file_of_signatures() {
        let folder = tempfile::tempdir().unwrap();
        let plugin = folder.path().join("plugin");
        let key = PrivateKey::generate().unwrap();
        sign(&plugin, &Digest::of(b""), &key).unwrap();
        let good = std::fs::read(path_of(&plugin)).unwrap();
        let long = good.repeat(LONGEST as usize / good.len() + 1);
        for bad in [b"".to_vec(), b"text\n".to_vec(), vec![0xff], good[..good.len() / 2].to_vec(), long] {
            std::fs::write(path_of(&plugin), &bad).unwrap();
            assert!(matches!(Signatures::beside(&plugin), Err(SignaturesError::Malformed { .. })), "{bad:?}");
        }
    }

    #[test]
    fn signing_again_keeps_what_others_have_signed_of_these_bytes_only() {
        let folder = tempfile::tempdir().unwrap();
        let plugin = folder.path().join("plugin");
        let [ada, bob] = [0, 1].map(|_| PrivateKey::generate().unwrap());
        let keys = || Signatures::beside(&plugin).unwrap().unwrap().0.iter().map(|one| one.key).collect::<Vec<_>>();
        let (old, new) = (Digest::of(b"old"), Digest::of(b"new"));
        for key in [&ada, &bob, &ada] {
            sign(&plugin, &old, key).unwrap();
        }
        assert_eq!(keys(), [bob.public(), ada.public()]);
        sign(&plugin, &new, &bob).unwrap();
        assert_eq!(keys(), [bob.public()]);
        let mode = std::fs::metadata(path_of(&plugin)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644, "the host may be another user");
    }
}
