//! The faults, a function each. To add one: write it, and name it in [`ALL`] with its weight.
//!
//! Which faults come, in what order and after what pauses depends on the seed alone: a fault draws from a stream of its
//! own, and what it does not need of it changes nothing for the next.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use super::fleet::{Fleet, SLOTS};
use super::random::Random;
use super::writers;
use crate::{Cluster, Connection, Kind, Setup};

/// The projections: the same plugin under two names.
pub const PROJECTIONS: [&str; 2] = ["alpha", "beta"];

/// What faults work on.
#[derive(Debug)]
pub struct Stage<'setup> {
    /// Where everything is.
    pub setup: &'setup Setup,
    /// The server, where there is one.
    pub cluster: Option<&'setup Cluster>,
    /// The hosts.
    pub fleet: Fleet<'setup>,
    /// The plugin's file, which the hosts watch.
    pub plugin: PathBuf,
    /// Its builds.
    pub builds: [Vec<u8>; 2],
    /// Which of them is in place.
    pub build: usize,
    /// A rebuild that runs, and when it is to be killed.
    pub rebuild: Option<(Child, Option<Instant>)>,
}

/// Where a fault makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    /// Everywhere.
    Everywhere,
    /// Where there is a server.
    Postgres,
}

/// A fault.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Its name in the report.
    pub name: &'static str,
    /// How often it comes, in proportion to the others.
    weight: u64,
    /// Where.
    place: Where,
    /// What it does.
    pub inflict: fn(&mut Stage<'_>, &mut Random),
}

/// Makes the list readable.
const fn fault(name: &'static str, weight: u64, place: Where, inflict: fn(&mut Stage<'_>, &mut Random)) -> Fault {
    Fault { name, weight, place, inflict }
}

/// All of them.
const ALL: [Fault; 18] = [
    fault("kill", 20, Where::Everywhere, kill),
    fault("kill everybody", 3, Where::Everywhere, kill_everybody),
    fault("kill in a stall", 6, Where::Everywhere, kill_in_a_stall),
    fault("stall", 3, Where::Everywhere, stall),
    fault("terminate", 8, Where::Everywhere, terminate),
    fault("freeze", 8, Where::Everywhere, freeze),
    fault("zombie", 8, Where::Postgres, zombie),
    fault("restart fast", 3, Where::Postgres, restart_fast),
    fault("restart immediate", 3, Where::Postgres, restart_immediate),
    fault("end backends", 6, Where::Postgres, end_backends),
    fault("switch notifications", 2, Where::Postgres, switch_notifications),
    fault("kill an import", 4, Where::Everywhere, kill_an_import),
    fault("swap", 8, Where::Everywhere, swap),
    fault("poison", 6, Where::Everywhere, poison),
    fault("retry letters", 5, Where::Everywhere, retry_letters),
    fault("rebuild", 4, Where::Everywhere, rebuild),
    fault("rescale", 4, Where::Everywhere, rescale),
    fault("rescale, mixed", 4, Where::Everywhere, rescale_mixed),
];

/// The faults of a seed: each with the pause before it and a stream of its own. First comes one of each kind, so that a
/// short run has them all; then they come by their weights.
#[derive(Debug)]
pub struct Schedule {
    /// Where they come from.
    random: Random,
    /// Which there are.
    faults: Vec<(u64, Fault)>,
    /// Those that have not come at all yet.
    first: Vec<Fault>,
}

impl Schedule {
    /// For this kind of database.
    #[must_use]
    pub fn new(mut random: Random, kind: Kind) -> Self {
        let fits = |fault: &Fault| fault.weight > 0 && (fault.place == Where::Everywhere || kind == Kind::Postgres);
        let faults: Vec<_> = ALL.into_iter().filter(fits).map(|fault| (fault.weight, fault)).collect();
        let mut first: Vec<Fault> = faults.iter().map(|(_, fault)| *fault).collect();
        first.sort_by_cached_key(|_| random.draw());
        Self { random, faults, first }
    }
}

