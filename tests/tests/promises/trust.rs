//! Only plugins that a trusted key has signed are run where that is demanded, and only the pinned file where one is
//! pinned: at the start, in a rebuild, for a replay, and when a file changes while events flow.

use std::os::unix::fs::PermissionsExt as _;

use projectionist_tests::{Kind, Output, Setup, on_both_databases, plugin};
use serde_json::Value;

use crate::dead_letters::bad;
use crate::reload::{bytes, count_one, deploy, touched};
use crate::sabotage::catch_up;

/// What demands a signature.
const DEMAND: [&str; 3] = ["--require-signature", "--trusted-keys", "trusted.txt"];

/// What to do about a file without a signature.
const SIGN_IT: &str = "hint: have it signed by somebody whom you trust: host plugin trust sign --key KEY FILE";

/// Makes the keys `ada.key`, which is trusted, and `eve.key`, which is not.
fn keys(setup: &Setup) {
    for name in ["ada", "eve"] {
        setup.run(["plugin", "trust", "keygen", "--out", &format!("{name}.key"), "--name", name]).success();
    }
    let public = std::fs::read_to_string(setup.folder().join("ada.key.pub")).unwrap();
    let _ = setup.file("trusted.txt", format!("# who may deploy here\n\n{public}"));
}

/// Signs a file in the working folder.
#[track_caller]
fn sign(setup: &Setup, key: &str, file: &str) {
    setup.run(["plugin", "trust", "sign", "--key", &format!("{key}.key"), file]).success();
}

/// Runs `counter.wasm` until it has caught up, demanding a signature.
fn run(setup: &Setup) -> Output {
    setup.run([&["run", "--once", "--plugin", "counter.wasm"][..], &DEMAND].concat())
}

/// The public key of a name.
fn public(setup: &Setup, name: &str) -> String {
    let line = std::fs::read_to_string(setup.folder().join(format!("{name}.key.pub"))).unwrap();
    line.split(' ').nth(1).unwrap().to_owned()
}

/// The digest of a file in the working folder.
fn digest(setup: &Setup, file: &str) -> String {
    let inspected = setup.run(["plugin", "inspect", "--json", file]);
    let inspected: Value = serde_json::from_str(&inspected.success().stdout).unwrap();
    inspected["digest"].as_str().unwrap().to_owned()
}

on_both_databases!(only_what_a_trusted_key_has_signed_is_run);
fn only_what_a_trusted_key_has_signed_is_run(setup: &Setup) {
    keys(setup);
    deploy(setup, &bytes("counter"));
    let unsigned = format!("counter.wasm is not signed: there is no signature in counter.wasm.sig\n{SIGN_IT}");
    run(setup).failed(2, &unsigned);
    sign(setup, "eve", "counter.wasm");
    let error = format!(
        "counter.wasm is signed by nobody who is trusted, only by the key {}\n\
         hint: if you trust whoever has that key, add it to the file of --trusted-keys",
        public(setup, "eve")
    );
    run(setup).failed(2, &error);
    assert_eq!(setup.checkpoints("counter"), [], "nothing was run");
    // A second signature stands beside the first.
    sign(setup, "ada", "counter.wasm");
    let output = run(setup);
    assert!(output.success().stderr.contains("signature=signed by ada"), "{}", output.stderr);
    // Compiled code is kept by now, and helps nobody: neither without a signature nor with one of other bytes.
    let signature = setup.folder().join("counter.wasm.sig");
    let signed = std::fs::read(&signature).unwrap();
    std::fs::remove_file(&signature).unwrap();
    run(setup).failed(2, &unsigned);
    std::fs::write(&signature, signed).unwrap();
    deploy(setup, &touched(bytes("counter")));
    let error = "counter.wasm is not the file that ada has signed: its bytes are not those of counter.wasm.sig\n\
                 hint: deploy the file and its signature together, as they were made; if it was changed, find out by \
                 whom";
    run(setup).failed(2, error);
    std::fs::write(&signature, "nonsense").unwrap();
    let error = "counter.wasm.sig holds no signature, as `host plugin trust sign` makes it\n\
                 hint: sign it again: host plugin trust sign --key KEY FILE";
    run(setup).failed(2, error);
    // Who demands nothing is told, and served.
    let output = setup.run(["run", "--once", "--plugin", "counter.wasm"]);
    assert!(output.success().stderr.contains("signature=counter.wasm.sig holds no signature"), "{}", output.stderr);
}

