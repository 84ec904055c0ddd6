//! Every attack by SQL through a host whose guard is switched off: what stands beneath it holds by itself.
//!
//! The host is the program `unguarded`: `host` in every respect but one. Each attack is a projection of its own, under the
//! name `x0`, `x1` and so on, which is shown its own events alone; all of them run in one process beside somebody else's
//! `counter`. On Postgres, with `--isolation role` all of them are held but a change of role, which is noticed before the commit
//! unless it is undone within one statement; with `--isolation login` that one, too. On SQLite it is the authorizer that holds.

use std::collections::BTreeSet;

use projectionist_tests::{Cluster, Host, Kind, Output, Setup, event, plugin};
use serde_json::json;

use super::outside::outside;
use super::sql;
use super::sql_attacks::{
    DEFINITIONS, DEFINITIONS_POSTGRES, DEFINITIONS_SQLITE, DENIED, Ends, FUNCTIONS_POSTGRES, FUNCTIONS_SQLITE,
    PAST_THE_GUARD_POSTGRES, PAST_THE_GUARD_SQLITE, TEXTS, nested,
};

/// How many attackers share a process.
const AT_ONCE: usize = 24;

/// An attacker.
struct Attacker {
    /// Its name, and the type of its aggregates.
    name: String,
    /// What it tries.
    statement: String,
    /// How that ends.
    ends: Ends,
}

impl Attacker {
    /// Its events: nothing, or the attack, and nothing again.
    fn events(&self, number: usize) -> Vec<projectionist_tests::Event> {
        let harmless = event("Attack", &self.name, "good").payload(json!({"attack": "none"}));
        let how = ["execute", "query"][number % 2];
        let attack = event("Attack", &self.name, "bad").payload(sql(how, &self.statement));
        vec![attack, harmless]
    }

    /// How its attack has ended: in an error, or not.
    fn ended(&self, setup: &Setup, output: &Output) -> Result<(), String> {
        let letters = setup.dead_letters(&self.name);
        if let Some(letter) = letters.iter().find(|letter| letter.aggregate_id == "bad") {
            return Err(letter.error.clone());
        }
        let given_up = format!("{}, partition 0 of 1: ", self.name);
        match output.stderr.lines().find(|line| line.contains(&given_up)) {
            Some(line) => Err(line.to_owned()),
            None => Ok(()),
        }
    }

    /// What is wrong with how it has ended, if anything.
    fn mistake(&self, ended: &Result<(), String>, is_login: bool) -> Option<String> {
        let fine = match (self.ends, ended) {
            (Ends::Contained, _) => true,
            (Ends::Refused(why) | Ends::HeldByLogin(why), Err(error)) => error.contains(why),
            (Ends::Left, Ok(())) => is_login,
            (Ends::Left, Err(error)) if is_login => error.contains(DENIED),
            (Ends::Left, Err(error)) => error.contains("left its role"),
            (Ends::Refused(_) | Ends::HeldByLogin(_), Ok(())) => false,
        };
        (!fine).then(|| format!("{}: {} has ended with {ended:?}, and not {:?}", self.name, self.statement, self.ends))
    }
}

#[test]
fn a_role_of_its_own_holds_what_the_guard_would_have_let_through() {
    on_postgres("role");
}

#[test]
fn a_login_of_its_own_holds_what_the_guard_would_have_let_through() {
    on_postgres("login");
}

/// Tries every attack on a server of its own: roles belong to all of it, and other tests make some.
#[track_caller]
fn on_postgres(isolation: &str) {
    let cluster = Cluster::start_with("max_prepared_transactions = 0\n");
    let setup = Setup::on(&cluster);
    let oid = setup.connect().value("SELECT oid FROM pg_database WHERE datname = current_database()");
    let lists = [FUNCTIONS_POSTGRES, TEXTS, DEFINITIONS, DEFINITIONS_POSTGRES];
    let attackers = attackers(&lists, PAST_THE_GUARD_POSTGRES, |name, statement| {
        statement.replace("evil", name).replace("{role}", &format!("{name}@{oid}"))
    });
    let held_by_login = |attacker: &Attacker| matches!(attacker.ends, Ends::HeldByLogin(_));
    let attackers = attackers.into_iter().filter(|attacker| isolation == "login" || !held_by_login(attacker));
    let attackers: Vec<_> = attackers.collect();
    all_are_held(&setup, &attackers, &["--isolation", isolation]);
    for Attacker { name, .. } in &attackers {
        assert!(!std::path::Path::new(&format!("/tmp/projectionist-{name}")).exists(), "COPY has written a file");
    }
}

