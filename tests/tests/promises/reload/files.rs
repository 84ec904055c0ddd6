//! Files come in many ways: written in place, renamed, through links, deleted and put back.

use std::fs;
use std::os::unix::fs::symlink;

use projectionist_tests::{Setup, on_both_databases, wait_until};

use super::{bytes, count_one, deploy, start, touched};

on_both_databases!(a_half_written_file_is_not_taken_up_and_the_whole_one_is);
fn a_half_written_file_is_not_taken_up_and_the_whole_one_is(setup: &Setup) {
    let mut host = start(setup, &[]);
    count_one(setup, 1);
    let new = bytes("counter_v2");
    // In place, and whoever writes it takes a long break in the middle.
    let _ = setup.file("counter.wasm", &new[..new.len() / 2]);
    host.wait_for_log("the changed plugin is not taken up; the last good one goes on");
    count_one(setup, 2);
    let _ = setup.file("counter.wasm", &new);
    host.wait_for_log("the projection was replaced");
    count_one(setup, 3);
    assert_eq!(setup.rows("counter", "SELECT events, seen_by_v2 FROM counter"), [["3", "1"]]);
    host.terminate();
    host.wait().success();
}

on_both_databases!(links_that_are_swapped_are_followed);
fn links_that_are_swapped_are_followed(setup: &Setup) {
    // As Kubernetes mounts a config map: file → ..data/file, ..data → a folder, and ..data is what is swapped.
    let folder = setup.folder();
    let version = |name: &str, content: &[u8]| {
        fs::create_dir(folder.join(name)).unwrap();
        fs::write(folder.join(name).join("counter.wasm"), content).unwrap();
    };
    version("..2026_01", &bytes("counter"));
    symlink("..2026_01", folder.join("..data")).unwrap();
    symlink("..data/counter.wasm", folder.join("counter.wasm")).unwrap();
    let mut host = setup.start(["run", "--plugin", "counter.wasm", "--watch"]);
    host.wait_for_log("partition claimed");
    count_one(setup, 1);
    version("..2026_02", &bytes("counter_v2"));
    symlink("..2026_02", folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    fs::remove_dir_all(folder.join("..2026_01")).unwrap();
    host.wait_for_log("the projection was replaced");
    count_one(setup, 2);
    assert_eq!(setup.rows("counter", "SELECT events, seen_by_v2 FROM counter"), [["2", "1"]]);
    host.terminate();
    host.wait().success();
}

on_both_databases!(a_file_that_is_deleted_changes_nothing_until_another_comes);
fn a_file_that_is_deleted_changes_nothing_until_another_comes(setup: &Setup) {
    let mut host = start(setup, &[]);
    count_one(setup, 1);
    fs::remove_file(setup.folder().join("counter.wasm")).unwrap();
    count_one(setup, 2);
    deploy(setup, &bytes("counter_v2"));
    host.wait_for_log("the projection was replaced");
    count_one(setup, 3);
    host.terminate();
    host.wait().success();
    assert_eq!(setup.rows("counter", "SELECT events, seen_by_v2 FROM counter"), [["3", "1"]]);
}

on_both_databases!(what_was_refused_is_taken_up_when_it_comes_again_after_another);
fn what_was_refused_is_taken_up_when_it_comes_again_after_another(setup: &Setup) {
    let host = start(setup, &[]);
    count_one(setup, 1);
    let refused = |number| {
        deploy(setup, b"no component");
        wait_until("it is refused", || host.log().matches("the changed plugin is not taken up").count() == number);
    };
    refused(1);
    deploy(setup, &touched(bytes("counter")));
    wait_until("the good one is taken up", || host.log().matches("the projection was replaced").count() == 1);
    refused(2);
    count_one(setup, 2);
    host.terminate();
    host.wait().success();
}