on_both_databases!(rebuild_and_replay_demand_the_same_signature);
fn rebuild_and_replay_demand_the_same_signature(setup: &Setup) {
    keys(setup);
    setup.insert(&[bad("a")]);
    catch_up(setup, &[]).success();
    let letters = setup.dead_letters("saboteur");
    assert_eq!(letters.len(), 1);
    let _ = setup.file("saboteur.wasm", bytes("saboteur"));
    let more = ["--plugin", "saboteur.wasm", "--set", "mended=yes"];
    let error = format!("saboteur.wasm is not signed: there is no signature in saboteur.wasm.sig\n{SIGN_IT}");
    let commands = [&["rebuild"][..], &["dlq", "retry", "--all"], &["dlq", "skip", "--all"], &["plugin", "validate"]];
    let arguments = |command: &[&str]| -> Vec<String> {
        let more = if command[0] == "plugin" { &more[1..2] } else { &more[..] };
        [command, more, &DEMAND].concat().into_iter().map(str::to_owned).collect()
    };
    for command in commands {
        setup.run(arguments(command)).failed(2, &error);
    }
    assert_eq!(setup.dead_letters("saboteur"), letters, "nothing was replayed, and nothing asked");
    sign(setup, "ada", "saboteur.wasm");
    setup.run(arguments(commands[3])).success();
    setup.run(arguments(commands[1])).success();
    assert_eq!(setup.dead_letters("saboteur"), []);
    setup.run(arguments(commands[0])).success();
}

on_both_databases!(a_changed_file_is_taken_up_when_it_is_signed_and_not_before);
fn a_changed_file_is_taken_up_when_it_is_signed_and_not_before(setup: &Setup) {
    keys(setup);
    deploy(setup, &bytes("counter"));
    sign(setup, "ada", "counter.wasm");
    let mut host = setup.start([&["run", "--plugin", "counter.wasm", "--watch"][..], &DEMAND].concat());
    host.wait_for_log("partition claimed");
    count_one(setup, 1);
    // The signature beside it is that of the old file.
    deploy(setup, &bytes("counter_v2"));
    host.wait_for_log("the changed plugin is not taken up; the last good one goes on");
    host.wait_for_log("counter.wasm is not the file that ada has signed");
    count_one(setup, 2);
    sign(setup, "eve", "counter.wasm");
    host.wait_for_log("counter.wasm is signed by nobody who is trusted");
    count_one(setup, 3);
    assert!(!host.log().contains("the projection was replaced"), "{}", host.log());
    // Only the signature changes now.
    sign(setup, "ada", "counter.wasm");
    host.wait_for_log("the projection was replaced");
    count_one(setup, 4);
    assert_eq!(setup.rows("counter", "SELECT aggregate, events, seen_by_v2 FROM counter"), [["a", "4", "1"]]);
    host.terminate();
    host.wait().success();
}

on_both_databases!(only_the_pinned_file_is_run);
fn only_the_pinned_file_is_run(setup: &Setup) {
    deploy(setup, &bytes("counter"));
    let (pinned, now) = ("0".repeat(64), digest(setup, "counter.wasm"));
    let error = format!(
        "counter.wasm has the digest sha256:{now}, and is pinned to sha256:{pinned}\n\
         hint: deploy the file that was pinned, or look at this one with `host plugin inspect` and pin it"
    );
    let argument = format!("counter.wasm@sha256:{pinned}");
    setup.run(["run", "--once", "--plugin", &argument]).failed(2, &error);
    setup.run(["rebuild", "--plugin", &argument]).failed(2, &error);
    assert_eq!(setup.checkpoints("counter"), [], "nothing was run");
    // The right one goes on, whatever is put in its place.
    let argument = format!("counter.wasm@sha256:{now}");
    let mut host = setup.start(["run", "--watch", "--plugin", &argument]);
    host.wait_for_log("partition claimed");
    count_one(setup, 1);
    deploy(setup, &bytes("counter_v2"));
    host.wait_for_log("the changed plugin is not taken up; the last good one goes on");
    host.wait_for_log(&format!("is pinned to sha256:{now}"));
    count_one(setup, 2);
    assert!(!host.log().contains("the projection was replaced"), "{}", host.log());
    host.terminate();
    host.wait().success();
    assert_eq!(setup.rows("counter", "SELECT aggregate, events FROM counter"), [["a", "2"]]);
}

#[test]
fn a_pin_that_is_mistyped_is_refused() {
    let setup = Setup::empty(Kind::Sqlite);
    let output = setup.run(["run", "--plugin", "counter.wasm@sha256:12"]);
    let error = "invalid value 'counter.wasm@sha256:12' for '--plugin <[NAME=]FILE[@sha256:DIGEST]>': the pin \"12\": a \
                 digest is 64 hexadecimal digits";
    assert!(output.exited(2).error().starts_with(error), "{}", output.stderr);
}

#[test]
fn a_private_key_is_secret_and_never_overwritten() {
    let setup = Setup::empty(Kind::Sqlite);
    keys(&setup);
    let path = setup.folder().join("ada.key");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let before = std::fs::read_to_string(&path).unwrap();
    let secret = before.lines().last().unwrap().rsplit(' ').next().unwrap();
    let hint = "and a key that is overwritten is lost\nhint: name another file with --out";
    let keygen = ["plugin", "trust", "keygen", "--out", "ada.key"];
    setup.run(keygen).failed(2, &format!("ada.key is there already, {hint}"));
    std::fs::rename(&path, setup.folder().join("moved.key")).unwrap();
    setup.run(keygen).failed(2, &format!("ada.key.pub is there already, {hint}"));
    std::fs::rename(setup.folder().join("moved.key"), &path).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), before);
    // Others who can read it are worth a word; what signs says nothing of the secret.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let _ = setup.file("counter.wasm", bytes("counter"));
    let output = setup.run(["plugin", "trust", "sign", "--key", "ada.key", "counter.wasm"]);
    assert!(output.success().stderr.contains("others can read this private key"), "{}", output.stderr);
    assert!(!output.stderr.contains(secret) && !output.stdout.contains(secret));
    let error = "ada.key.pub holds no private key, as `host plugin trust keygen` makes it\n\
                 hint: name the file that keygen has written, the one without .pub";
    setup.run(["plugin", "trust", "sign", "--key", "ada.key.pub", "counter.wasm"]).failed(2, error);
}

