//! Whose plugins are run, as the operator says it. Keys and signatures are made by `host plugin trust`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::BoolishValueParser;

use super::exit::UsageError;
use super::overrides::Own;
use crate::plugin::trust::keys::{KeysError, TrustedKeys};
use crate::plugin::trust::{Demand, Trust};

/// Whose plugins are run.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Whose plugins are run")]
pub struct TrustOptions {
    /// Run only plugins that a trusted key has signed, also those that --watch takes up
    #[arg(long, env = "REQUIRE_SIGNATURE", value_parser = BoolishValueParser::new())]
    require_signature: bool,
    /// Whose signatures count.
    #[command(flatten)]
    keys: KeysOption,
}

/// Whose signatures count.
#[derive(Clone, Debug, Args)]
pub struct KeysOption {
    /// The file with the public keys whose signatures count, a line each: `ed25519 KEY NAME`
    #[arg(long, env = "TRUSTED_KEYS", value_name = "FILE")]
    trusted_keys: Option<PathBuf>,
}

impl TrustOptions {
    /// Reads the keys.
    ///
    /// # Errors
    /// When there are none where they are needed, or they cannot be read.
    pub fn trust(&self) -> Result<Trust, UsageError> {
        if self.require_signature && self.keys.trusted_keys.is_none() {
            let hint = "say whose signatures count: --trusted-keys FILE, a line `ed25519 KEY NAME` each";
            return Err(UsageError::new("--require-signature without --trusted-keys", hint));
        }
        let demand = if self.require_signature { Demand::Signature } else { Demand::Nothing };
        Ok(Trust::new(self.keys.read()?, demand))
    }

    /// As [`TrustOptions::trust`], for a projection of which something else is said.
    ///
    /// # Errors
    /// As there.
    pub fn trust_of(&self, projection: &str, own: &Own<'_>) -> Result<Trust, UsageError> {
        let require_signature = own.require_signature.unwrap_or(self.require_signature);
        let trusted_keys = own.trusted_keys.or(self.keys.trusted_keys.as_ref()).cloned();
        if require_signature && trusted_keys.is_none() {
            let hint = "say whose signatures count: trusted_keys, a file with a line `ed25519 KEY NAME` each";
            return Err(UsageError::new(format!("{projection} has require_signature without trusted_keys"), hint));
        }
        Self { require_signature, keys: KeysOption { trusted_keys } }.trust()
    }
}

impl KeysOption {
    /// Reads the keys; none where no file was said.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn read(&self) -> Result<TrustedKeys, UsageError> {
        self.trusted_keys.as_deref().map_or_else(|| Ok(TrustedKeys::default()), |path| usable(TrustedKeys::read(path)))
    }
}

/// The keys, or what to do about them.
///
/// # Errors
/// When there are none.
pub fn usable(keys: Result<TrustedKeys, KeysError>) -> Result<TrustedKeys, UsageError> {
    keys.map_err(|error| {
        let hint = match error {
            KeysError::Unreadable { .. } => "check the path given to --trusted-keys",
            KeysError::Line { .. } | KeysError::Empty { .. } => {
                "a line is `ed25519 KEY NAME`, as `host plugin trust keygen` leaves it in KEY.pub; # begins a comment"
            }
        };
        UsageError::new(error.to_string(), hint)
    })
}
