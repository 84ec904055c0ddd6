//! A projection that can be replaced while its workers run.

use std::sync::{Arc, PoisonError, RwLock};

use super::load::Plugin;

/// What is to run now. Workers take a replacement up at their next batch.
#[derive(Debug)]
pub struct PluginSlot(RwLock<Arc<Plugin>>);

impl PluginSlot {
    /// Starts with this.
    #[must_use]
    pub fn new(plugin: Plugin) -> Self {
        Self(RwLock::new(Arc::new(plugin)))
    }

    /// What is to run now.
    #[must_use]
    pub fn get(&self) -> Arc<Plugin> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts `last_good` back in place of `failed`, unless somebody has put something else there meanwhile.
    pub fn take_back(&self, failed: &Arc<Plugin>, last_good: &Arc<Plugin>) {
        let mut slot = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&slot, failed) {
            *slot = Arc::clone(last_good);
        }
    }

    /// Replaces it.
    pub fn set(&self, plugin: Plugin) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(plugin);
    }
}
