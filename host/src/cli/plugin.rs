//! `host plugin`: looks at a projection without running it.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::plugin::limits::Limits;
use crate::plugin::load::Loader;
use crate::plugin::{Descriptor, Plugin};

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
    /// Show what a plugin is: name, version, filters, imports, digest, and what it may take
    #[command(after_help = "Example:\n  host plugin inspect user_count.wasm --json")]
    Inspect {
        /// The file.
        file: PathBuf,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say whether the host would run a plugin, and if not, why (exit code 1)
    #[command(after_help = "Example:\n  host plugin validate user_count.wasm && deploy user_count.wasm")]
    Validate {
        /// The files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
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
    /// Bytes of the file.
    size: usize,
    /// Interfaces it imports.
    imports: &'plugin [String],
    /// What it may take.
    limits: Vec<(&'static str, String)>,
}

impl PluginCommand {
    /// Runs it.
    ///
    /// # Errors
    /// When the file is no projection.
    pub fn run(&self) -> anyhow::Result<()> {
        let loader = Loader::new(Limits::default())?;
        let settings = Arc::default();
        match &self.command {
            Which::Inspect { file, json } => {
                let plugin = loader.load(file, None, &settings)?;
                let inspection = inspection(&plugin);
                if *json {
                    super::print_line(&serde_json::to_string_pretty(&inspection)?)?;
                } else {
                    super::print(&for_people(&inspection))?;
                }
            }
            Which::Validate { files } => {
                for file in files {
                    let plugin = loader.load(file, None, &settings)?;
                    let (name, version) = (&plugin.descriptor.name, plugin.descriptor.version);
                    super::print_line(&format!("{}: {name} version {version}", file.display()))?;
                }
            }
        }
        Ok(())
    }
}

/// What there is to show.
fn inspection(plugin: &Plugin) -> Inspection<'_> {
    let limits = plugin.limits();
    let mib = |bytes: usize| format!("{} MiB", bytes >> 20);
    Inspection {
        descriptor: &plugin.descriptor,
        kind: if plugin.was_core_module { "core module" } else { "component" },
        digest: &plugin.digest,
        size: plugin.size,
        imports: &plugin.imports,
        limits: vec![
            ("memory", mib(limits.memory)),
            ("time of a call", format!("{:?}", limits.call)),
            ("statements in a transaction", limits.sql.statements.to_string()),
            ("text of a statement", format!("{} KiB", limits.sql.text >> 10)),
            ("parameters of a statement", mib(limits.sql.parameters)),
            ("time of a statement", format!("{:?}", limits.sql.statement.time)),
            ("rows of a result", limits.sql.statement.rows.to_string()),
            ("bytes of a result", mib(limits.sql.statement.result_bytes)),
            ("log line", format!("{} KiB", limits.log_line >> 10)),
            ("log lines a second", limits.log_rate.to_string()),
        ],
    }
}

/// As lines.
fn for_people(inspection: &Inspection<'_>) -> String {
    let list = |list: &[String]| if list.is_empty() { "all".to_owned() } else { list.join(", ") };
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
        ("imports", if inspection.imports.is_empty() { "nothing".to_owned() } else { inspection.imports.join(", ") }),
    ];
    lines.extend(inspection.limits.iter().map(|(name, limit)| (*name, format!("at most {limit}"))));
    lines.iter().fold(String::new(), |text, (name, value)| text + &format!("{name:<28}{value}\n"))
}
