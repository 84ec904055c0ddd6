//! What holds a projection's SQL on Postgres, should the guard let something through: `--isolation`.

use std::fmt;
use std::str::FromStr;

/// How a projection's statements are kept apart from what is the host's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// As a role that owns the projection's schema and nothing else, set for the transaction.
    #[default]
    Role,
    /// In a session that logs in as that role, with no other to go back to: for what nobody has reason to trust.
    Login,
}

impl Isolation {
    /// What it is called, on the command line and in `status`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Role => "role",
            Self::Login => "login",
        }
    }
}

impl FromStr for Isolation {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "role" => Ok(Self::Role),
            "login" => Ok(Self::Login),
            _ => Err("say role or login"),
        }
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
