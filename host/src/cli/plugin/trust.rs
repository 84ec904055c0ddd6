//! `host plugin trust`: makes keys, signs plugins, and says whose signature one carries.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::cli::exit::{Ended, UsageError};
use crate::cli::trust::usable;
use crate::plugin::digest::Digest;
use crate::plugin::trust::key::{PrivateKey, PrivateKeyError, Secrecy};
use crate::plugin::trust::keys::{self, TrustedKeys};
use crate::plugin::trust::signature;
use crate::plugin::trust::{Demand, Trust};

/// `host plugin trust`.
#[derive(Debug, Args)]
pub(super) struct TrustCommand {
    /// What to do.
    #[command(subcommand)]
    command: Which,
}

/// What to do about trust.
#[derive(Debug, Subcommand)]
enum Which {
    /// Make a key to sign plugins with: KEY, which stays secret, and KEY.pub, a line for the file of trusted keys
    #[command(after_help = "Example:\n  \
        host plugin trust keygen --out release.key --name 'the build server'\n  \
        cat release.key.pub >> trusted-keys.txt")]
    Keygen {
        /// Where to write the key; a file that is there already is never overwritten
        #[arg(long, value_name = "KEY")]
        out: PathBuf,
        /// What it is called in logs [default: the file's name]
        #[arg(long)]
        name: Option<String>,
    },
    /// Sign plugins: writes FILE.sig beside each
    #[command(after_help = "Example:\n  host plugin trust sign --key release.key user_count.wasm\n\n\
        Signatures of other keys for the same bytes stay, so that a file can be signed by an old and a new key. Deploy\n\
        FILE.sig before FILE, or with it.")]
    Sign {
        /// The private key, as keygen made it
        #[arg(long, env = "SIGNING_KEY", value_name = "KEY")]
        key: PathBuf,
        /// The plugins.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Say who has signed plugins; exit code 1 at the first that no trusted key has signed
    #[command(
        after_help = "Example:\n  host plugin trust verify --keys trusted-keys.txt user_count.wasm && deploy user_count.wasm"
    )]
    Verify {
        /// The file with the public keys whose signatures count
        #[arg(long, alias = "trusted-keys", env = "TRUSTED_KEYS", value_name = "FILE")]
        keys: PathBuf,
        /// The plugins.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

impl TrustCommand {
    /// Runs it.
    ///
    /// # Errors
    /// When a key or a file cannot be used, or a signature does not count.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        match &self.command {
            Which::Keygen { out, name } => keygen(out, name.as_deref()),
            Which::Sign { key, files } => sign(key, files),
            Which::Verify { keys, files } => verify(keys, files),
        }
    }
}

/// Makes a key.
fn keygen(out: &Path, name: Option<&str>) -> anyhow::Result<()> {
    let name = name.map_or_else(|| out.file_stem().unwrap_or_default().to_string_lossy().into_owned(), str::to_owned);
    if name.trim().is_empty() || name.chars().any(char::is_control) {
        return Err(UsageError::new(format!("{name:?} is no name for a key"), "say --name NAME, in one line").into());
    }
    let mut public = out.as_os_str().to_owned();
    public.push(".pub");
    let public = PathBuf::from(public);
    for path in [out, &public] {
        if path.symlink_metadata().is_ok() {
            let message = format!("{} is there already, and a key that is overwritten is lost", path.display());
            return Err(UsageError::new(message, "name another file with --out").into());
        }
    }
    let key = PrivateKey::generate()?;
    let line = keys::line(&key.public(), &name);
    key.write(out).map_err(|error| unwritable(out, &error))?;
    std::fs::write(&public, &line).map_err(|error| unwritable(&public, &error))?;
    crate::cli::print(&format!(
        "{}: keep it secret; whoever has it can sign plugins as {name}\n{}: {line}",
        out.display(),
        public.display()
    ))?;
    Ok(())
}

/// Signs files.
fn sign(key: &Path, files: &[PathBuf]) -> anyhow::Result<()> {
    let (private, secrecy) = PrivateKey::read(key).map_err(|error| match error {
        PrivateKeyError::Unreadable { .. } => UsageError::new(error.to_string(), "check the path given to --key"),
        PrivateKeyError::NotAKey { .. } | PrivateKeyError::Random(_) => {
            UsageError::new(error.to_string(), "name the file that keygen has written, the one without .pub")
        }
    })?;
    if secrecy == Secrecy::Shared {
        tracing::warn!(key = %key.display(), "others can read this private key, and sign plugins with it: chmod 600");
    }
    for file in files {
        let digest = digest_of(file)?;
        let written = signature::sign(file, &digest, &private);
        let written = written.map_err(|error| unwritable(&signature::path_of(file), &error))?;
        crate::cli::print_line(&format!("{}: sha256:{digest} signed in {}", file.display(), written.display()))?;
    }
    Ok(())
}

/// Says who has signed files.
fn verify(keys: &Path, files: &[PathBuf]) -> anyhow::Result<()> {
    let trust = Trust::new(usable(TrustedKeys::read(keys))?, Demand::Signature);
    for file in files {
        let digest = digest_of(file)?;
        // The answer is no, and nobody has mistyped anything.
        let standing = trust.admit(file, &digest);
        let standing = standing.map_err(|untrusted| Ended::failed(untrusted.to_string(), untrusted.advice()))?;
        crate::cli::print_line(&format!("{}: sha256:{digest} {standing}", file.display()))?;
    }
    Ok(())
}

/// The digest of a file.
fn digest_of(file: &Path) -> Result<Digest, UsageError> {
    let unreadable = |error| UsageError::new(format!("cannot read {}: {error}", file.display()), "check the path");
    std::fs::read(file).map(|bytes| Digest::of(&bytes)).map_err(unreadable)
}

/// A file that cannot be written.
fn unwritable(path: &Path, error: &std::io::Error) -> Ended {
    Ended::failed(format!("cannot write {}: {error}", path.display()), "check that this user may write there")
}
