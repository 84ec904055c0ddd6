//! How a command is told which plugins to load, with which settings, and on which terms. Every command that runs a
//! projection takes the same: a signature that `run` demands, `rebuild` and `dlq` do not forget.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use clap::Args;

use super::exit::UsageError;
use super::filters::FilterOptions;
use super::limits::LimitOptions;
use super::overrides::{self, Configured, Override};
use super::trust::TrustOptions;
use crate::database::DatabaseUrl;
use crate::plugin::digest::Digest;
use crate::plugin::imports::Settings;
use crate::plugin::load::{Loader, OwnTerms, Terms};
use crate::plugin::{Plugin, PluginFile};
use crate::read_model::isolation::Isolation;

/// The operator's terms for plugins.
#[derive(Clone, Debug, Args)]
pub struct Loading {
    /// Whose are run.
    #[command(flatten)]
    trust: TrustOptions,
    /// What they may see.
    #[command(flatten)]
    filters: FilterOptions,
    /// What they may take.
    #[command(flatten)]
    limits: LimitOptions,
    /// What is set for one projection only, of what a command has a use for; may be said again. KEY is workers, batch_size,
    /// on_error, max_attempts, poll_interval, priority (high, normal or low: who comes first to connections and cores),
    /// require_signature, trusted_keys, or a limit such as max_memory
    #[arg(long = "for", value_name = "NAME.KEY=VALUE", help_heading = "For one projection")]
    typed: Vec<Override>,
    /// What the configuration file sets in the same way.
    #[command(flatten)]
    configured: Configured,
}

impl Loading {
    /// What loads plugins on these terms.
    ///
    /// # Errors
    /// When the trusted keys cannot be had, or this machine cannot run WebAssembly.
    pub fn loader(&self) -> anyhow::Result<Loader> {
        let (trust, filters) = (self.trust.trust()?, self.filters.filters());
        let overrides = self.overrides();
        let own = overrides::own(&overrides).map(|(name, own)| {
            let trust = self.trust.trust_of(name, &own)?;
            Ok((name.to_owned(), OwnTerms { trust, limits: self.limits.with(own.limits).limits() }))
        });
        let own = own.collect::<Result<_, UsageError>>()?;
        Ok(Loader::new(Terms { trust, filters, limits: self.limits.limits(), own })?)
    }

    /// What is set for one projection and not for the others. Of what is said twice the last counts: what was typed.
    #[must_use]
    pub fn overrides(&self) -> Vec<Override> {
        [&*self.configured.0, &*self.typed].concat()
    }
}

/// `[NAME=]FILE[@sha256:DIGEST]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginArgument {
    /// The file, with the name to run it under, and its pin.
    pub file: PluginFile,
}

/// What stands between a file and its pin.
const PIN: &str = "@sha256:";

impl FromStr for PluginArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (text, pin) = match text.rsplit_once(PIN) {
            None => (text, None),
            Some((file, digest)) => {
                let digest: Digest = digest.parse().map_err(|error| format!("the pin {digest:?}: {error}"))?;
                (file, Some(digest))
            }
        };
        // A path may hold `=` too: only what could be a name is one.
        let name = text.split_once('=').filter(|(name, _)| crate::plugin::descriptor::check_name(name).is_ok());
        let (name, path) = match name {
            Some((name, path)) => (Some(name.to_owned()), path),
            None => (None, text),
        };
        Ok(Self { file: PluginFile { path: path.into(), name, pin } })
    }
}

/// `KEY=VALUE`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The key.
    key: String,
    /// The value.
    value: String,
}

impl FromStr for Setting {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self { key: key.to_owned(), value: value.to_owned() }),
            _ => Err("a setting is KEY=VALUE"),
        }
    }
}

/// What a projection was set, of all settings: those without a dot, and its own.
#[must_use]
pub fn settings_of(projection: &str, settings: &[Setting]) -> Settings {
    let mut own = BTreeMap::new();
    for Setting { key, value } in settings {
        match key.split_once('.') {
            None => own.insert(key.clone(), value.clone()),
            Some((name, key)) if name == projection => own.insert(key.to_owned(), value.clone()),
            Some(_) => None,
        };
    }
    Arc::new(own)
}

/// Loads a plugin with its settings: the global ones, and those for its name, which only `describe` may tell.
///
/// # Errors
/// When it is no projection, or not one that the operator's terms allow.
pub fn load(loader: &Loader, plugin: &PluginArgument, settings: &[Setting]) -> anyhow::Result<Plugin> {
    let guess = plugin.file.name.clone().unwrap_or_default();
    let loaded = loader.load(&plugin.file, &settings_of(&guess, settings))?;
    let own = settings_of(&loaded.descriptor.name, settings);
    tracing::info!(
        projection = loaded.descriptor.name,
        version = loaded.descriptor.version,
        digest = &loaded.digest[..12],
        signature = %loaded.standing,
        file = %plugin.file.path.display(),
        "plugin loaded"
    );
    if let Some(redaction) = loaded.redaction() {
        tracing::info!(projection = loaded.descriptor.name, fields = %redaction, "payloads are shown without these fields");
    }
    if !loader.terms().filters.only_aggregate_types.is_empty() {
        let types = loaded.descriptor.aggregate_types.join(", ");
        tracing::info!(
            projection = loaded.descriptor.name,
            types,
            "only events of these aggregate types are shown; the checkpoint passes over the others, and lifting the \
             filter brings none of them back"
        );
    }
    Ok(loaded.with_settings(own))
}

