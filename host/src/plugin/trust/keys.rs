//! The keys that an operator trusts: a file with a public key a line, and a name for people behind it.
//!
//! ```text
//! # Who may deploy projections here.
//! ed25519 11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo= the build server
//! ```

use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::key::{NotAKey, PublicKey};

/// What a line with a key begins with.
const ALGORITHM: &str = "ed25519";

/// Keys with their names.
#[derive(Clone, Debug, Default)]
pub struct TrustedKeys(Vec<(PublicKey, String)>);

/// The line of a key.
#[must_use]
pub fn line(key: &PublicKey, name: &str) -> String {
    format!("{ALGORITHM} {key} {name}\n")
}

impl TrustedKeys {
    /// From a file.
    ///
    /// # Errors
    /// When it cannot be read, holds no key, or holds anything else. Nothing is passed over: whoever mistypes a key
    /// has to hear of it now, not when a plugin is refused.
    pub fn read(path: &Path) -> Result<Self, KeysError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| KeysError::Unreadable { path: path.to_owned(), source })?;
        let keys: Self = text.parse().map_err(|reason| KeysError::Line { path: path.to_owned(), reason })?;
        if keys.0.is_empty() { Err(KeysError::Empty { path: path.to_owned() }) } else { Ok(keys) }
    }

    /// What a key is called, if it is trusted.
    #[must_use]
    pub fn name_of(&self, key: &PublicKey) -> Option<&str> {
        self.0.iter().find(|(trusted, _)| trusted == key).map(|(_, name)| name.as_str())
    }
}

impl FromStr for TrustedKeys {
    type Err = BadLine;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut keys = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.split_ascii_whitespace();
            if words.next() != Some(ALGORITHM) {
                return Err(BadLine { number, reason: "it has to be `ed25519`, the key, and a name".to_owned() });
            }
            let key = words.next().ok_or(NotAKey::Form).and_then(str::parse::<PublicKey>);
            let key = key.map_err(|error| BadLine { number, reason: error.to_string() })?;
            let name = words.collect::<Vec<_>>().join(" ");
            keys.push((key, if name.is_empty() { key.to_string() } else { name }));
        }
        Ok(Self(keys))
    }
}

/// A line of a file of keys that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {number}: {reason}")]
pub struct BadLine {
    /// Which, from 1.
    pub number: usize,
    /// What about it.
    pub reason: String,
}

/// Why there are no trusted keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be read.
    #[error("cannot read the trusted keys {}: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("the trusted keys {}, {reason}", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// What about it.
        reason: BadLine,
    },
    /// The file holds nothing.
    #[error("the trusted keys {}: there is none in it", path.display())]
    Empty {
        /// Which file.
        path: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::super::key::PrivateKey;
    use super::*;

    #[test]
    fn keys_have_names_and_comments_and_a_mistake_has_its_line() {
        let [ada, bob] = [0, 1].map(|_| PrivateKey::generate().unwrap().public());
        let text = format!("# ours\n\n{}  ed25519 {bob}\n", line(&ada, "Ada,  build server"));
        let keys: TrustedKeys = text.parse().unwrap();
        assert_eq!(keys.name_of(&ada), Some("Ada, build server"));
        assert_eq!(keys.name_of(&bob), Some(&*bob.to_string()));
        assert_eq!(keys.name_of(&PrivateKey::generate().unwrap().public()), None);
        for wrong in ["ed25519", "ed25519 AAAA ada", "rsa AAAA ada", &ada.to_string()] {
            let error = format!("{text}{wrong}").parse::<TrustedKeys>().unwrap_err();
            assert_eq!(error.number, 5, "{wrong}: {error}");
        }
    }
}
