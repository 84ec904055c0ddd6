//! Whose plugins run: signatures by keys that the operator trusts.
//!
//! A signature is detached: it stands in `FILE.sig` beside the file, so that a plugin stays what its build tool made.
//! [`key`] are the two halves of an Ed25519 key and their files, [`keys`] the list of those that an operator trusts,
//! [`signature`] what is signed and how it is written down. [`Trust`] ties them: it is asked once for each file, about
//! the digest of the very bytes that are compiled then, before anything has parsed a single one of them.
//!
//! **What a signature says** is who made or approved a file. It does not say which of the files of that signer is
//! meant: whoever may write into the plugin's folder can put an older one back. A pin (`--plugin FILE@sha256:…`) does.

pub mod key;
pub mod keys;
pub mod signature;

use std::fmt;
use std::path::{Path, PathBuf};

use self::key::PublicKey;
use self::keys::TrustedKeys;
use self::signature::Signatures;
use super::digest::Digest;

/// What has to be known of a plugin before it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Nothing: signatures are only told.
    Nothing,
    /// That a trusted key has signed it.
    Signature,
}

/// Whose plugins run.
#[derive(Clone, Debug)]
pub struct Trust {
    /// Whose signatures count.
    keys: TrustedKeys,
    /// Whether one is needed.
    demand: Demand,
}

impl Default for Trust {
    /// Everybody's.
    fn default() -> Self {
        Self::new(TrustedKeys::default(), Demand::Nothing)
    }
}

impl Trust {
    /// Those of these keys.
    #[must_use]
    pub fn new(keys: TrustedKeys, demand: Demand) -> Self {
        Self { keys, demand }
    }

    /// What the signatures beside a file say of bytes with this digest.
    #[must_use]
    pub fn judge(&self, path: &Path, digest: &Digest) -> Standing {
        let signatures = match Signatures::beside(path) {
            Ok(Some(signatures)) => signatures,
            Ok(None) => return Standing::Doubtful(Doubt::Unsigned),
            Err(error) => return Standing::Doubtful(Doubt::Unreadable(error.to_string())),
        };
        let (mut other_bytes, mut strangers) = (None, Vec::new());
        for signature in signatures.iter() {
            // Keys change over time, so there may be several: one that is good is enough.
            match (self.keys.name_of(&signature.key), signature.fits(digest)) {
                (Some(name), true) => return Standing::By(name.to_owned()),
                (Some(name), false) => other_bytes = Some(name.to_owned()),
                (None, true) => strangers.push(signature.key),
                (None, false) => drop(other_bytes.get_or_insert_with(|| signature.key.to_string())),
            }
        }
        Standing::Doubtful(match other_bytes {
            Some(by) => Doubt::OtherBytes { by },
            None => Doubt::ByStrangers(strangers),
        })
    }

    /// As [`Trust::judge`], for a file that is to be run.
    ///
    /// # Errors
    /// [`Untrusted`] when a signature is needed and there is none that counts.
    pub fn admit(&self, path: &Path, digest: &Digest) -> Result<Standing, Untrusted> {
        match self.judge(path, digest) {
            Standing::Doubtful(doubt) if self.demand == Demand::Signature => {
                Err(Untrusted { path: path.to_owned(), doubt })
            }
            standing => Ok(standing),
        }
    }
}

/// What the signatures beside a file say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A trusted key has signed it: its name.
    By(String),
    /// No trusted key has.
    Doubtful(Doubt),
}

/// Why a file does not count as signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// There is no signature.
    Unsigned,
    /// Only keys that are not trusted have signed it.
    ByStrangers(Vec<PublicKey>),
    /// There is a signature, and it is for other bytes.
    OtherBytes {
        /// The name of its key, or the key.
        by: String,
    },
    /// The signatures cannot be read: why.
    Unreadable(String),
}

impl Standing {
    /// The name of the trusted key that has signed it.
    #[must_use]
    pub fn signer(&self) -> Option<&str> {
        match self {
            Self::By(name) => Some(name),
            Self::Doubtful(_) => None,
        }
    }
}

impl fmt::Display for Standing {
    /// In a few words, for the log and for `inspect`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::By(name) => write!(f, "signed by {name}"),
            Self::Doubtful(Doubt::Unsigned) => f.write_str("not signed"),
            Self::Doubtful(Doubt::ByStrangers(keys)) => {
                write!(f, "signed by {}, not among the trusted keys", listed(keys))
            }
            Self::Doubtful(Doubt::OtherBytes { by }) => write!(f, "NOT the bytes that {by} has signed"),
            Self::Doubtful(Doubt::Unreadable(reason)) => f.write_str(reason),
        }
    }
}

