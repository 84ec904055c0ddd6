//! Whether a component is a projection: what it imports and exports, checked by name before anything runs, so that
//! the message can say which is missing or unknown.

use wasmtime::Engine;
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;

use super::imports::{INTERFACES, VERSION};
use super::wasi;

/// What a projection exports.
pub(super) const EXPORTS: [&str; 4] = ["describe", "migrate", "handle", "flush"];

/// Why a component is no projection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAProjection {
    /// It wants something that the host does not give.
    #[error("it imports `{0}`, which the host does not offer to a projection")]
    UnknownImport(String),
    /// It wants another version of an interface.
    #[error("it imports `{found}`, and this host offers version {offered}")]
    OtherVersion {
        /// What it imports.
        found: String,
        /// What there is.
        offered: &'static str,
    },
    /// It lacks a function.
    #[error("it does not export `{0}`, a function of the world projectionist:projection/projection")]
    MissingExport(&'static str),
}

/// Checks imports and exports by name.
pub(super) fn check(engine: &Engine, component: &Component) -> Result<(), NotAProjection> {
    let of = component.component_type();
    for (name, import) in of.imports(engine) {
        // A world that `use`s types of an interface imports them by name as well; they carry no function.
        if matches!(import.ty, ComponentItem::Type(_) | ComponentItem::Resource(_)) {
            continue;
        }
        let (interface, version) = name.split_once('@').unwrap_or((name, ""));
        // 0.1.x is compatible with 0.1.0, 0.2.x of WASI with 0.2.0.
        let (offered, shown) = match interface {
            _ if INTERFACES.contains(&interface) => ("0.1.", VERSION),
            _ if wasi::has(interface) => (wasi::VERSION, "0.2"),
            _ => return Err(NotAProjection::UnknownImport(name.to_owned())),
        };
        if !version.starts_with(offered) {
            return Err(NotAProjection::OtherVersion { found: name.to_owned(), offered: shown });
        }
    }
    for name in EXPORTS {
        match of.get_export(engine, name).map(|export| export.ty) {
            Some(ComponentItem::ComponentFunc(_)) => {}
            _ => return Err(NotAProjection::MissingExport(name)),
        }
    }
    Ok(())
}

/// The interfaces that a component imports, by name, for `plugin inspect`.
#[must_use]
pub fn imports(engine: &Engine, component: &Component) -> Vec<String> {
    let of = component.component_type();
    let interfaces = of.imports(engine).filter(|(_, import)| matches!(import.ty, ComponentItem::ComponentInstance(_)));
    interfaces.map(|(name, _)| name.to_owned()).collect()
}
