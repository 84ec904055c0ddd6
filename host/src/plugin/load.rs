//! From a file to a [`Plugin`]: read once, judged by its digest, made a component if it is a core module, compiled,
//! checked, asked what it is, and narrowed to what it may see.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use wasmtime::Engine;
use wasmtime::component::{Component, InstancePre};

use super::cache::Cache;
use super::descriptor::{self, BadName, Descriptor};
use super::digest::Digest;
use super::filter::{Filters, NothingLeft};
use super::imports::{self, Guest, Settings};
use super::instance::{CallError, Instance, Unfit};
use super::limits::{Limits, LogRate};
use super::redaction::Redaction;
use super::trust::{Standing, Trust, Untrusted};
use super::world::{self, NotAProjection};
use crate::read_model::grants::Grant;
use crate::read_model::isolation::Isolation;

/// What a core module starts with.
const CORE_MODULE: &[u8] = b"\0asm\x01\0\0\0";
/// What a component starts with.
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
/// What either starts with.
const WASM: &[u8] = b"\0asm";

/// A projection that is ready to run.
#[derive(Clone)]
pub struct Plugin {
    /// Where it came from.
    pub path: PathBuf,
    /// What it says of itself, under the name it runs by.
    pub descriptor: Descriptor,
    /// SHA-256 of the file, in hex.
    pub digest: Arc<str>,
    /// What its signatures say of it.
    pub standing: Standing,
    /// Whether the file was a core module.
    pub was_core_module: bool,
    /// Bytes of the file.
    pub size: usize,
    /// What it imports, by name.
    pub imports: Vec<String>,
    /// What its randomness follows from: the name it is loaded under. A rebuild runs it under another one, and has to
    /// arrive at the same tables.
    pub(super) seed: Arc<str>,
    /// Checked and linked.
    pub(super) pre: InstancePre<Guest>,
    /// What the operator set for it.
    pub(super) settings: Settings,
    /// What it may take.
    pub(super) limits: Limits,
    /// What it may not see of payloads.
    pub(super) redaction: Option<Arc<Redaction>>,
    /// What it may read besides its own tables.
    pub(super) grants: Vec<Grant>,
    /// Whose session its SQL runs in.
    pub(super) isolation: Isolation,
    /// How much it may log, all its instances together.
    pub(super) log: Arc<Mutex<LogRate>>,
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin")
            .field("descriptor", &self.descriptor)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

impl Plugin {
    /// The same with other settings.
    #[must_use]
    pub fn with_settings(self, settings: Settings) -> Self {
        Self { settings, ..self }
    }

    /// What it may take.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What it may not see of payloads.
    #[must_use]
    pub fn redaction(&self) -> Option<&Redaction> {
        self.redaction.as_deref()
    }

    /// What it may read besides its own tables.
    #[must_use]
    pub fn grants(&self) -> &[Grant] {
        &self.grants
    }

    /// Whose session its SQL runs in, on Postgres.
    #[must_use]
    pub fn isolation(&self) -> Isolation {
        self.isolation
    }
}

/// Which file is to be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginFile {
    /// Where it is.
    pub path: PathBuf,
    /// The name its projection runs under, if not its own.
    pub name: Option<String>,
    /// The digest it has to have.
    pub pin: Option<Digest>,
}

impl PluginFile {
    /// Whatever is there, under its own name.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), name: None, pin: None }
    }
}

/// The operator's terms for plugins.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// Whose are run.
    pub trust: Trust,
    /// What they may take.
    pub limits: Limits,
    /// What they may see.
    pub filters: Filters,
    /// What holds for one projection instead, by its name.
    pub own: BTreeMap<String, OwnTerms>,
}

/// The operator's terms for one projection.
#[derive(Clone, Debug)]
pub struct OwnTerms {
    /// Whose plugin it may be.
    pub trust: Trust,
    /// What it may take. Its stack is that of all.
    pub limits: Limits,
}

impl Terms {
    /// What holds for a projection of this name; for one that is not known yet, what holds for all.
    fn of(&self, projection: Option<&str>) -> (&Trust, Limits) {
        let own = projection.and_then(|name| self.own.get(name));
        own.map_or((&self.trust, self.limits), |own| (&own.trust, Limits { stack: self.limits.stack, ..own.limits }))
    }
}

/// How plugins are loaded: the same for all of a process, whether at its start or while events flow.
#[derive(Debug)]
pub struct Loader {
    /// The engine.
    engine: Engine,
    /// Compiled code.
    cache: Cache,
    /// The operator's terms.
    terms: Terms,
}