/// A filter for a projection that is not there is a mistyped name, and the one that was meant would see everything.
/// Those that are configured run `elsewhere`, perhaps. And nothing can be granted where each projection has a file of its
/// own.
///
/// # Errors
/// When there is such a filter or grant, or a projection is called as one of the users.
pub fn refuse_strangers(
    loader: &Loader,
    (events, read_model): (&DatabaseUrl, &DatabaseUrl),
    projections: &[String],
    elsewhere: &[String],
) -> Result<(), UsageError> {
    refuse_logins([events, read_model], read_model, projections)?;
    if let (DatabaseUrl::Sqlite(_), Some(grant)) = (read_model, loader.terms().filters.grants.first()) {
        let message =
            format!("--grant-read {}: a projection in SQLite has a file of its own, and reads no other", grant.value);
        let hint = "keep the read models in Postgres (READ_MODEL_URL), or have one projection fold both";
        return Err(UsageError::new(message, hint));
    }
    let login = projections.iter().find(|name| loader.terms().filters.isolation_of(name) == Isolation::Login);
    if let (DatabaseUrl::Sqlite(_), Some(name)) = (read_model, login) {
        let message = format!("--isolation login for {name}: SQLite knows no logins");
        let hint = "leave it out: there a projection has a file of its own; or keep the read models in Postgres (READ_MODEL_URL)";
        return Err(UsageError::new(message, hint));
    }
    let names: Vec<&str> = projections.iter().map(String::as_str).collect();
    let known: Vec<&str> = projections.iter().chain(elsewhere).map(String::as_str).collect();
    match loader.terms().filters.stranger(&known) {
        None => Ok(()),
        Some((option, stranger)) => {
            let message = format!("{option} is for {stranger}, and no plugin is called that");
            Err(UsageError::new(message, format!("say NAME=… of one that is loaded: {}", names.join(", "))))
        }
    }
}

/// Refuses projections that are called as a user of the database that they write into: whatever logs in as that one, the
/// reader of the events among them, would look names up in the projection's schema first (`"$user"`). Where the URLs name
/// the same database in two ways it still has one name.
fn refuse_logins(users: [&DatabaseUrl; 2], read_model: &DatabaseUrl, projections: &[String]) -> Result<(), UsageError> {
    let named = |url: &DatabaseUrl| match url {
        DatabaseUrl::Sqlite(_) => None,
        DatabaseUrl::Postgres(options) => {
            let user = options.get_username();
            Some((options.get_database().unwrap_or(user).to_owned(), user.to_owned()))
        }
    };
    let Some((database, _)) = named(read_model) else { return Ok(()) };
    for url in users {
        let is_user = |name: &&String| named(url) == Some((database.clone(), (*name).clone()));
        if let Some(name) = projections.iter().find(is_user) {
            let message =
                format!("no projection can be called {name}: that is the user that the host logs in to {url} as");
            return Err(UsageError::new(message, "run it under another name: --plugin NAME=FILE"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_projection_is_called_as_a_user_of_its_database() {
        let url = |text: &str| text.parse::<DatabaseUrl>().unwrap();
        let refused = |events: &str, read_model: &str| {
            let (events, read_model) = (url(events), url(read_model));
            refuse_logins([&events, &read_model], &read_model, &["orders".to_owned(), "app".to_owned()]).is_err()
        };
        assert!(refused("postgres://app@a/shop", "postgres://host@127.0.0.1/shop"), "one server by two names, perhaps");
        assert!(refused("postgres://host@a/shop", "postgres://app@a/shop"));
        assert!(refused("sqlite://events.db", "postgres://app@a"), "a database that is called as its user");
        assert!(!refused("postgres://app@a/shop", "postgres://host@a/models"), "its schema is not there");
        assert!(!refused("postgres://app@a/shop", "sqlite://models.db"));
        assert!(!refused("postgres://other@a/shop", "postgres://host@a/shop"));
    }

    /// Name and path of an argument.
    fn read(text: &str) -> (Option<String>, String, bool) {
        let PluginFile { path, name, pin } = text.parse::<PluginArgument>().unwrap().file;
        (name, path.display().to_string(), pin.is_some())
    }

    #[test]
    fn a_plugin_may_be_given_another_name_and_a_pin() {
        assert_eq!(read("delays=a/b.wasm"), (Some("delays".into()), "a/b.wasm".into(), false));
        assert_eq!(read("./odd=name.wasm"), (None, "./odd=name.wasm".into(), false));
        let digest = Digest::of(b"").to_string();
        assert_eq!(read(&format!("x=a@b.wasm@sha256:{digest}")), (Some("x".into()), "a@b.wasm".into(), true));
        for wrong in ["", "12", &digest[1..], &format!("{digest} ")] {
            let error = format!("a.wasm@sha256:{wrong}").parse::<PluginArgument>().unwrap_err();
            assert!(error.contains("64 hexadecimal digits"), "a mistyped pin is no part of a path: {error}");
        }
    }

    #[test]
    fn a_setting_is_for_all_or_for_one() {
        let settings = ["a=1".parse().unwrap(), "x.b=2".parse().unwrap(), "y.b=3".parse().unwrap()];
        let own = settings_of("x", &settings);
        assert_eq!((own.get("a").map(String::as_str), own.get("b").map(String::as_str)), (Some("1"), Some("2")));
    }
}
