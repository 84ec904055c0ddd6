//! What a run has done and found, in figures.

use std::fmt;

/// The figures of a run.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// With what it can be repeated.
    pub seed: u64,
    /// On which database.
    pub database: &'static str,
    /// For how long faults were inflicted.
    pub seconds: u64,
    /// Which faults, and how often each.
    pub faults: Vec<(&'static str, u64)>,
    /// Events in the table at the end, and how many of them the projection wants.
    pub events: (u64, u64),
    /// Appends that were committed.
    pub appends: u64,
    /// Appends that were rolled back.
    pub rolled_back: u64,
    /// Writers that were cut off.
    pub cut_off: u64,
    /// Two-phase commits.
    pub prepared: u64,
    /// Transactions that were left open for long.
    pub long: u64,
    /// Processes that were started.
    pub starts: u64,
    /// Processes that were killed.
    pub kills: u64,
    /// Of those, in the middle of a batch.
    pub kills_mid_batch: u64,
    /// Processes that were frozen.
    pub freezes: u64,
    /// Of those, in the middle of a batch.
    pub freezes_mid_batch: u64,
    /// Times that the server was stopped.
    pub restarts: u64,
    /// Of those, with a process in the middle of a batch.
    pub restarts_mid_batch: u64,
    /// Server processes that were terminated.
    pub terminated: u64,
    /// Times that a partition went from one process to another.
    pub takeovers: u64,
    /// Times that a worker which gave no sign of life was replaced.
    pub replaced: u64,
    /// Processes that found themselves fenced.
    pub fenced: u64,
    /// Times that a worker tried again.
    pub retries: u64,
    /// Changes of the number of partitions.
    pub rescales: u64,
    /// Rebuilds that were begun.
    pub rebuilds: u64,
    /// Of those, that were killed.
    pub rebuilds_killed: u64,
    /// Of those, that came through.
    pub rebuilt: u64,
    /// Times that a worker took up another build of the plugin.
    pub swaps: u64,
    /// Plugin files that were refused.
    pub refused: u64,
    /// Poison events.
    pub poison: u64,
    /// Aggregates that were parked.
    pub parked: u64,
    /// Dead letters that `dlq retry` was asked to replay.
    pub retried: u64,
    /// Batches that were committed.
    pub batches: u64,
    /// Batches that failed, and were applied event by event.
    pub careful: u64,
    /// Processes that have applied events: which, and how many.
    pub workers: Vec<(u32, u64)>,
    /// What the oracle found.
    pub verdict: Verdict,
}

/// What the oracle found, over all projections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Applications that it looked at.
    pub applications: u64,
    /// Dead letters that it looked at.
    pub letters: u64,
    /// Events that were neither applied nor parked.
    pub lost: u64,
    /// Events that were applied more than once, or parked as well.
    pub doubled: u64,
    /// Events that were applied after a later one of their aggregate.
    pub out_of_order: u64,
    /// Applications of what is no event, totals that are wrong, and the like.
    pub wrong: u64,
    /// The offenders, with their history, for people.
    pub offenders: Vec<String>,
}

impl Verdict {
    /// Whether everything is as it has to be.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost + self.doubled + self.out_of_order + self.wrong == 0
    }
}

impl Figures {
    /// Faults that hit a process in the middle of a batch.
    #[must_use]
    pub fn mid_batch(&self) -> u64 {
        self.kills_mid_batch + self.freezes_mid_batch + self.restarts_mid_batch
    }

    /// Faults that may hit a process in the middle of a batch.
    #[must_use]
    pub fn disruptions(&self) -> u64 {
        self.kills + self.freezes + self.restarts
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, database, seconds, verdict, .. } = self;
        writeln!(f, "chaos on {database}, seed {seed}, {seconds} s of faults")?;
        let mut row = |name: &str, figure: u64, note: String| writeln!(f, "  {name:<24}{figure:>9}{note}");
        let none = String::new;
        row("events", self.events.0, format!(", {} of them for the projections", self.events.1))?;
        row("appends", self.appends, format!(", {} left open for long, {} prepared", self.long, self.prepared))?;
        row("rolled-back appends", self.rolled_back, format!(", and {} writers cut off", self.cut_off))?;
        row("processes", self.starts, format!(", {} of them applied events", self.workers.len()))?;
        row("batches", self.batches, format!(", {} of them failed and went event by event", self.careful))?;
        row("kills", self.kills, format!(", {} in mid-batch", self.kills_mid_batch))?;
        row("freezes", self.freezes, format!(", {} in mid-batch", self.freezes_mid_batch))?;
        row("server restarts", self.restarts, format!(", {} in mid-batch", self.restarts_mid_batch))?;
        row("terminated backends", self.terminated, none())?;
        let frozen = format!(", {} from frozen workers; {} processes fenced", self.replaced, self.fenced);
        row("takeovers", self.takeovers, frozen)?;
        row("retries", self.retries, none())?;
        row("rescales", self.rescales, none())?;
        row("rebuilds", self.rebuilds, format!(", {} came through, {} killed", self.rebuilt, self.rebuilds_killed))?;
        row("plugin swaps", self.swaps, format!(", {} bad files refused", self.refused))?;
        row("poison events", self.poison, format!(", {} times an aggregate was parked", self.parked))?;
        row("retried letters", self.retried, none())?;
        row("applications", verdict.applications, format!(", {} dead letters left", verdict.letters))?;
        row("lost", verdict.lost, none())?;
        row("doubled", verdict.doubled, none())?;
        row("out of order", verdict.out_of_order, none())?;
        row("otherwise wrong", verdict.wrong, none())?;
        let faults: Vec<_> = self.faults.iter().map(|(name, count)| format!("{name} {count}")).collect();
        writeln!(f, "  faults: {}", faults.join(" · "))
    }
}