#[test]
fn verifying_says_who_has_signed_and_fails_otherwise() {
    let setup = Setup::empty(Kind::Sqlite);
    keys(&setup);
    let _ = setup.file("counter.wasm", bytes("counter"));
    let verify = ["plugin", "trust", "verify", "--keys", "trusted.txt", "counter.wasm"];
    let error = format!("counter.wasm is not signed: there is no signature in counter.wasm.sig\n{SIGN_IT}");
    setup.run(verify).failed(1, &error);
    sign(&setup, "ada", "counter.wasm");
    let digest = digest(&setup, "counter.wasm");
    assert_eq!(setup.run(verify).success().stdout, format!("counter.wasm: sha256:{digest} signed by ada\n"));
    setup.run(["plugin", "trust", "verify", "--keys", "eve.key.pub", "counter.wasm"]).exited(1);
    setup.run(["plugin", "trust", "verify", "--keys", "trusted.txt", "missing.wasm"]).exited(2);
}

#[test]
fn trusted_keys_that_cannot_be_read_are_refused_with_their_line() {
    let setup = Setup::empty(Kind::Sqlite);
    let _ = setup.file("counter.wasm", bytes("counter"));
    let _ = setup.file("bad.txt", "# ours\ned25519 AAAA ada\n");
    let _ = setup.file("empty.txt", "# nobody yet\n");
    let form =
        "hint: a line is `ed25519 KEY NAME`, as `host plugin trust keygen` leaves it in KEY.pub; # begins a comment";
    let run = |more: &[&str]| setup.run([&["run", "--once", "--plugin", "counter.wasm"], more].concat());
    let error = "--require-signature without --trusted-keys\n\
                 hint: say whose signatures count: --trusted-keys FILE, a line `ed25519 KEY NAME` each";
    run(&["--require-signature"]).failed(2, error);
    let error = format!("the trusted keys bad.txt, line 2: a key is 32 bytes in base64, 44 characters\n{form}");
    run(&["--trusted-keys", "bad.txt"]).failed(2, &error);
    let error = format!("the trusted keys empty.txt: there is none in it\n{form}");
    run(&["--trusted-keys", "empty.txt", "--require-signature"]).failed(2, &error);
    let error = "cannot read the trusted keys missing.txt: No such file or directory (os error 2)\n\
                 hint: check the path given to --trusted-keys";
    run(&["--trusted-keys", "missing.txt"]).failed(2, error);
    // The same by environment, where a demand without keys is no less of a mistake.
    let mut command = setup.command(["run", "--once", "--plugin", "counter.wasm"]);
    command.env("REQUIRE_SIGNATURE", "true").env("TRUSTED_KEYS", "empty.txt");
    assert!(projectionist_tests::Host::spawn(command).wait().exited(2).error().contains("empty.txt"));
}

#[test]
fn inspecting_a_plugin_shows_whose_signature_it_carries() {
    let setup = Setup::empty(Kind::Sqlite);
    keys(&setup);
    let _ = setup.file("counter.wasm", bytes("counter"));
    let inspect = |more: &[&str]| setup.run([&["plugin", "inspect", "counter.wasm"], more].concat()).success().clone();
    assert!(inspect(&[]).stdout.contains("signature                   not signed\n"));
    sign(&setup, "ada", "counter.wasm");
    let shown =
        format!("signature                   signed by {}, not among the trusted keys\n", public(&setup, "ada"));
    assert!(inspect(&[]).stdout.contains(&shown));
    let output = inspect(&["--trusted-keys", "trusted.txt"]);
    assert!(output.stdout.contains("signature                   signed by ada\n"), "{}", output.stdout);
    let json = |more: &[&str]| -> Value {
        serde_json::from_str(&inspect(&[&["--json"], more].concat()).stdout).expect("JSON")
    };
    assert_eq!(json(&["--trusted-keys", "trusted.txt"])["signature"]["signed_by"], "ada");
    assert_eq!(json(&[])["signature"]["signed_by"], Value::Null);
    deploy(&setup, &touched(bytes("counter")));
    let output = inspect(&["--trusted-keys", "trusted.txt"]);
    assert!(output.stdout.contains("signature                   NOT the bytes that ada has signed\n"));
    // The plugin that is not there is no reason to forget the one that is.
    setup.run(["plugin", "validate", &plugin("counter")]).success();
}
