//! Reading `projectionist.toml`: every key is known, every value fits, or the error says on which line not.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Command;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{options, place};
use crate::plugin::descriptor::check_name;

/// Something is wrong with the file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something in it is wrong.
    #[error("{}: {message}", place(path, *line))]
    Wrong {
        /// Which.
        path: PathBuf,
        /// On which line.
        line: usize,
        /// What.
        message: String,
        /// What to do next.
        hint: String,
    },
}

impl ConfigError {
    /// What to do next.
    #[must_use]
    pub fn advice(&self) -> &str {
        match self {
            Self::Unreadable { .. } => "check the path given to --config (PROJECTIONIST_CONFIG)",
            Self::Wrong { hint, .. } => hint,
        }
    }
}

/// What the file says of one option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The key, as it stands there: `batch_size`, `projections.user_count.max_lag`.
    pub(super) key: String,
    /// The option, by its key at the top of the file; `plugin` and `set` are not found there.
    pub(super) option: String,
    /// Its values, as they would be typed.
    pub(super) values: Vec<String>,
}

/// A configuration that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// From where.
    path: PathBuf,
    /// What it says.
    entries: Vec<Entry>,
    /// The projections that have a section.
    projections: Vec<String>,
}

/// Reads one file.
struct Reading<'file> {
    /// From where.
    path: &'file Path,
    /// What stands there.
    text: &'file str,
    /// The command line, which knows the options.
    command: &'file Command,
    /// What was read.
    entries: Vec<Entry>,
    /// The sections of projections.
    projections: Vec<String>,
}

/// The keys of a projection's section that are options with a name in front.
pub(super) const ADDRESSED: [&str; 5] = ["only_aggregate_type", "redact_payload", "grant_read", "isolation", "max_lag"];

/// Those that `--for` takes.
const OVERRIDES: [&str; 6] = ["workers", "batch_size", "on_error", "max_attempts", "poll_interval", "priority"];

impl Config {
    /// Reads a file, for the options of this command line.
    ///
    /// # Errors
    /// When it cannot be read, or something in it is wrong.
    pub fn read(path: &Path, command: &Command) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let mut reading = Reading { path, text: &text, command, entries: vec![], projections: vec![] };
        let table = DeTable::parse(&text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            reading.wrong(at, error.message().to_owned(), "write it as TOML: https://toml.io")
        })?;
        reading.top(table.get_ref())?;
        let Reading { mut entries, projections, .. } = reading;
        // What is set for one projection goes before what is set for all: of settings, the last counts.
        entries.sort_by_key(|entry| entry.key.contains('.'));
        Ok(Self { path: path.to_owned(), entries, projections })
    }

    /// From where it was read.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many keys it has.
    #[must_use]
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// The projections that have a section: what is set for one of them is no mistyped name, also where it does not run.
    #[must_use]
    pub fn projections(&self) -> &[String] {
        &self.projections
    }

    /// The plugins it names, as `--plugin` takes them.
    pub fn plugins(&self) -> impl Iterator<Item = &str> {
        self.of("plugin")
    }

    /// The values of an option.
    pub(super) fn of<'config>(&'config self, option: &'config str) -> impl Iterator<Item = &'config str> {
        let entries = self.entries.iter().filter(move |entry| entry.option == option);
        entries.flat_map(|entry| entry.values.iter().map(String::as_str))
    }

    /// The keys whose values are others than in `before`, or that only one of the two has.
    #[must_use]
    pub fn changed_since<'config>(&'config self, before: &'config Self) -> BTreeSet<&'config str> {
        let added = self.entries.iter().filter(|entry| !before.entries.contains(entry));
        let gone = before.entries.iter().filter(|entry| !self.entries.contains(entry));
        added.chain(gone).map(|entry| &*entry.key).collect()
    }
}

