//! `host plugin`: looks at a projection without running it, and says whose it is.

mod trust;

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde::Serialize;

use self::trust::TrustCommand;
use super::filters::IsolationOption;
use super::limits::{self, LimitOptions, Shown};
use super::loading::{Loading, PluginArgument, load};
use super::trust::KeysOption;
use crate::plugin::descriptor::Printable;
use crate::plugin::filter::Filters;
use crate::plugin::load::{Loader, Terms};
use crate::plugin::trust::{Demand, Trust};
use crate::plugin::{Descriptor, Plugin, PluginFile};

/// `host plugin`.
#[derive(Debug, Args)]
pub struct PluginCommand {
    /// What to do with it.
    #[command(subcommand)]
    command: Which,
}

/// What to do with a plugin.
#[derive(Debug, Subcommand)]
enum Which {
    /// Show what a plugin is: name, version, filters, imports, digest, whose signature it carries, and what it may take
    #[command(after_help = "Example:\n  host plugin inspect user_count.wasm --trusted-keys keys.txt --json")]
    Inspect {
        /// The file.
        file: PathBuf,
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// Whose signatures count.
        #[command(flatten)]
        keys: KeysOption,
        /// Whose session it has.
        #[command(flatten)]
        isolation: IsolationOption,
        /// What it may take.
        #[command(flatten)]
        limits: Box<LimitOptions>,
    },
    /// Say whether the host would run a plugin, and if not, why (exit code 1)
    #[command(after_help = "Example:\n  host plugin validate user_count.wasm && deploy user_count.wasm")]
    Validate {
        /// The files; with a pin or a name as `host run --plugin` takes them
        #[arg(required = true, value_name = "[NAME=]FILE[@sha256:DIGEST]")]
        files: Vec<PluginArgument>,
        /// On which terms.
        #[command(flatten)]
        loading: Box<Loading>,
    },
    /// Make keys, sign plugins, and say who has signed one
    Trust(TrustCommand),
}

/// What `inspect --json` prints.
#[derive(Debug, Serialize)]
struct Inspection<'plugin> {
    /// Name, version, filters.
    #[serde(flatten)]
    descriptor: &'plugin Descriptor,
    /// `component` or `core module`.
    kind: &'static str,
    /// SHA-256 of the file.
    digest: &'plugin str,
    /// Whose signature it carries.
    signature: Signature,
    /// Bytes of the file.
    size: usize,
    /// Interfaces it imports.
    imports: &'plugin [String],
    /// Whose session its SQL runs in, on Postgres: `role` or `login`.
    isolation: &'static str,
    /// What it may take.
    limits: Vec<Shown>,
}

/// Whose signature a plugin carries, in `inspect --json`.
#[derive(Debug, Serialize)]
struct Signature {
    /// The name of the trusted key that has signed it; null when none has.
    signed_by: Option<String>,
    /// What the signatures say, for people.
    text: String,
}

impl PluginCommand {
    /// Runs it.
    ///
    /// # Errors
    /// When the file is no projection.
    pub fn run(&self) -> anyhow::Result<()> {
        match &self.command {
            Which::Inspect { file, json, keys, isolation, limits } => {
                // Looking at a stranger's plugin is how one decides whether to trust it: nothing is refused.
                let trust = Trust::new(keys.read()?, Demand::Nothing);
                let filters = Filters { isolations: isolation.isolations(), ..Filters::default() };
                let loader = Loader::new(Terms { trust, limits: limits.limits(), filters, ..Terms::default() })?;
                let plugin = loader.load(&PluginFile::at(file), &Arc::default())?;
                let inspection = inspection(&plugin);
                if *json {
                    super::print_line(&serde_json::to_string_pretty(&inspection)?)?;
                } else {
                    super::print(&for_people(&inspection))?;
                }
            }
            Which::Validate { files, loading } => {
                let loader = loading.loader()?;
                for file in files {
                    let plugin = load(&loader, file, &[])?;
                    let (name, version) = (&plugin.descriptor.name, plugin.descriptor.version);
                    super::print_line(&format!("{}: {name} version {version}", file.file.path.display()))?;
                }
            }
            Which::Trust(trust) => trust.run()?,
        }
        Ok(())
    }
}

/// What there is to show.
fn inspection(plugin: &Plugin) -> Inspection<'_> {
    Inspection {
        descriptor: &plugin.descriptor,
        kind: if plugin.was_core_module { "core module" } else { "component" },
        digest: &plugin.digest,
        signature: Signature {
            signed_by: plugin.standing.signer().map(str::to_owned),
            text: plugin.standing.to_string(),
        },
        size: plugin.size,
        imports: &plugin.imports,
        isolation: plugin.isolation().name(),
        limits: limits::shown(plugin.limits()),
    }
}

/// As lines.
fn for_people(inspection: &Inspection<'_>) -> String {
    let list = |list: &[String]| if list.is_empty() { "all".to_owned() } else { Printable::list(list) };
    let descriptor = inspection.descriptor;
    let mut lines = vec![
        ("projection", descriptor.name.clone()),
        ("version", descriptor.version.to_string()),
        ("event types", list(&descriptor.event_types)),
        ("aggregate types", list(&descriptor.aggregate_types)),
        ("bounded contexts", list(&descriptor.bounded_contexts)),
        ("kind", inspection.kind.to_owned()),
        ("size", format!("{} bytes", inspection.size)),
        ("digest", format!("sha256:{}", inspection.digest)),
        ("signature", inspection.signature.text.clone()),
        ("imports", if inspection.imports.is_empty() { "nothing".to_owned() } else { inspection.imports.join(", ") }),
        ("isolation", inspection.isolation.to_owned()),
    ];
    lines.extend(inspection.limits.iter().map(|limit| (limit.name, format!("at most {}", limit.text))));
    lines.iter().fold(String::new(), |text, (name, value)| text + &format!("{name:<28}{value}\n"))
}
