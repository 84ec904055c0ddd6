//! What the operator set for this projection with `--set key=value`.
//!
//! ```
//! # use projectionist_sdk::{config, Failure};
//! # fn read() -> Result<u32, Failure> {
//! let minutes: u32 = config::parse("late_after_min")?.unwrap_or(15);
//! # Ok(minutes)
//! # }
//! # assert_eq!(read(), Ok(15));
//! ```

use std::{any::type_name, error::Error, fmt, str::FromStr};

/// The value set for `key`, if there is one.
pub fn get(key: &str) -> Option<String> {
    source::get(key)
}

/// The value set for `key` as a `T`, if there is one.
///
/// # Errors
///
/// When there is one that is no `T`; the error names both. Never when there is none: a projection should
/// have defaults, so that it can be tried without any setting.
pub fn parse<T>(key: &str) -> Result<Option<T>, ConfigError>
where
    T: FromStr<Err: fmt::Display>,
{
    get(key)
        .map(|value| {
            value.parse().map_err(|error: T::Err| ConfigError {
                problem: error.to_string(),
                wanted: type_name::<T>(),
                key: key.to_owned(),
                value,
            })
        })
        .transpose()
}

/// A setting that is not of the type the projection wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Which setting.
    key: String,
    /// What it was set to.
    value: String,
    /// The Rust type it should parse as.
    wanted: &'static str,
    /// What parsing said.
    problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, wanted, problem } = self;
        write!(f, "the setting {key}={value} is no {wanted}: {problem}")
    }
}

impl Error for ConfigError {}

/// Settings from the host.
#[cfg(target_family = "wasm")]
mod source {
    pub(super) use crate::bindings::projectionist::projection::config::get;
}

/// Settings from a test.
#[cfg(not(target_family = "wasm"))]
pub(crate) mod source {
    use std::{cell::RefCell, collections::BTreeMap};

    thread_local! {
        /// What the test that runs on this thread has set.
        static SETTINGS: RefCell<BTreeMap<String, String>> = const { RefCell::new(BTreeMap::new()) };
    }

    /// The value the test has set.
    pub(super) fn get(key: &str) -> Option<String> {
        SETTINGS.with_borrow(|settings| settings.get(key).cloned())
    }

    /// Makes these the settings that a projection on this thread reads from now on.
    pub(crate) fn install(settings: &BTreeMap<String, String>) {
        SETTINGS.set(settings.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_setting_reads_as_its_type_or_says_what_it_is() {
        source::install(&BTreeMap::from([("late".into(), "15".into()), ("bad".into(), "x".into())]));
        assert_eq!(get("late").as_deref(), Some("15"));
        assert_eq!(parse("late"), Ok(Some(15)));
        assert_eq!(parse::<u32>("unset"), Ok(None));
        let message = "the setting bad=x is no u32: invalid digit found in string";
        assert_eq!(parse::<u32>("bad").unwrap_err().to_string(), message);
    }
}