impl Reading<'_> {
    /// An error at a byte of the text.
    fn wrong(&self, at: usize, message: String, hint: impl Into<String>) -> ConfigError {
        let line = self.text.get(..at).unwrap_or(self.text).matches('\n').count() + 1;
        ConfigError::Wrong { path: self.path.to_owned(), line, message, hint: hint.into() }
    }

    /// The top of the file.
    fn top(&mut self, table: &DeTable<'_>) -> Result<(), ConfigError> {
        for (key, value) in table {
            match &**key.get_ref() {
                "projections" => {
                    for (name, section) in self.table("projections", value)? {
                        self.projection(name, section)?;
                    }
                }
                "settings" => {
                    let settings = self.settings("settings", value)?;
                    self.note("settings", "set", settings);
                }
                name => {
                    let Some(option) = options::find(self.command, name) else {
                        return Err(self.unknown(key, &options::keys(self.command)));
                    };
                    let values = self.values(name, value)?;
                    let at = value.span().start;
                    options::check(&option, &values).map_err(|message| self.wrong(at, message, "see docs/cli.md"))?;
                    self.note(name, name, values);
                }
            }
        }
        Ok(())
    }

    /// The section of a projection.
    fn projection(
        &mut self,
        name: &Spanned<impl AsRef<str>>,
        section: &Spanned<DeValue<'_>>,
    ) -> Result<(), ConfigError> {
        let (at, name) = (name.span().start, name.get_ref().as_ref());
        check_name(name)
            .map_err(|error| self.wrong(at, format!("[projections.{name}]: {error}"), "see docs/cli.md"))?;
        self.projections.push(name.to_owned());
        let (mut plugin, mut digest) = (None, None);
        for (key, value) in self.table(name, section)? {
            let (word, place) = (&**key.get_ref(), format!("projections.{name}.{}", key.get_ref()));
            let at = value.span().start;
            match word {
                "replica_set" => {
                    let set = self.one(&place, value)?;
                    check_name(&set)
                        .map_err(|error| self.wrong(at, error.to_string(), "say the name of a replica set"))?;
                    self.note(&place, "replica_set", vec![format!("{set}={name}")]);
                }
                "plugin" => plugin = Some(self.one(&place, value)?),
                "digest" => digest = Some(self.one(&place, value)?),
                "settings" => {
                    let settings = self.settings(&place, value)?;
                    self.note(&place, "set", settings.into_iter().map(|setting| format!("{name}.{setting}")).collect());
                }
                word if ADDRESSED.contains(&word) || OVERRIDES.contains(&word) => {
                    let values = self.values(&place, value)?;
                    let (of, values): (&str, Vec<String>) = if OVERRIDES.contains(&word) {
                        ("for", values.into_iter().map(|value| format!("{name}.{word}={value}")).collect())
                    } else {
                        (word, values.into_iter().map(|value| format!("{name}={value}")).collect())
                    };
                    let option = options::find(self.command, of);
                    let checked = option.map_or(Ok(()), |option| options::check(&option, &values));
                    checked.map_err(|message| self.wrong(at, message, "see docs/cli.md"))?;
                    self.note(&place, of, values);
                }
                _ => {
                    let own = ["plugin", "digest", "settings", "replica_set"];
                    let known = own.iter().chain(&ADDRESSED).chain(&OVERRIDES).map(|key| (*key).to_owned());
                    return Err(self.unknown(key, &known.collect::<Vec<_>>()));
                }
            }
        }
        match (plugin, digest) {
            (Some(plugin), digest) => {
                let pin = digest.map(|digest| format!("@sha256:{}", digest.trim_start_matches("sha256:")));
                let plugin = format!("{name}={plugin}{}", pin.unwrap_or_default());
                self.note(&format!("projections.{name}.plugin"), "plugin", vec![plugin]);
                Ok(())
            }
            (None, Some(_)) => {
                let hint = "say which file it pins: plugin = \"FILE\"";
                Err(self.wrong(at, format!("[projections.{name}] has a digest and no plugin"), hint))
            }
            (None, None) => Ok(()),
        }
    }

    /// Keeps what was read.
    fn note(&mut self, key: &str, option: &str, values: Vec<String>) {
        self.entries.push(Entry { key: key.to_owned(), option: option.to_owned(), values });
    }

    /// The error of a key that is none.
    fn unknown(&self, key: &Spanned<impl AsRef<str>>, known: &[String]) -> ConfigError {
        let word = key.get_ref().as_ref();
        let near = known.iter().filter(|known| is_near(known, word)).cloned().collect::<Vec<_>>();
        let hint = match &near[..] {
            [] if known.len() < 20 => format!("there are: {}", known.join(", ")),
            [] => "keys are the options that have a variable, with _ for -: see docs/cli.md".to_owned(),
            near => format!("did you mean {}?", near.join(" or ")),
        };
        self.wrong(key.span().start, format!("there is no key {word}"), hint)
    }

    /// A table.
    fn table<'value, 'text>(
        &self,
        key: &str,
        value: &'value Spanned<DeValue<'text>>,
    ) -> Result<&'value DeTable<'text>, ConfigError> {
        value.get_ref().as_table().ok_or_else(|| {
            let message = format!("{key} is a section, and here it is {}", told(value.get_ref()));
            self.wrong(value.span().start, message, format!("write it as [{key}]"))
        })
    }

    /// Settings of projections: a table of values.
    fn settings(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<Vec<String>, ConfigError> {
        let setting = |(name, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
            let name: &std::borrow::Cow<'_, str> = name.get_ref();
            Ok(format!("{name}={}", self.one(&format!("{key}.{name}"), value)?))
        };
        self.table(key, value)?.iter().map(setting).collect()
    }

    /// One value, as it would be typed.
    fn one(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<String, ConfigError> {
        match &self.values(key, value)?[..] {
            [one] if value.get_ref().as_array().is_none() => Ok(one.clone()),
            _ => Err(self.wrong(value.span().start, format!("{key} is one value, and here it is a list"), "say one")),
        }
    }

    /// One value or a list.
    fn values(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<Vec<String>, ConfigError> {
        Ok(match value.get_ref() {
            DeValue::String(text) => vec![text.clone().into_owned()],
            DeValue::Boolean(flag) => vec![flag.to_string()],
            DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => vec![number.to_string()],
                Err(_) => return Err(self.wrong(value.span().start, format!("{key} is too large"), "see docs/cli.md")),
            },
            DeValue::Float(number) => vec![number.as_str().to_owned()],
            DeValue::Array(list) => {
                let mut values = Vec::new();
                for value in list.iter() {
                    values.push(self.one(key, value)?);
                }
                values
            }
            other @ (DeValue::Datetime(_) | DeValue::Table(_)) => {
                let message = format!("{key} is a value, and here it is {}", told(other));
                return Err(self.wrong(
                    value.span().start,
                    message,
                    "say a text, a number, true, false, or a list of them",
                ));
            }
        })
    }
}

/// What a value is, for people.
fn told(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}

/// Whether one may be a mistyped other: one letter more, less, another, or two in each other's place.
fn is_near(known: &str, typed: &str) -> bool {
    let (known, typed) = (known.replace('-', "_"), typed.replace('-', "_").to_lowercase());
    let same = known.chars().zip(typed.chars()).take_while(|(a, b)| a == b).count();
    let (known, typed): (Vec<char>, Vec<char>) =
        (known.chars().skip(same).collect(), typed.chars().skip(same).collect());
    let tail = |list: &[char], from: usize| list.get(from..).unwrap_or_default().to_vec();
    let swapped = known.len() > 1 && typed.len() > 1 && known[0] == typed[1] && known[1] == typed[0];
    tail(&known, 1) == tail(&typed, 1)
        || tail(&known, 1) == typed
        || known == tail(&typed, 1)
        || (swapped && tail(&known, 2) == tail(&typed, 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_for_one_projection_is_the_option_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.toml");
        std::fs::write(&path, "[projections.evil]\ngrant_read = [\"sales.prices\", \"sales.rates\"]\n").unwrap();
        let command = <crate::cli::Cli as clap::CommandFactory>::command();
        let config = Config::read(&path, &command).unwrap();
        assert_eq!(config.of("grant_read").collect::<Vec<_>>(), ["evil=sales.prices", "evil=sales.rates"]);
        std::fs::write(&path, "[projections.evil]\ngrant_read = \"prices\"\n").unwrap();
        assert!(Config::read(&path, &command).unwrap_err().to_string().contains("line 2"));
    }

    #[test]
    fn a_mistyped_key_is_known_by_one_letter() {
        for typed in ["batch_sise", "batchsize", "batch_siize", "bacth_size", "batch-size", "Batch_Size"] {
            assert!(is_near("batch_size", typed), "{typed}");
        }
        for other in ["batch", "workers", "batch_time", ""] {
            assert!(!is_near("batch_size", other), "{other}");
        }
    }
}
