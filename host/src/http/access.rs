//! Who may ask for what.
//!
//! Where there is a token, everything needs it but the two probes, which tell nothing. Where there is none, only this
//! machine can connect, and whoever is on it may look. A page that a browser there has open could ask too, under a name of
//! its own that it lets point here (DNS rebinding); so a request without a token has to name this machine. What changes
//! something, and what shows payloads, is off without a token.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use sha2::{Digest as _, Sha256};

/// How many characters a token has at least. Whoever can connect can try.
const LEAST: usize = 16;

/// What requests have to bear. Only its digest is kept: comparing digests tells nothing of the token by the time it takes.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// A token that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Its file.
    #[error("the token in {} cannot be read: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is too easily guessed.
    #[error("the token in {} has fewer than {LEAST} characters", path.display())]
    Short {
        /// Which.
        path: PathBuf,
    },
}

impl TokenError {
    /// What to do next.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "check the path given to --http-token-file",
            Self::Short { .. } => "make one: openssl rand -hex 32 >FILE",
        }
    }
}

impl Token {
    /// From its file; blanks around it do not count.
    ///
    /// # Errors
    /// When it cannot be read, or is too short.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| TokenError::Unreadable { path: path.to_owned(), source })?;
        let text = text.trim();
        if text.len() < LEAST {
            return Err(TokenError::Short { path: path.to_owned() });
        }
        Ok(Self(Sha256::digest(text).into()))
    }

    /// Whether a request bears it.
    fn is_borne(&self, headers: &HeaderMap) -> bool {
        let borne = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some((scheme, token)) = borne.and_then(|borne| borne.split_once(' ')) else { return false };
        let borne: [u8; 32] = Sha256::digest(token.trim()).into();
        scheme.eq_ignore_ascii_case("bearer") && borne == self.0
    }
}

/// Who may ask for what.
#[derive(Clone, Debug)]
pub enum Access {
    /// Whoever is on this machine may look, and nobody else can connect.
    ThisMachine,
    /// Whoever bears the token.
    Bearers(Token),
}

impl Access {
    /// Whether what was asked for with these headers may still be shown.
    pub(super) fn still_lets(&self, headers: &HeaderMap) -> bool {
        match self {
            Self::ThisMachine => true,
            Self::Bearers(token) => token.is_borne(headers),
        }
    }
}

/// Lets a request through that may look.
pub(super) async fn check(State(access): State<Arc<RwLock<Access>>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let access = access.read().unwrap_or_else(PoisonError::into_inner).clone();
    match &access {
        Access::Bearers(token) if !token.is_borne(headers) => unauthorized(),
        Access::ThisMachine if !names_this_machine(headers) => {
            let message = "this is served on this machine only: ask for it as 127.0.0.1 or localhost\n";
            (StatusCode::FORBIDDEN, message).into_response()
        }
        Access::Bearers(_) | Access::ThisMachine => next.run(request).await,
    }
}

/// Lets a request through that may do something, or see payloads: never without a token.
pub(super) async fn check_token(State(access): State<Arc<RwLock<Access>>>, request: Request, next: Next) -> Response {
    let access = access.read().unwrap_or_else(PoisonError::into_inner).clone();
    match access {
        Access::Bearers(token) if token.is_borne(request.headers()) => next.run(request).await,
        Access::Bearers(_) => unauthorized(),
        Access::ThisMachine => {
            let message = "this needs a token, and the host was started without one (--http-token-file)\n";
            (StatusCode::FORBIDDEN, message).into_response()
        }
    }
}

/// The answer to who bears no token, or a wrong one.
fn unauthorized() -> Response {
    let bearer = [(header::WWW_AUTHENTICATE, "Bearer")];
    (StatusCode::UNAUTHORIZED, bearer, "this needs the token: Authorization: Bearer TOKEN\n").into_response()
}

/// Whether the name that was asked for is this machine's own.
fn names_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return true };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let address: Option<IpAddr> =
        if name.eq_ignore_ascii_case("localhost") { Some(Ipv4Addr::LOCALHOST.into()) } else { name.parse().ok() };
    address.is_some_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    /// Headers with one line.
    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn only_names_of_this_machine_are_taken() {
        for name in ["localhost", "LOCALHOST:9187", "127.0.0.1:9187", "127.0.0.2", "[::1]:9187", "[::1]"] {
            assert!(names_this_machine(&headers(header::HOST, name)), "{name}");
        }
        for name in ["evil.example", "evil.example:9187", "localhost.evil.example", "10.0.0.1", ""] {
            assert!(!names_this_machine(&headers(header::HOST, name)), "{name}");
        }
    }

    #[test]
    fn a_token_is_borne_whole_or_not_at_all() {
        let token = Token(Sha256::digest("0123456789abcdef").into());
        assert!(token.is_borne(&headers(header::AUTHORIZATION, "Bearer 0123456789abcdef")));
        for wrong in ["Bearer 0123456789abcde", "Bearer ", "Basic 0123456789abcdef", "0123456789abcdef"] {
            assert!(!token.is_borne(&headers(header::AUTHORIZATION, wrong)), "{wrong}");
        }
    }
}