impl Iterator for Schedule {
    type Item = (Duration, Fault, Random);

    fn next(&mut self) -> Option<Self::Item> {
        let pause = self.random.millis(50, 1_000);
        let fault = self.first.pop().unwrap_or_else(|| *self.random.weighted(&self.faults));
        Some((pause, fault, self.random.fork()))
    }
}

/// Somebody who runs, if possible in the middle of a batch.
fn victim(stage: &mut Stage<'_>, random: &mut Random) -> Option<usize> {
    let (first, aims) = (random.draw(), random.percent(85));
    let awake = stage.fleet.awake();
    let first = usize::try_from(first % awake.len().max(1) as u64).expect("an index fits");
    let order: Vec<usize> = awake.iter().cycle().skip(first).take(awake.len()).copied().collect();
    if aims { stage.fleet.aim(&order) } else { order.first().copied() }
}

/// kill -9, and a new process after a while.
fn kill(stage: &mut Stage<'_>, random: &mut Random) {
    let again = random.millis(0, 2_000);
    if let Some(slot) = victim(stage, random) {
        stage.fleet.kill(slot, again);
    }
}

/// kill -9 for all at once, as when a machine goes down.
fn kill_everybody(stage: &mut Stage<'_>, random: &mut Random) {
    victim(stage, random);
    for slot in 0..SLOTS {
        stage.fleet.kill(slot, random.millis(0, 1_000));
    }
}

/// Somebody reads a projection's table and lets nobody write: every batch waits in its middle.
fn stall(stage: &mut Stage<'_>, random: &mut Random) {
    let time = random.millis(200, 1_500);
    let lock = lock(stage, random);
    std::thread::sleep(time);
    drop(lock);
}

/// kill -9 while the batch waits for a lock, so that it is surely hit in its middle.
fn kill_in_a_stall(stage: &mut Stage<'_>, random: &mut Random) {
    let again = random.millis(0, 1_500);
    let lock = lock(stage, random);
    if let Some(slot) = victim(stage, random) {
        stage.fleet.kill(slot, again);
    }
    drop(lock);
}

/// Locks a projection's table (SQLite: its file) for as long as the connection lives.
fn lock(stage: &mut Stage<'_>, random: &mut Random) -> Option<Connection> {
    let projection = *random.one_of(&PROJECTIONS);
    if !stage.setup.read_model().has(projection) {
        return None;
    }
    let mut connection = stage.setup.read_model().connect_to(projection);
    let (patience, lock) = match connection {
        Connection::Postgres(_) => ("SET lock_timeout = 100", "BEGIN; LOCK TABLE chronicle IN SHARE MODE"),
        Connection::Sqlite(_) => ("PRAGMA busy_timeout = 100", "BEGIN IMMEDIATE"),
    };
    // Whoever is frozen may hold it, and is thawed by nobody but us.
    for _ in 0..20 {
        if connection.try_execute(patience).and_then(|()| connection.try_execute(lock)).is_ok() {
            return Some(connection);
        }
        connection.try_execute("ROLLBACK").ok();
        stage.fleet.tend();
    }
    None
}

/// SIGTERM: the batch is finished, the partitions are released.
fn terminate(stage: &mut Stage<'_>, random: &mut Random) {
    if let Some(slot) = victim(stage, random) {
        stage.fleet.terminate(slot);
    }
}

/// SIGSTOP, and SIGCONT after a while; the others go on meanwhile.
fn freeze(stage: &mut Stage<'_>, random: &mut Random) {
    let time = random.millis(100, 6_000);
    if let Some(slot) = victim(stage, random) {
        stage.fleet.freeze(slot, time);
    }
}

