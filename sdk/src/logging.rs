//! The macros of the `log` crate, and panics, into the host's log.

use crate::bindings::projectionist::projection::log as host;

/// Sends records to the host, which knows projection, partition and position by itself.
struct HostLog;

impl log::Log for HostLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let level = match record.level() {
            log::Level::Trace => host::Level::Trace,
            log::Level::Debug => host::Level::Debug,
            log::Level::Info => host::Level::Info,
            log::Level::Warn => host::Level::Warn,
            log::Level::Error => host::Level::Error,
        };
        host::log(level, &record.args().to_string());
    }

    fn flush(&self) {}
}

/// Sends logs and panics to the host. A second call changes nothing.
///
/// Every level is sent: which ones are kept is the operator's `--log`. A projection that should not even
/// format its trace lines switches on one of the `log` crate's `release_max_level_…` features.
pub(crate) fn install() {
    if log::set_logger(&HostLog).is_ok() {
        log::set_max_level(log::LevelFilter::Trace);
        // A panic in a component is a bare trap; its message would be lost.
        std::panic::set_hook(Box::new(|info| host::log(host::Level::Error, &info.to_string())));
    }
}
