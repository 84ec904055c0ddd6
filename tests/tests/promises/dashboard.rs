//! The dashboard, in a real browser: it shows what happens, does what it is told with the token and nothing without, and
//! takes no text for markup.

use projectionist_tests::browser::Browser;
use projectionist_tests::{Host, Kind, Setup, on_both_databases, plugin, wait_until};
use serde_json::json;

use crate::metrics::HTTP;
use crate::rebuild::{open as open_the_gate, wait_at_the_gate, with_a_gate};
use crate::reload::{bytes, deploy, touched};
use crate::sabotage::{follow, note, noted, order};

/// A token that is long enough.
const TOKEN: &str = "correct horse battery staple";

/// Starts a host with the token, and this more.
fn start(setup: &Setup, more: &[&str]) -> Host {
    drop(setup.file("token", TOKEN));
    follow(setup, &[&HTTP[..], &["--http-token-file", "token"], more].concat())
}

/// Opens the dashboard of a host.
fn open(host: &mut Host) -> Browser {
    Browser::open(&format!("http://{}/", host.address()))
}

/// Types a token into the page, by the keyboard as far as that goes.
fn log_in(page: &mut Browser, token: &str) {
    page.wait_until("document.getElementById('token').offsetParent !== null");
    page.evaluate(&format!(
        "document.getElementById('token').focus(); document.getElementById('token').value = {}",
        json!(token)
    ));
    page.press("Tab");
    assert_eq!(page.evaluate("document.activeElement.textContent"), "Use it", "the button is next");
    page.press("Enter");
}

/// What the chart of the projection's rate draws.
const POINTS: &str =
    "(document.querySelector('[data-projection=saboteur] .rate polyline')?.getAttribute('points') ?? '')";

on_both_databases!(charts_move_as_events_come);
fn charts_move_as_events_come(setup: &Setup) {
    let mut host = follow(setup, &HTTP);
    setup.insert(&[note("a")]);
    wait_until("it is applied", || noted(setup) == 1);
    let mut page = open(&mut host);
    page.wait_until("document.getElementById('status').textContent === 'healthy'");
    page.wait_until(&format!("{POINTS}.split(' ').length >= 2"));
    // Whatever was drawn last: a rate above 0 is drawn above the bottom of the chart, which is at 29.
    setup.insert(&(0..50).map(|n| note(&format!("a{n}"))).collect::<Vec<_>>());
    page.wait_until(&format!("{POINTS}.split(' ').some((point) => Number(point.split(',')[1]) < 29)"));
    page.wait_until("document.querySelector('[data-projection=saboteur] tbody td:nth-child(2)').textContent === '51'");
    assert_eq!(page.text("#horizon"), "51, the last event");
    assert!(page.text("#workers").contains("running"), "{}", page.text("#workers"));
    let state = host.get("/api/state").ask().json();
    assert!(state["workers"][0]["cost"]["batches"].as_u64().is_some_and(|batches| batches >= 2), "{state}");
    // Without a token nothing can be done.
    assert_eq!(page.evaluate("document.querySelector('[data-projection=saboteur] button').disabled"), true);
    assert_eq!(host.post("/api/projections/saboteur/pause", &json!({})).ask().code, 403);
    assert_eq!(host.get("/api/dead-letters").ask().code, 403);
    host.kill();
    page.wait_until("document.getElementById('status').dataset.status === 'away'");
}