/// SIGSTOP in the middle of a batch, and the server ends the sessions of the frozen one, so that another takes over;
/// then it wakes up.
fn zombie(stage: &mut Stage<'_>, random: &mut Random) {
    let time = random.millis(1_000, 4_000);
    let Some(slot) = victim(stage, random) else { return };
    let Some(pid) = stage.fleet.member(slot).map(|member| member.pid()) else { return };
    stage.fleet.freeze(slot, time);
    // What it writes with stays: the zombie may still try to commit.
    end_sessions(stage, &format!("application_name LIKE 'projectionist claims %/{pid}'"));
}

/// Ends the server's sessions that this condition finds.
fn end_sessions(stage: &mut Stage<'_>, condition: &str) {
    stage.fleet.disturb();
    let sql = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid() AND {condition}"
    );
    let ended: u64 = stage.setup.connect().value(&sql).parse().expect("a number");
    stage.fleet.figures.terminated += ended;
    stage.fleet.disturb();
}

/// The server's sessions end: of all, of those who write read models, of those who read, or of any half.
fn end_backends(stage: &mut Stage<'_>, random: &mut Random) {
    let conditions = [
        "true",
        "application_name LIKE 'projectionist alpha %'",
        "application_name LIKE 'projectionist beta %'",
        "application_name IN ('projectionist source', 'projectionist listen')",
        "application_name LIKE 'projectionist claims %'",
        "application_name NOT LIKE 'projectionist%'",
        "pid % 2 = 0",
    ];
    let condition = *random.one_of(&conditions);
    victim(stage, random);
    end_sessions(stage, condition);
}

/// The server ends its sessions, stops and comes back.
fn restart_fast(stage: &mut Stage<'_>, random: &mut Random) {
    restart(stage, random, "fast");
}

/// The server crashes and recovers.
fn restart_immediate(stage: &mut Stage<'_>, random: &mut Random) {
    restart(stage, random, "immediate");
}

/// Stops the server for a moment; sometimes a host dies meanwhile.
fn restart(stage: &mut Stage<'_>, random: &mut Random, mode: &str) {
    let Some(cluster) = stage.cluster else { return };
    let (down, dies) = (random.millis(0, 1_500), random.percent(30));
    let victim = victim(stage, random);
    stage.fleet.disturb();
    let mid_batch = stage.fleet.in_mid_batch() > 0;
    cluster.stop(mode);
    stage.fleet.figures.restarts += 1;
    stage.fleet.figures.restarts_mid_batch += u64::from(mid_batch);
    std::thread::sleep(down);
    if let Some(slot) = victim.filter(|_| dies) {
        stage.fleet.kill(slot, Duration::ZERO);
    }
    cluster.resume();
    stage.fleet.disturb();
}

/// `host migrate --notify on|off` while everything runs. With notifications, Postgres refuses two-phase commits.
fn switch_notifications(stage: &mut Stage<'_>, random: &mut Random) {
    let switch = if random.percent(40) { "on" } else { "off" };
    // Writers that wait for each other may be in its way; it is only a change of pace.
    drop(stage.setup.run(["migrate", "--notify", switch]));
}

