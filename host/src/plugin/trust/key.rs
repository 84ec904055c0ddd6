//! The two halves of an Ed25519 key (RFC 8032), and how they are written down.

use std::fmt;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use rand::TryRngCore as _;

/// What stands before a private key in its file.
const PRIVATE: &str = "projectionist-private-key ed25519 ";

/// What verifies signatures. Written as base64 of its 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Whether this key has made this signature of this message. Strict: of the signatures that implementations
    /// disagree about, none counts.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.0.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// Text that is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAKey {
    /// It is not 32 bytes in base64.
    #[error("a key is 32 bytes in base64, 44 characters")]
    Form,
    /// It is no point of the curve, or one for which anybody can make signatures.
    #[error("it is no Ed25519 key")]
    Unsafe,
}

impl FromStr for PublicKey {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes: [u8; 32] = decode(text).ok_or(NotAKey::Form)?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| NotAKey::Unsafe)?;
        if key.is_weak() { Err(NotAKey::Unsafe) } else { Ok(Self(key)) }
    }
}

/// What makes signatures.
pub struct PrivateKey(SigningKey);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(of {})", self.public())
    }
}

/// Why there is no private key.
#[derive(Debug, thiserror::Error)]
pub enum PrivateKeyError {
    /// The system gives no randomness.
    #[error("the system gives no random numbers for a key: {0}")]
    Random(rand::rand_core::OsError),
    /// The file cannot be read.
    #[error("cannot read the private key {}: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("{} holds no private key, as `host plugin trust keygen` makes it", path.display())]
    NotAKey {
        /// Which file.
        path: PathBuf,
    },
}

impl PrivateKey {
    /// A new one.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate() -> Result<Self, PrivateKeyError> {
        let mut seed = [0; 32];
        rand::rngs::OsRng.try_fill_bytes(&mut seed).map_err(PrivateKeyError::Random)?;
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// From its file. Whether others can read that, too, is the second answer.
    ///
    /// # Errors
    /// When it cannot be read or holds something else; the message never quotes it.
    pub fn read(path: &Path) -> Result<(Self, Secrecy), PrivateKeyError> {
        let unreadable = |source| PrivateKeyError::Unreadable { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let mode = std::fs::metadata(path).map_err(unreadable)?.permissions().mode();
        let key = text.lines().find_map(|line| decode(line.strip_prefix(PRIVATE)?));
        let key = key.ok_or_else(|| PrivateKeyError::NotAKey { path: path.to_owned() })?;
        let secrecy = if mode & 0o077 == 0 { Secrecy::Kept } else { Secrecy::Shared };
        Ok((Self(SigningKey::from_bytes(&key)), secrecy))
    }

    /// Writes it into a new file that only this user can read.
    ///
    /// # Errors
    /// When it cannot be written, or is there already: a key that is overwritten is lost.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let key = BASE64_STANDARD.encode(self.0.as_bytes());
        let warning = "# Whoever can read this file can sign plugins in your name.";
        file.write_all(format!("{warning}\n{PRIVATE}{key}\n").as_bytes())?;
        file.sync_all()
    }

    /// Its other half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// Signs a message.
    pub(super) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

/// Who can read a private key's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrecy {
    /// Its owner alone.
    Kept,
    /// Others, too.
    Shared,
}

/// So many bytes in base64.
pub(super) fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    BASE64_STANDARD.decode(text.trim_end()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_key_is_for_its_owner_alone_and_never_overwritten_or_printed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let key = PrivateKey::generate().unwrap();
        key.write(&path).unwrap();
        let (read, secrecy) = PrivateKey::read(&path).unwrap();
        assert_eq!((read.public(), secrecy), (key.public(), Secrecy::Kept));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(key.write(&path).unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
        let secret = BASE64_STANDARD.encode(key.0.as_bytes());
        assert!(std::fs::read_to_string(&path).unwrap().contains(&secret));
        assert!(!format!("{key:?}").contains(&secret));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(PrivateKey::read(&path).unwrap().1, Secrecy::Shared);
        std::fs::write(&path, format!("{PRIVATE}{secret}garbage")).unwrap();
        let error = PrivateKey::read(&path).unwrap_err().to_string();
        assert!(error.contains("holds no private key") && !error.contains(&secret), "{error}");
    }

    #[test]
    fn keys_for_which_anybody_can_sign_are_none() {
        let neutral = BASE64_STANDARD.encode([1].into_iter().chain([0; 31]).collect::<Vec<u8>>());
        assert_eq!(neutral.parse::<PublicKey>(), Err(NotAKey::Unsafe));
        assert_eq!("AAAA".parse::<PublicKey>(), Err(NotAKey::Form));
        let key = PrivateKey::generate().unwrap().public();
        assert_eq!(key.to_string().parse(), Ok(key));
    }
}