on_both_databases!(a_dead_letter_is_shown_and_retried_with_the_token_only);
fn a_dead_letter_is_shown_and_retried_with_the_token_only(setup: &Setup) {
    setup.insert(&[order("eve", json!({"do": "fail_until", "switch": "on"})), note("eve"), note("bob")]);
    let mut host = start(setup, &["--max-attempts", "1"]);
    host.wait_for_log("aggregate parked");
    wait_until("it is parked", || setup.dead_letters("saboteur").len() == 2);
    let mut page = open(&mut host);
    page.wait_until("document.getElementById('status').textContent === 'this needs the token'");
    log_in(&mut page, "wrong horse, wrong battery");
    page.wait_until("document.getElementById('notice').textContent === 'That token is refused.'");
    assert_eq!(page.text("#letters"), "", "nothing was shown");
    log_in(&mut page, TOKEN);
    page.wait_until("document.querySelector('[data-letter=eve]') !== null");
    let shown = page.text("[data-letter=eve]");
    for part in ["saboteur default/Saboteur/eve", "the switch on is off", "\"fail_until\"", "2 wait"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    setup.read_model().connect_to("saboteur").execute("INSERT INTO switches VALUES ('on')");
    page.evaluate("document.querySelector('[data-letter=eve] button').focus()");
    page.press("Enter");
    wait_until("its events are applied", || noted(setup) == 3 && setup.dead_letters("saboteur").is_empty());
    page.wait_until("document.getElementById('letters').textContent === 'nothing is parked'");
    host.wait_for_log("audit: dashboard action=\"retry\" projection=\"saboteur\" aggregate=\"default/Saboteur/eve\"");
}

on_both_databases!(a_projection_is_paused_and_resumed);
fn a_projection_is_paused_and_resumed(setup: &Setup) {
    let mut host = start(setup, &[]);
    setup.insert(&[note("a")]);
    wait_until("it works", || noted(setup) == 1);
    let mut page = open(&mut host);
    log_in(&mut page, TOKEN);
    let button = "document.querySelector('[data-projection=saboteur] button')";
    page.wait_until(&format!("{button}?.disabled === false"));
    page.evaluate(&format!("{button}.click()"));
    host.wait_for_log("paused by an operator");
    page.wait_until(&format!("{button}.textContent === 'Resume'"));
    setup.insert(&[note("b")]);
    page.evaluate(&format!("{button}.click()"));
    wait_until("it goes on", || noted(setup) == 2);
    for action in ["pause", "resume"] {
        host.wait_for_log(&format!("audit: dashboard action=\"{action}\" projection=\"saboteur\""));
    }
    let unknown = host.post("/api/projections/nobody/pause", &json!({})).bearing(TOKEN).ask();
    assert_eq!(unknown.json(), json!({"error": "there is no projection nobody"}));
    assert!(!setup.folder().join("projectionist.nobody.db").exists());
}

on_both_databases!(dead_letters_are_shown_a_page_at_a_time);
fn dead_letters_are_shown_a_page_at_a_time(setup: &Setup) {
    let poisoned: Vec<_> = (0..15).map(|number| order(&format!("a{number:02}"), json!({"do": "panic"}))).collect();
    setup.insert(&[&poisoned[..], &[note("z")]].concat());
    let other = format!("other={}", plugin("saboteur"));
    let mut host = start(setup, &["--plugin", &other]);
    wait_until("all are parked", || noted(setup) == 1 && setup.count("other", "notes") == 1);
    // Fifteen of each projection, in the order of their names: a page ends within the second.
    let letters =
        |host: &mut Host, query: &str| host.get(&format!("/api/dead-letters{query}")).bearing(TOKEN).ask().json();
    let first = letters(&mut host, "");
    assert_eq!(first["parked"].as_array().map(Vec::len), Some(20));
    assert_eq!(first["next"], json!({"projection": "saboteur", "position": 5}));
    let second = letters(&mut host, "?after_projection=saboteur&after_position=5");
    let ids: Vec<_> = second["parked"].as_array().unwrap().iter().map(|one| one["aggregate_id"].clone()).collect();
    assert_eq!(ids, (5..15).map(|number| json!(format!("a{number:02}"))).collect::<Vec<_>>());
    assert_eq!(second["next"], json!(null));
    // On the page, by the keyboard.
    let mut page = open(&mut host);
    log_in(&mut page, TOKEN);
    let shown = "document.querySelectorAll('[data-letter]').length";
    page.wait_until(&format!("{shown} === 20"));
    page.evaluate("document.querySelector('[data-key=\"letters on\"]').focus()");
    page.press("Enter");
    page.wait_until(&format!("{shown} === 10 && document.getElementById('letters-page').textContent === 'page 2'"));
    assert_eq!(page.evaluate("document.activeElement.textContent"), "Previous", "there is no next one");
    page.press("Enter");
    page.wait_until(&format!("{shown} === 20"));
    // The command shows as many as it is told to, and says that there are more.
    let told = setup.run(["dlq", "list", "--limit", "4"]);
    let told = &told.success().stdout;
    assert_eq!(told.matches("default/Saboteur/a").count(), 4, "{told}");
    assert!(told.ends_with(
        "There are more than these 4: --limit N shows more; --projection, --aggregate-type and others choose\n"
    ));
    let all = setup.run(["dlq", "list", "--json"]);
    assert_eq!(all.success().stdout.matches("\"poison_position\"").count(), 30);
    let some = setup.run(["dlq", "list", "--json", "--limit", "17"]);
    assert_eq!(some.success().stdout.matches("\"poison_position\"").count(), 17);
}

on_both_databases!(a_projection_is_rebuilt_from_the_page_while_it_runs);
fn a_projection_is_rebuilt_from_the_page_while_it_runs(setup: &Setup) {
    setup.insert(&[note("a"), note("b")]);
    let mut host = start(setup, &["--workers", "2", "--max-attempts", "1000000"]);
    wait_until("it works", || noted(setup) == 2);
    for (token, code) in [("", 401), ("wrong horse, wrong battery", 401)] {
        assert_eq!(host.post("/api/projections/saboteur/rebuild", &json!({})).bearing(token).ask().code, code);
    }
    let refused = host.post("/api/projections/nobody/rebuild", &json!({})).bearing(TOKEN).ask();
    assert_eq!(refused.code, 409);
    assert_eq!(refused.json()["error"], "this process does not run nobody: `host rebuild` builds it");
    assert_eq!(host.post("/api/projections/saboteur/interrupt", &json!({})).bearing(TOKEN).ask().code, 409);
    // A row that no event has made is gone after a rebuild.
    setup.read_model().connect_to("saboteur").execute("INSERT INTO notes VALUES (999, 'by hand', 'by hand')");
    let mut page = open(&mut host);
    log_in(&mut page, TOKEN);
    page.evaluate("window.confirm = () => true");
    let button = "document.querySelector('[data-key=\"rebuild saboteur\"]')";
    page.wait_until(&format!("{button}?.disabled === false"));
    page.evaluate(&format!("{button}.focus()"));
    page.press("Enter");
    page.wait_until(
        "document.querySelector('[data-projection=saboteur]').textContent.includes('saboteur was rebuilt: position 2, 2 events applied')",
    );
    assert_eq!(noted(setup), 2, "built afresh");
    host.wait_for_log("audit: dashboard action=\"rebuild\" projection=\"saboteur\"");
    setup.insert(&[note("c")]);
    wait_until("the live ones go on with it", || noted(setup) == 3);
    // One that does not come to its end: what the live one was given by hand, the new one has not.
    crate::metrics::switch_on(setup);
    setup.insert(&[crate::metrics::held_up(), note("d")]);
    wait_until("the live one has passed it", || noted(setup) == 5);
    page.evaluate(&format!("{button}.click()"));
    page.wait_until(&format!("{button}.textContent === 'Interrupt the rebuild'"));
    wait_until("it has begun", || {
        let state = host.get("/api/state").bearing(TOKEN).ask().json();
        state["report"]["projections"][0]["rebuild"]["running"] == true
    });
    let again = host.post("/api/projections/saboteur/rebuild", &json!({})).bearing(TOKEN).ask();
    assert_eq!(again.json()["error"], "saboteur is being rebuilt already, by this process");
    page.evaluate(&format!("{button}.click()"));
    page.wait_until(
        "document.querySelector('[data-projection=saboteur]').textContent.includes('the rebuild of saboteur was interrupted')",
    );
    assert_eq!(noted(setup), 5, "the live one is as it was");
    // It ends with the process, and at once.
    assert_eq!(host.post("/api/projections/saboteur/rebuild", &json!({})).bearing(TOKEN).ask().code, 202);
    host.wait_for_log("going on with the rebuild of saboteur");
    host.terminate();
    host.wait().success();
    assert_eq!(noted(setup), 5);
}

on_both_databases!(what_another_component_has_built_is_not_swapped_in);
fn what_another_component_has_built_is_not_swapped_in(setup: &Setup) {
    with_a_gate(setup);
    drop(setup.file("token", TOKEN));
    deploy(setup, &bytes("saboteur"));
    let run = ["run", "--plugin", "counter.wasm", "--watch", "--max-attempts", "1000000", "--http-token-file", "token"];
    let mut host = setup.start([&run[..], &HTTP].concat());
    host.wait_for_log("partition claimed");
    let begin = |host: &mut Host| {
        assert_eq!(host.post("/api/projections/saboteur/rebuild", &json!({})).bearing(TOKEN).ask().code, 202);
    };
    let end = |host: &mut Host, stage: &str| {
        let mut seen = json!(null);
        wait_until("the rebuild has ended", || {
            seen = host.get("/api/state").bearing(TOKEN).ask().json()["rebuilds"][0].clone();
            seen["stage"] != "running"
        });
        assert_eq!(seen["stage"], stage, "{seen}");
        seen["told"].as_str().unwrap().to_owned()
    };
    let old = || setup.rows("saboteur", "SELECT aggregate FROM notes WHERE note = 'old'").len();
    begin(&mut host);
    wait_at_the_gate(setup);
    deploy(setup, &touched(bytes("saboteur")));
    host.wait_for_log("plugin changed: taken up at the next batch");
    setup.insert(&[note("z")]);
    host.wait_for_log("the projection was replaced");
    open_the_gate(setup);
    let told = end(&mut host, "failed");
    let (why, hint) = ("was not swapped in: its component was replaced meanwhile, ", "starts over, with the component");
    assert!(told.contains(why) && told.contains(hint), "{told}");
    wait_until("the live one goes on", || noted(setup) == 6);
    assert_eq!(old(), 5, "the live one is as it was");
    // With the component that runs now it is built.
    begin(&mut host);
    let over = "starting over: the rebuild of saboteur was begun with another component";
    wait_until("it stands at the gate again", || {
        host.log().split_once(over).is_some_and(|(_, since)| since.contains("trying an event again"))
    });
    open_the_gate(setup);
    let told = end(&mut host, "done");
    assert!(told.starts_with("saboteur was rebuilt: position 6"), "{told}");
    assert_eq!((old(), noted(setup)), (0, 6));
}

on_both_databases!(replica_sets_are_shown_with_who_is_frozen);
fn replica_sets_are_shown_with_who_is_frozen(setup: &Setup) {
    let shared = ["--replica-set", "main", "--slots", "4", "--stale-after", "0"];
    let mut host = start(setup, &shared);
    let mut page = open(&mut host);
    log_in(&mut page, TOKEN);
    let text = "(document.querySelector('[data-set=main]')?.textContent ?? '')";
    page.wait_until(&format!("{text}.includes('saboteur: 0–3')"));
    let second = follow(setup, &shared);
    let row = format!("(document.querySelector('[data-member*=\"/{}#\"]')?.textContent ?? '')", second.pid());
    page.wait_until(&format!("{text}.includes('2 members, 4 slots of each projection, generation 2')"));
    page.wait_until(&format!("{text}.includes('#') && {text}.includes('joined; 2 slots moved')"));
    page.wait_until(&format!("{row}.includes('works') && {row}.includes('saboteur: ')"));
    assert!(page.text("[data-set=main]").contains("(this process)"));
    second.freeze();
    page.wait_until(&format!("{row}.includes('no sign of life for')"));
    let told = setup.run(["status"]);
    assert!(told.success().stdout.contains(", no sign of life for "), "{}", told.stdout);
    let silent = crate::metrics::wait_for_metric_bearing(
        &mut host,
        TOKEN,
        ("projectionist_replica_set_silent_members", &["replica_set=\"main\""]),
        1.0,
    );
    assert_eq!(silent.metric("projectionist_replica_set_members", &["replica_set=\"main\""]), Some(2.0));
    second.thaw();
    page.wait_until(&format!("{row}.includes('works')"));
    second.kill();
    page.wait_until(&format!("{text}.includes('1 members') && {text}.includes('ended')"));
    page.show_as(390, 800, "light");
    assert_eq!(page.evaluate("document.documentElement.scrollWidth <= innerWidth"), true, "nothing is cut off");
}

#[test]
fn an_event_is_given_up() {
    let setup = Setup::new(Kind::Sqlite);
    setup.insert(&[order("eve", json!({"do": "panic"})), note("eve")]);
    let mut host = start(&setup, &[]);
    host.wait_for_log("aggregate parked");
    wait_until("it is parked", || setup.dead_letters("saboteur").len() == 2);
    let aggregate = json!({"projection": "saboteur", "bounded_context": "default", "aggregate_type": "Saboteur", "aggregate_id": "eve"});
    let asking = |position: Option<u64>| {
        let mut meant = aggregate.clone();
        meant["position"] = json!(position);
        meant
    };
    for wrong in ["", "wrong horse, wrong battery"] {
        assert_eq!(host.post("/api/dead-letters", &asking(Some(1))).bearing(wrong).ask().code, 401);
    }
    assert_eq!(host.post("/api/dead-letters", &asking(Some(1))).bearing(TOKEN).ask().code, 200);
    wait_until("the rest is applied", || noted(&setup) == 1);
    assert_eq!(
        host.post("/api/dead-letters", &asking(None)).bearing(TOKEN).ask().code,
        409,
        "it is not parked any more"
    );
}

#[test]
fn text_with_markup_in_it_stays_text() {
    let setup = Setup::new(Kind::Sqlite);
    let evil = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>";
    setup.insert(&[order(evil, json!({"do": "execute", "sql": format!("INSERT INTO {evil}")}))]);
    let mut host = start(&setup, &[]);
    host.wait_for_log("aggregate parked");
    wait_until("it is parked", || setup.dead_letters("saboteur").len() == 1);
    let mut page = open(&mut host);
    log_in(&mut page, TOKEN);
    page.wait_until("document.querySelector('#letters article') !== null");
    assert!(page.text("#letters").contains(evil), "{}", page.text("#letters"));
    assert_eq!(page.evaluate("document.querySelectorAll('img, script:not(body > script)').length"), 0);
    assert_eq!(page.evaluate("document.title"), "Projectionist");
    // And were it markup after all, the policy would keep it from running.
    let page = host.get("/").ask();
    let policy = page.head.lines().find(|line| line.to_lowercase().starts_with("content-security-policy"));
    let policy = policy.expect("a policy");
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe-inline"), "{policy}");
    let outside = page.body.replace("http://www.w3.org/2000/svg", "");
    assert!(!outside.contains("http:") && !outside.contains("https:"), "it loads nothing from elsewhere");
}

#[test]
fn reloads_are_shown_with_their_digests() {
    let setup = Setup::new(Kind::Sqlite);
    deploy(&setup, &bytes("counter"));
    let mut host = setup.start([&["run", "--plugin", "counter.wasm", "--watch"][..], &HTTP].concat());
    host.wait_for_log("partition claimed");
    let mut page = open(&mut host);
    deploy(&setup, &touched(bytes("counter")));
    page.wait_until("document.getElementById('reloads').textContent.includes('taken')");
    let digest = setup.run(["plugin", "inspect", "--json", &plugin("counter")]);
    let digest: serde_json::Value = serde_json::from_str(&digest.success().stdout).unwrap();
    let shown = page.text("#reloads");
    assert!(shown.contains(&digest["digest"].as_str().unwrap()[..12]), "{shown}");
    deploy(&setup, b"no component");
    page.wait_until("document.getElementById('reloads').textContent.includes('refused: ')");
}

#[test]
fn it_fits_a_phone_and_follows_the_light() {
    let setup = Setup::new(Kind::Sqlite);
    let mut host = follow(&setup, &[&HTTP[..], &["--workers", "3"]].concat());
    setup.insert(&[note("a")]);
    wait_until("it works", || noted(&setup) == 1);
    let mut page = open(&mut host);
    let back = "getComputedStyle(document.body).backgroundColor";
    page.show_as(390, 800, "light");
    page.wait_until("document.querySelector('[data-projection=saboteur]') !== null");
    let light = page.evaluate(back);
    assert_eq!(page.evaluate("document.documentElement.scrollWidth <= innerWidth"), true, "nothing is cut off");
    page.show_as(1200, 900, "dark");
    assert_ne!(page.evaluate(back), light);
    page.press("Tab");
    assert_eq!(page.evaluate("document.activeElement.textContent"), "Skip to the projections");
}