/// kill -9 for a process that writes events.
fn kill_an_import(stage: &mut Stage<'_>, random: &mut Random) {
    let lines: Vec<String> = (0..100)
        .map(|_| {
            let event = writers::some_event(random);
            let payload: serde_json::Value = serde_json::from_str(&event.payload).expect("JSON");
            json!({"event_id": event.event_id.to_string(), "bounded_context": event.bounded_context,
                "aggregate_type": event.aggregate_type, "aggregate_id": event.aggregate_id,
                "event_type": event.event_type, "payload": payload})
            .to_string()
        })
        .collect();
    let path = stage.setup.file("import.ndjson", lines.join("\n"));
    let mut command = stage.setup.command(["import", "--chunk-size", "7"]);
    command.arg(path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut import = command.spawn().expect("starting an import");
    std::thread::sleep(random.millis(20, 400));
    import.kill().expect("killing an import");
    import.wait().expect("waiting for an import");
}

/// Another build of the plugin is put in place, in one go or after half of it and rubbish.
fn swap(stage: &mut Stage<'_>, random: &mut Random) {
    let (half_first, rubbish_first) = (random.percent(40), random.percent(40));
    let (short, long) = (random.millis(0, 200), random.millis(150, 500));
    stage.fleet.wait_until_loaded();
    stage.build = 1 - stage.build;
    let build = &stage.builds[stage.build];
    let replace = |content: &[u8]| {
        let beside = stage.setup.file("plugin.wasm.new", content);
        std::fs::rename(beside, &stage.plugin).expect("renaming a file");
    };
    if half_first {
        std::fs::write(&stage.plugin, &build[..build.len() / 2]).expect("writing a file");
        std::thread::sleep(short);
    }
    if rubbish_first {
        replace(b"\0asm, or so it says");
        std::thread::sleep(long);
    }
    replace(build);
}

/// Events that cannot be applied.
fn poison(stage: &mut Stage<'_>, random: &mut Random) {
    for _ in 0..random.between(1, 3) {
        let event = writers::poison(random);
        // A writer may have just taken the version.
        let Ok(mut connection) = stage.setup.source().try_connect() else { return };
        connection.try_insert(&[event]).ok();
    }
}

/// Whatever is poison now is cured, and the replay of its dead letters is asked for. Sometimes nobody waits for the
/// answer, and a host dies over it. What has become poison since fails again, which is an answer, too.
fn retry_letters(stage: &mut Stage<'_>, random: &mut Random) {
    let (timeout, kills) = (*random.one_of(&["0", "10"]), random.percent(40));
    stage.cure();
    for projection in PROJECTIONS {
        let arguments = ["dlq", "retry", "--all", "--projection", projection, "--timeout", timeout];
        if stage.has_tables(projection) {
            let output = stage.setup.run(arguments);
            assert!(matches!(output.code, Some(0 | 1)), "dlq retry ended with {:?}:\n{}", output.code, output.stderr);
        }
    }
    if kills && let Some(slot) = victim(stage, random) {
        stage.fleet.kill(slot, Duration::ZERO);
    }
}

impl Stage<'_> {
    /// Whether a projection has ever come so far as to make its tables.
    fn has_tables(&self, projection: &str) -> bool {
        self.setup.read_model().has(projection)
            && self.setup.read_model().connect_to(projection).try_rows("SELECT upto FROM cured").is_ok()
    }

    /// Cures whatever is poison now.
    fn cure(&mut self) {
        let last = self.setup.last_position();
        // Whoever is frozen may hold what is to be written.
        self.fleet.thaw_all();
        for projection in PROJECTIONS {
            if self.has_tables(projection) {
                self.fleet.figures.retried += self.setup.dead_letters(projection).len() as u64;
                let cure = format!("INSERT INTO cured VALUES ({last})");
                self.setup.read_model().connect_to(projection).execute(&cure);
            }
        }
    }

    /// Cures everything and replays all dead letters, by the workers or, while none runs, by the command itself. Then
    /// there is none left.
    pub fn resolve_letters(&mut self, random: &mut Random) {
        let by_workers = random.percent(50);
        self.cure();
        if !by_workers {
            self.fleet.stop_all();
        }
        for projection in PROJECTIONS {
            let plugin = format!("{projection}=plugin.wasm");
            let way: &[&str] = if by_workers { &["--timeout", "100"] } else { &["--plugin", &plugin] };
            self.setup.run([&["dlq", "retry", "--all", "--projection", projection], way].concat()).success();
            let letters = self.setup.dead_letters(projection);
            assert!(letters.is_empty(), "after a cure and a retry {projection} still has {letters:?}");
        }
        self.fleet.start_all();
    }
}