#[test]
fn the_authorizer_of_sqlite_holds_what_the_guard_would_have_let_through() {
    let setup = Setup::new(Kind::Sqlite);
    let lists = [FUNCTIONS_SQLITE, TEXTS, DEFINITIONS, DEFINITIONS_SQLITE];
    let attackers = attackers(&lists, PAST_THE_GUARD_SQLITE, |_, statement| statement.to_owned());
    all_are_held(&setup, &attackers, &[]);
}

/// An attacker for each attack.
fn attackers(lists: &[&[&str]], past_the_guard: &[(&str, Ends)], to: impl Fn(&str, &str) -> String) -> Vec<Attacker> {
    let others = lists.iter().copied().flatten().map(|statement| ((*statement).to_owned(), Ends::Contained));
    let nested = nested().map(|statement| (statement, Ends::Contained));
    let all =
        past_the_guard.iter().map(|(statement, ends)| ((*statement).to_owned(), *ends)).chain(others).chain(nested);
    let attacker = |(number, (statement, ends)): (usize, (String, Ends))| {
        let name = format!("x{number}");
        Attacker { statement: to(&name, &statement), name, ends }
    };
    all.enumerate().map(attacker).collect()
}

/// Has each of them attack: it ends as it should, nothing outside has changed, and `counter` is on its way.
#[track_caller]
fn all_are_held(setup: &Setup, attackers: &[Attacker], options: &[&str]) {
    let is_login = options.contains(&"login");
    // Their tables and roles are made before, in one go with somebody's who is not there when they attack.
    let harmless = |attacker: &Attacker| event("Attack", &attacker.name, "good").payload(json!({"attack": "none"}));
    setup.insert(&attackers.iter().map(harmless).collect::<Vec<_>>());
    setup.run(["run", "--once", "--plugin", &format!("quiet={}", plugin("counter"))]).success();
    for some in attackers.chunks(AT_ONCE) {
        run(setup, some, options).success();
    }
    let (mut wrong, mut inserted) = (Vec::new(), attackers.len());
    for some in attackers.chunks(AT_ONCE) {
        let events: Vec<_> = some.iter().enumerate().flat_map(|(number, one)| one.events(number)).collect();
        setup.insert(&events);
        inserted += events.len();
        let before = outside(setup, "quiet", "^x[0-9]+$", "^(x[0-9]+|counter)$");
        let output = run(setup, some, options);
        let ends = output.code == Some(0) || output.code == Some(1);
        assert!(ends && !output.stderr.contains("panicked"), "{:?}: {}", output.code, output.stderr);
        assert_eq!(setup.events_applied("counter"), inserted as u64, "the other projection is on its way");
        for attacker in some {
            let ended = attacker.ended(setup, &output);
            wrong.extend(attacker.mistake(&ended, is_login));
        }
        let after = outside(setup, "quiet", "^x[0-9]+$", "^(x[0-9]+|counter)$");
        let changed = before.iter().zip(&after).filter(|(old, new)| old != new);
        wrong.extend(changed.map(|(old, new)| format!("it has changed\n{old}\nto\n{new}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // What it has counted is right, too.
    let counted: BTreeSet<_> =
        setup.sorted_rows("counter", "SELECT aggregate, events FROM counter").into_iter().collect();
    let (good, bad) = ((2 * attackers.len()).to_string(), attackers.len().to_string());
    assert_eq!(counted, BTreeSet::from([vec!["good".to_owned(), good], vec!["bad".to_owned(), bad]]));
}

/// Runs some of them beside a `counter`, until all are done or have given up.
#[track_caller]
fn run(setup: &Setup, attackers: &[Attacker], options: &[&str]) -> Output {
    let mut command = setup.unguarded(["run", "--once", "--max-attempts", "1", "--max-statement-time", "2000"]);
    // One for each: a session that is a projection's own is of no use to another.
    command.args(options).args(["--connections", "32", "--plugin", &plugin("counter")]);
    for Attacker { name, .. } in attackers {
        command.args(["--plugin", &format!("{name}={}", plugin("evil"))]);
        command.args(["--only-aggregate-type", &format!("{name}={name}")]);
    }
    Host::spawn(command).wait()
}