/// Why a file is not a projection that can run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("cannot read the plugin {}: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not the file that was pinned.
    #[error("{} has the digest sha256:{found}, and is pinned to sha256:{pin}", path.display())]
    OtherDigest {
        /// Which file.
        path: PathBuf,
        /// What it has to be.
        pin: Digest,
        /// What it is.
        found: Digest,
    },
    /// No trusted key has signed it.
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// It is something else.
    #[error("{} is not WebAssembly: it starts with {start:?}", path.display())]
    NotWasm {
        /// Which file.
        path: PathBuf,
        /// Its first bytes.
        start: String,
    },
    /// It is a core module that cannot be made a component.
    #[error("{} is a core module that is no projection: {reason}", path.display())]
    NotComponentised {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It is cut off, or damaged.
    #[error("{} is not valid WebAssembly: {reason}", path.display())]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It is a component of another world.
    #[error("{} is not a projection: {reason}", path.display())]
    OtherWorld {
        /// Which file.
        path: PathBuf,
        /// Which import or export.
        reason: NotAProjection,
    },
    /// An import or export has another type.
    #[error("{} does not fit the world projectionist:projection/projection: {reason}", path.display())]
    OtherTypes {
        /// Which file.
        path: PathBuf,
        /// Which import or export.
        reason: String,
    },
    /// It does not start.
    #[error("the plugin {} cannot be started: {reason}", path.display())]
    Start {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: CallError,
    },
    /// It may see nothing of what it wants.
    #[error(transparent)]
    NothingLeft(#[from] NothingLeft),
    /// It cannot say what it is.
    #[error("the plugin {} failed in `describe`: {reason}", path.display())]
    Describe {
        /// Which file.
        path: PathBuf,
        /// How.
        reason: CallError,
    },
    /// What it says is not acceptable.
    #[error("the plugin {}: {reason}", path.display())]
    Name {
        /// Which file.
        path: PathBuf,
        /// What about it.
        reason: BadName,
    },
    /// It wants more kinds of events than can be asked for.
    #[error(
        "the plugin {} describes {size} bytes of types and contexts: {} are allowed",
        path.display(),
        descriptor::DESCRIBED
    )]
    Described {
        /// Which file.
        path: PathBuf,
        /// What it says.
        size: usize,
    },
    /// Its version is none.
    #[error("the plugin {} describes version {version}: versions are from 1 to 2147483647", path.display())]
    Version {
        /// Which file.
        path: PathBuf,
        /// What it says.
        version: u32,
    },
}

impl LoadError {
    /// Whether the command, its settings or the files have to change: nothing is wrong with the plugin itself.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::Unreadable { .. } | Self::OtherDigest { .. } | Self::Untrusted(_) | Self::NothingLeft(_))
    }

    /// What to do next.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::OtherDigest { .. } => {
                Some("deploy the file that was pinned, or look at this one with `host plugin inspect` and pin it")
            }
            Self::Untrusted(untrusted) => Some(untrusted.advice()),
            Self::Start { reason: CallError::Trap(_), .. } => None,
            Self::Start { .. } => Some("if it may have more, raise the limit: `host plugin inspect --help` lists them"),
            Self::NothingLeft(_) => Some("allow one of the types that it wants, or do not run it"),
            Self::Unreadable { .. } => Some("check the path given to --plugin"),
            Self::NotWasm { .. } => Some(
                "--plugin takes a component or a core module, as `cargo build --target wasm32-unknown-unknown` leaves it",
            ),
            Self::NotComponentised { .. } => {
                Some("build it with projectionist-sdk's export_projection!, for the target wasm32-unknown-unknown")
            }
            Self::Invalid { .. } => Some("is the file whole? build or copy it again"),
            Self::OtherWorld { .. } | Self::OtherTypes { .. } => {
                Some("build it against wit/projection.wit of this host's version; docs/wit.md has the world")
            }
            Self::Name { .. } => Some("give it another name with --plugin NAME=FILE"),
            Self::Described { .. } => Some("describe fewer types: an empty list stands for all"),
            Self::Describe { .. } | Self::Version { .. } => None,
        }
    }
}

impl Loader {
    /// A loader with an engine of its own and the user's cache.
    ///
    /// # Errors
    /// When this machine cannot run WebAssembly at all.
    pub fn new(terms: Terms) -> wasmtime::Result<Self> {
        Ok(Self { engine: super::engine::new(terms.limits.stack)?, cache: Cache::of_user(), terms })
    }

    /// The operator's terms.
    #[must_use]
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Loads a projection.
    ///
    /// # Errors
    /// When the file cannot be read, is not wanted, or is no projection, with what about it.
    pub fn load(&self, file: &PluginFile, settings: &Settings) -> Result<Plugin, LoadError> {
        let unreadable = |source| LoadError::Unreadable { path: file.path.clone(), source };
        let bytes = std::fs::read(&file.path).map_err(unreadable)?;
        self.load_bytes(file, &bytes, settings)
    }