/// A file that no trusted key has signed, where that is demanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.told())]
pub struct Untrusted {
    /// The file.
    pub path: PathBuf,
    /// Why it does not count as signed.
    pub doubt: Doubt,
}

impl Untrusted {
    /// What about it.
    fn told(&self) -> String {
        let (path, signature) = (self.path.display(), signature::path_of(&self.path));
        let signature = signature.display();
        match &self.doubt {
            Doubt::Unsigned => format!("{path} is not signed: there is no signature in {signature}"),
            Doubt::ByStrangers(keys) => {
                format!("{path} is signed by nobody who is trusted, only by the key {}", listed(keys))
            }
            Doubt::OtherBytes { by } => {
                format!("{path} is not the file that {by} has signed: its bytes are not those of {signature}")
            }
            Doubt::Unreadable(reason) => reason.clone(),
        }
    }

    /// What to do next.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self.doubt {
            Doubt::Unsigned => "have it signed by somebody whom you trust: host plugin trust sign --key KEY FILE",
            Doubt::ByStrangers(_) => "if you trust whoever has that key, add it to the file of --trusted-keys",
            Doubt::OtherBytes { .. } => {
                "deploy the file and its signature together, as they were made; if it was changed, find out by whom"
            }
            Doubt::Unreadable(_) => "sign it again: host plugin trust sign --key KEY FILE",
        }
    }
}

/// Keys in a message.
fn listed(keys: &[PublicKey]) -> String {
    keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::key::PrivateKey;
    use super::*;

    /// A folder with a file `plugin` signed by a key, and that key.
    fn signed() -> (tempfile::TempDir, PathBuf, Digest, PrivateKey) {
        let folder = tempfile::tempdir().unwrap();
        let (path, digest, key) =
            (folder.path().join("plugin"), Digest::of(b"plugin"), PrivateKey::generate().unwrap());
        signature::sign(&path, &digest, &key).unwrap();
        (folder, path, digest, key)
    }

    /// Trust in keys of these names.
    fn trust(keys: &[(&PrivateKey, &str)]) -> Trust {
        let text: String = keys.iter().map(|(key, name)| keys::line(&key.public(), name)).collect();
        Trust::new(text.parse().unwrap(), Demand::Signature)
    }

    #[test]
    fn a_signature_counts_only_for_its_bytes_and_only_of_a_trusted_key() {
        let (_folder, path, digest, ada) = signed();
        let bob = PrivateKey::generate().unwrap();
        let both = trust(&[(&bob, "bob"), (&ada, "ada")]);
        assert_eq!(both.admit(&path, &digest).unwrap(), Standing::By("ada".into()));
        let other = Digest::of(b"plugin, changed");
        assert_eq!(both.admit(&path, &other).unwrap_err().doubt, Doubt::OtherBytes { by: "ada".into() });
        let only_bob = trust(&[(&bob, "bob")]);
        assert_eq!(only_bob.admit(&path, &digest).unwrap_err().doubt, Doubt::ByStrangers(vec![ada.public()]));
        let missing = path.with_file_name("other");
        assert_eq!(both.admit(&missing, &digest).unwrap_err().doubt, Doubt::Unsigned);
    }

    #[test]
    fn without_the_demand_signatures_are_only_told() {
        let (_folder, path, digest, ada) = signed();
        let strangers = Standing::Doubtful(Doubt::ByStrangers(vec![ada.public()]));
        assert_eq!(Trust::default().admit(&path, &digest), Ok(strangers));
        let other_bytes = Standing::Doubtful(Doubt::OtherBytes { by: ada.public().to_string() });
        assert_eq!(Trust::default().admit(&path, &Digest::of(b"")), Ok(other_bytes));
    }

    #[test]
    fn one_good_signature_among_others_is_enough() {
        let (_folder, path, digest, ada) = signed();
        let bob = PrivateKey::generate().unwrap();
        signature::sign(&path, &digest, &bob).unwrap();
        assert_eq!(trust(&[(&bob, "bob")]).judge(&path, &digest), Standing::By("bob".into()));
        assert_eq!(trust(&[(&ada, "ada")]).judge(&path, &digest), Standing::By("ada".into()));
    }

    #[test]
    fn a_key_cannot_claim_the_signature_of_another() {
        let (_folder, path, digest, ada) = signed();
        let bob = PrivateKey::generate().unwrap();
        let file = signature::path_of(&path);
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace(&ada.public().to_string(), &bob.public().to_string())).unwrap();
        assert_eq!(
            trust(&[(&bob, "bob")]).judge(&path, &digest),
            Standing::Doubtful(Doubt::OtherBytes { by: "bob".into() })
        );
    }
}
