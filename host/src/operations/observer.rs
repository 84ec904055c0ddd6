//! A report that is at hand: read when somebody asks, and at most once a second however many ask. A process that nobody
//! looks at reads nothing.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::report::{self, Counting, Report};
use crate::processor::Progress;
use crate::processor::progress::Crew;
use crate::read_model::ReadModel;
use crate::source::Source;

/// How old a report may be.
const FRESH: Duration = Duration::from_secs(1);

/// How long the databases may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was read last, and when; an error that it could not be.
type Last = Option<(Instant, Result<Arc<Report>, String>)>;

/// Looks at the databases and the workers of this process.
pub struct Observer {
    /// The events.
    source: Arc<dyn Source>,
    /// The read models.
    read_model: ReadModel,
    /// The workers.
    crew: Crew,
    /// What was read last. Whoever reads holds the lock, also when nobody waits for it any more.
    last: Arc<Mutex<Last>>,
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").field("crew", &self.crew).finish_non_exhaustive()
    }
}

impl Observer {
    /// Of these databases and workers.
    #[must_use]
    pub fn new(source: Arc<dyn Source>, read_model: ReadModel, crew: Crew) -> Self {
        Self { source, read_model, crew, last: Arc::default() }
    }

    /// The workers of this process.
    #[must_use]
    pub fn workers(&self) -> Vec<Arc<Progress>> {
        self.crew.list()
    }

    /// The read models.
    #[must_use]
    pub fn read_model(&self) -> &ReadModel {
        &self.read_model
    }

    /// The events.
    #[must_use]
    pub fn source(&self) -> &Arc<dyn Source> {
        &self.source
    }

    /// Whether workers of this process run the projection.
    #[must_use]
    pub fn runs(&self, projection: &str) -> bool {
        self.workers().iter().any(|worker| worker.projection() == projection)
    }

    /// How far everything is, a second ago at most.
    ///
    /// # Errors
    /// When a database cannot be read, or does not answer in five seconds.
    pub async fn look(&self) -> Result<Arc<Report>, String> {
        tokio::time::timeout(PATIENCE, self.read())
            .await
            .unwrap_or_else(|_| Err(format!("the databases have not answered within {PATIENCE:?}")))
    }

    /// Reads, unless somebody just has.
    async fn read(&self) -> Result<Arc<Report>, String> {
        let mut last = Arc::clone(&self.last).lock_owned().await;
        if let Some((at, report)) = &*last
            && at.elapsed() < FRESH
        {
            return report.clone();
        }
        let (source, read_model) = (Arc::clone(&self.source), self.read_model.clone());
        let read = tokio::task::spawn_blocking(move || {
            let report = report::report(&*source, &read_model, Counting::Bounded);
            let report = report.map(Arc::new).map_err(|error| error.to_string());
            *last = Some((Instant::now(), report.clone()));
            report
        });
        read.await.unwrap_or_else(|_| Err("reading the databases has panicked: this is a bug of the host".to_owned()))
    }
}