    /// As [`Loader::load`], from the file's bytes.
    ///
    /// Pin and signature are judged here, by the digest of the bytes that are compiled a few lines on, or whose compiled
    /// code is found under that digest: whatever becomes of the file meanwhile, nothing else is run. And they are judged
    /// first: what is not trusted is not even parsed. What is demanded of one projection only is demanded then if the file
    /// is given under that name; where the component itself has to be asked for its name, in its sandbox, right after.
    ///
    /// # Errors
    /// As [`Loader::load`].
    pub fn load_bytes(&self, file: &PluginFile, bytes: &[u8], settings: &Settings) -> Result<Plugin, LoadError> {
        let path = &file.path;
        let owned = || path.to_owned();
        let digest = Digest::of(bytes);
        if let Some(pin) = file.pin.filter(|pin| *pin != digest) {
            return Err(LoadError::OtherDigest { path: owned(), pin, found: digest });
        }
        let (trust, limits) = self.terms.of(file.name.as_deref());
        let standing = trust.admit(path, &digest)?;
        let admitted = digest;
        let digest = digest.to_string();
        let was_core_module = bytes.starts_with(CORE_MODULE);
        let component = if bytes.starts_with(COMPONENT) || was_core_module {
            self.compile(path, &digest, bytes, was_core_module)?
        } else {
            return Err(not_wasm(path, bytes));
        };
        world::check(&self.engine, &component).map_err(|reason| LoadError::OtherWorld { path: owned(), reason })?;
        let other_types =
            |error: wasmtime::Error| LoadError::OtherTypes { path: owned(), reason: format!("{error:#}") };
        let pre = imports::linker(&self.engine, &component)
            .and_then(|linker| linker.instantiate_pre(&component))
            .map_err(other_types)?;
        let mut plugin = Plugin {
            path: owned(),
            descriptor: Descriptor {
                name: String::new(),
                version: 0,
                event_types: Vec::new(),
                aggregate_types: Vec::new(),
                bounded_contexts: Vec::new(),
            },
            digest: digest.into(),
            standing,
            was_core_module,
            size: bytes.len(),
            imports: world::imports(&self.engine, &component),
            seed: Arc::default(),
            pre,
            settings: Arc::clone(settings),
            limits,
            redaction: None,
            grants: Vec::new(),
            isolation: Isolation::default(),
            log: Arc::new(Mutex::new(LogRate::new(&limits))),
        };
        Instance::check(&plugin).map_err(|unfit| match unfit {
            Unfit::Types(error) => other_types(error),
            Unfit::Start(reason) => LoadError::Start { path: owned(), reason },
        })?;
        plugin.descriptor =
            Instance::describe(&plugin).map_err(|reason| LoadError::Describe { path: owned(), reason })?;
        let size = plugin.descriptor.described();
        if size > descriptor::DESCRIBED {
            return Err(LoadError::Described { path: owned(), size });
        }
        if let Some(name) = &file.name {
            plugin.descriptor.name.clone_from(name);
        }
        descriptor::check_name(&plugin.descriptor.name).map_err(|reason| LoadError::Name { path: owned(), reason })?;
        plugin.seed = plugin.descriptor.name.as_str().into();
        if file.name.is_none() {
            // Only now it is known which projection this is, and what holds for it.
            let (trust, limits) = self.terms.of(Some(&plugin.descriptor.name));
            plugin.standing = trust.admit(path, &admitted)?;
            (plugin.limits, plugin.log) = (limits, Arc::new(Mutex::new(LogRate::new(&limits))));
        }
        let version = plugin.descriptor.version;
        if version == 0 || i32::try_from(version).is_err() {
            return Err(LoadError::Version { path: owned(), version });
        }
        self.terms.filters.narrow(&mut plugin.descriptor)?;
        plugin.redaction = self.terms.filters.redaction_of(&plugin.descriptor.name);
        plugin.grants = self.terms.filters.grants_of(&plugin.descriptor.name);
        plugin.isolation = self.terms.filters.isolation_of(&plugin.descriptor.name);
        Ok(plugin)
    }

    /// Compiles a component, or a core module made into one.
    fn compile(&self, path: &Path, digest: &str, bytes: &[u8], is_core: bool) -> Result<Component, LoadError> {
        let made;
        let component = if is_core {
            // First whether it is whole: what makes the component takes that for granted.
            wasmtime::Module::validate(&self.engine, bytes)
                .map_err(|error| LoadError::Invalid { path: path.to_owned(), reason: format!("{error:#}") })?;
            made = componentise(bytes)
                .map_err(|error| LoadError::NotComponentised { path: path.to_owned(), reason: format!("{error:#}") })?;
            &made
        } else {
            bytes
        };
        let compiled = self.cache.compile(&self.engine, digest, component);
        compiled.map_err(|error| LoadError::Invalid { path: path.to_owned(), reason: format!("{error:#}") })
    }
}

/// Makes a component of a core module that says in a custom section which world it is for, as wit-bindgen leaves it.
fn componentise(module: &[u8]) -> anyhow::Result<Vec<u8>> {
    let encode = || wit_component::ComponentEncoder::default().module(module)?.validate(true).encode();
    // Its decoder of that section indexes without asking; a stranger's section must not end the host.
    std::panic::catch_unwind(encode).unwrap_or_else(|_| anyhow::bail!("its component type section is malformed"))
}

/// The error of a file that is something else.
fn not_wasm(path: &Path, bytes: &[u8]) -> LoadError {
    if bytes.starts_with(WASM) || bytes.is_empty() {
        let reason = if bytes.len() < CORE_MODULE.len() { "it is cut off" } else { "its version is unknown" };
        return LoadError::Invalid { path: path.to_owned(), reason: reason.to_owned() };
    }
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(16)]).into_owned();
    LoadError::NotWasm { path: path.to_owned(), start }
}
