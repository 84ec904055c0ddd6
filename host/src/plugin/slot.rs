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

    /// Replaces it.
    pub fn set(&self, plugin: Plugin) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(plugin);
    }
}
