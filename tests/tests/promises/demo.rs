//! `host demo` does the main job without a server, again and again.

use projectionist_tests::{Kind, Setup, flights, plugin};

#[test]
fn the_demo_shows_the_read_model_of_real_events_and_can_be_repeated() {
    let setup = Setup::empty(Kind::Sqlite);
    for _ in 0..2 {
        let output = setup.run(["demo", "--plugin", &plugin("carrier_delays"), "--folder", "demo"]);
        let shown = &output.success().stdout;
        assert!(shown.contains("Imported 5000 real events"), "{shown}");
        // Carrier, departed, cancelled and miles of each; the means are for people.
        for row in flights::carrier_delays() {
            let found = shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            let found = found.filter(|words| words.first() == Some(&&*row[0])).collect::<Vec<_>>();
            let [words] = &found[..] else { panic!("one line for {}: {shown}", row[0]) };
            assert_eq!((words[1], words[2], words[words.len() - 1]), (&*row[1], &*row[2], &*row[6]), "{shown}");
        }
        for partition in ["0 of 4", "1 of 4", "2 of 4", "3 of 4"] {
            assert!(shown.contains(partition), "{shown}");
        }
        assert!(shown.contains("Try next:"), "{shown}");
    }
}

#[test]
fn a_demo_without_its_plugin_says_how_to_build_it() {
    let setup = Setup::empty(Kind::Sqlite);
    let error = "there is no plugin missing.wasm\nhint: build the sample projections: make plugins; or use: make demo";
    setup.run(["demo", "--plugin", "missing.wasm"]).failed(2, error);
}

#[test]
fn a_demo_leaves_other_files_of_its_folder_alone() {
    let setup = Setup::empty(Kind::Sqlite);
    let mine = setup.file("mine.txt", "mine");
    let folder = setup.folder().display().to_string();
    setup.run(["demo", "--plugin", &plugin("carrier_delays"), "--folder", &folder]).success();
    assert_eq!(std::fs::read_to_string(mine).unwrap(), "mine");
}