/// A read model is built afresh beside the live one while all the rest goes on, and swapped; or the rebuild is killed on
/// its way, and the next one goes on from there.
fn rebuild(stage: &mut Stage<'_>, random: &mut Random) {
    let projection = *random.one_of(&PROJECTIONS);
    let (dies, life) = (random.percent(35), random.millis(50, 3_000));
    if stage.rebuild.is_some() || !stage.has_tables(projection) {
        return;
    }
    stage.fleet.wait_until_loaded();
    stage.fleet.figures.rebuilds += 1;
    let log = stage.fleet.log(&format!("rebuild-{}", stage.fleet.figures.rebuilds));
    let mut command = stage.setup.command(["rebuild", "--stale-after", "3", "--poll-interval", "100"]);
    command.args(["--log", "info", "--max-attempts", "10", "--plugin", &format!("{projection}=plugin.wasm")]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let child = command.spawn().expect("starting a rebuild");
    stage.rebuild = Some((child, dies.then(|| Instant::now() + life)));
}

impl Stage<'_> {
    /// Looks after the rebuild that runs: kills it when it is time, and judges how it ended.
    pub fn tend_the_rebuild(&mut self) {
        let Some((mut child, death)) = self.rebuild.take() else { return };
        if death.is_some_and(|death| death <= Instant::now()) {
            child.kill().expect("killing a rebuild");
            child.wait().expect("waiting for a rebuild");
            self.fleet.figures.rebuilds_killed += 1;
            return;
        }
        match child.try_wait().expect("asking for a rebuild") {
            None => self.rebuild = Some((child, death)),
            // It gives up where workers wait on: a lost connection at the wrong moment, or somebody else's partition.
            Some(status) => {
                let number = self.fleet.figures.rebuilds;
                assert!(matches!(status.code(), Some(0 | 1 | 4)), "rebuild {number} ended with {status}");
                self.fleet.figures.rebuilt += u64::from(status.success());
            }
        }
    }
}

/// Another number of partitions: everybody ends, by SIGTERM or by kill -9, and comes back with it.
fn rescale(stage: &mut Stage<'_>, random: &mut Random) {
    let (total, kills) = (another_total(stage, random), random.percent(50));
    (0..SLOTS).for_each(|slot| stage.fleet.set_total(slot, total));
    stage.fleet.figures.rescales += 1;
    for slot in 0..SLOTS {
        if kills {
            stage.fleet.kill(slot, Duration::ZERO);
        } else {
            stage.fleet.terminate(slot);
        }
    }
}

/// Another number of partitions, for one after the other: those of the old number live on for a while, and whoever
/// has the new one stands by.
fn rescale_mixed(stage: &mut Stage<'_>, random: &mut Random) {
    let total = another_total(stage, random);
    let first = usize::try_from(random.below(SLOTS as u64)).expect("an index fits");
    stage.fleet.figures.rescales += 1;
    for slot in (0..SLOTS).map(|slot| (slot + first) % SLOTS) {
        let (kills, pause) = (random.percent(50), random.millis(0, 1_200));
        stage.fleet.set_total(slot, total);
        if kills {
            stage.fleet.kill(slot, Duration::ZERO);
        } else {
            stage.fleet.terminate(slot);
        }
        stage.fleet.tend_for(pause);
    }
}

/// A number of partitions that is not the one there is.
fn another_total(stage: &Stage<'_>, random: &mut Random) -> u32 {
    let most = 6;
    let step = random.between(1, most - 1);
    let total = (u64::from(stage.fleet.total()) - 1 + step) % most + 1;
    u32::try_from(total).expect("a small number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_schedule_again() {
        let schedule = |seed| -> Vec<(Duration, &'static str, u64)> {
            let schedule = Schedule::new(Random::new(seed), Kind::Postgres);
            schedule.take(200).map(|(pause, fault, mut random)| (pause, fault.name, random.draw())).collect()
        };
        assert_eq!(schedule(5), schedule(5));
        assert_ne!(schedule(5), schedule(6));
        let first: std::collections::BTreeSet<_> = schedule(7).into_iter().take(ALL.len()).map(|one| one.1).collect();
        assert_eq!(first.len(), ALL.len(), "one of each kind comes first");
    }
}
