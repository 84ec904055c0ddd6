//! A projection that can be replaced while its workers run.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::load::Plugin;

/// What is to run now. Workers take a replacement up at their next batch.
#[derive(Debug)]
pub struct PluginSlot {
    /// It.
    now: RwLock<(Arc<Plugin>, Origin)>,
    /// Keeps replacements out.
    held: Mutex<()>,
}

/// As long as this lives, no replacement comes in from a file.
#[derive(Debug)]
pub struct Held<'slot>(#[expect(dead_code, reason = "it is there to be dropped")] MutexGuard<'slot, ()>);

/// How a plugin has come into its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From its file.
    New,
    /// It has run before, and was put back when the one that had replaced it failed.
    PutBack,
}

impl PluginSlot {
    /// Starts with this.
    #[must_use]
    pub fn new(plugin: Plugin) -> Self {
        Self { now: RwLock::new((Arc::new(plugin), Origin::New)), held: Mutex::default() }
    }

    /// What is to run now.
    #[must_use]
    pub fn get(&self) -> Arc<Plugin> {
        self.get_with_origin().0
    }

    /// What is to run now, and how it has come there.
    #[must_use]
    pub fn get_with_origin(&self) -> (Arc<Plugin>, Origin) {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts `last_good` back in place of `failed`, unless somebody has put something else there meanwhile.
    pub fn take_back(&self, failed: &Arc<Plugin>, last_good: &Arc<Plugin>) {
        let mut slot = self.now.write().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&slot.0, failed) {
            *slot = (Arc::clone(last_good), Origin::PutBack);
        }
    }

    /// The tables have the version of this one now, and nothing older can commit any more: should another worker have
    /// gone back to an older one meanwhile, it has to come along.
    pub fn insist(&self, on: &Arc<Plugin>) {
        let mut slot = self.now.write().unwrap_or_else(PoisonError::into_inner);
        if slot.0.descriptor.version < on.descriptor.version {
            *slot = (Arc::clone(on), Origin::PutBack);
        }
    }

    /// Keeps replacements out until the answer is dropped. Workers do not wait for it, who loads a changed file does.
    #[must_use]
    pub fn hold(&self) -> Held<'_> {
        Held(self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces it.
    pub fn set(&self, plugin: Plugin) {
        let _nobody_holds_it = self.hold();
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = (Arc::new(plugin), Origin::New);
    }
}
