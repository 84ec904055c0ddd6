//! What a host serves over HTTP, and to whom, as the operator says it.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::exit::UsageError;
use super::filters::addressed;
use crate::http::{Access, Bound, Token};
use crate::operations::health::MaxLag;
use crate::plugin::filter::Addressed;

/// What is served.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "What operators see")]
pub struct HttpOptions {
    /// Serve metrics and health at this address, such as 127.0.0.1:9187; port 0 is any free one
    #[arg(long, env = "HTTP", value_name = "ADDRESS")]
    http: Option<SocketAddr>,
    /// The file with the token that requests have to bear; needed where others than this machine can connect
    #[arg(long, env = "HTTP_TOKEN_FILE", value_name = "FILE", requires = "http")]
    http_token_file: Option<PathBuf>,
    /// How late a projection may be before its health is degraded; NAME=SECONDS is for one; may be said again
    #[arg(long, env = "MAX_LAG", value_name = "[NAME=]SECONDS", value_delimiter = ',', value_parser = seconds)]
    max_lag: Vec<Addressed<f64>>,
}

/// `[NAME=]SECONDS`
fn seconds(text: &str) -> Result<Addressed<f64>, String> {
    let lag = addressed::<f64>(text)?;
    if lag.value.is_finite() && lag.value >= 0.0 { Ok(lag) } else { Err("say seconds, such as 60 or 0.5".to_owned()) }
}

impl HttpOptions {
    /// Takes the address, if one was said. Nothing is served yet.
    ///
    /// # Errors
    /// When others could connect and there is no token, the token cannot be read, or the address is taken.
    pub fn bind(&self) -> anyhow::Result<Option<Bound>> {
        let Some(address) = self.http else { return Ok(None) };
        let token = self.http_token_file.as_deref().map(Token::read).transpose()?;
        let token_file = self.http_token_file.clone();
        let access = match token {
            Some(token) => Access::Bearers(token),
            None if address.ip().is_loopback() => Access::ThisMachine,
            None => {
                let message = format!("--http {address}: others than this machine can connect, and there is no token");
                let hint = "say --http-token-file FILE, or serve at 127.0.0.1";
                return Err(UsageError::new(message, hint).into());
            }
        };
        Ok(Some(Bound::new(address, access, token_file, self.max_lag())?))
    }

    /// How late projections may be.
    #[must_use]
    pub fn max_lag(&self) -> MaxLag {
        MaxLag(self.max_lag.clone())
    }

    /// A limit for a projection that is not there is a mistyped name.
    ///
    /// # Errors
    /// When there is one.
    pub fn refuse_strangers(&self, projections: &[String], elsewhere: &[String]) -> Result<(), UsageError> {
        let mut named = self.max_lag.iter().filter_map(|lag| lag.projection.as_ref());
        match named.find(|name| !projections.contains(name) && !elsewhere.contains(name)) {
            None => Ok(()),
            Some(stranger) => {
                let message = format!("--max-lag is for {stranger}, and no plugin is called that");
                Err(UsageError::new(message, format!("say NAME=… of one that is loaded: {}", projections.join(", "))))
            }
        }
    }
}
