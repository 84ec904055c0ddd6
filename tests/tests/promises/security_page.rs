//! docs/security.md names, for each attack, the tests that show it contained: they are there.

use std::path::{Path, PathBuf};

/// A file of this workspace.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Its text, if it is there.
fn text(path: &str) -> Option<String> {
    std::fs::read_to_string(file(path)).ok()
}

/// The last cells of the tables behind a heading, up to the next heading of that kind.
fn last_cells<'page>(page: &'page str, heading: &str) -> Vec<&'page str> {
    let (_, section) = page.split_once(&format!("\n## {heading}\n")).expect("the heading");
    let section = section.split("\n## ").next().expect("a section");
    let rows = section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| attack"));
    rows.map(|row| row.trim_end_matches('|').rsplit(" | ").next().expect("a cell").trim()).collect()
}

/// The texts in which a test is looked for, and its name, as a page gives it: `file.rs: name`, `module::name`, or a name alone,
/// which is where the one before it is.
fn named(of_guard: bool, mention: &str, last: &str) -> (String, String) {
    let (place, name) = mention.split_once(": ").or_else(|| mention.split_once("::")).unwrap_or((last, mention));
    let path = match place {
        _ if of_guard => "host/src/read_model/guard/tests.rs".to_owned(),
        path if path.starts_with("tests/") => path.to_owned(),
        path if path.ends_with(".rs") => format!("tests/tests/promises/{path}"),
        "wasi" => "tests/tests/promises/wasi.rs".to_owned(),
        module => format!("tests/tests/promises/evil/{module}.rs"),
    };
    (path, name.to_owned())
}

/// Whether there is a test of that name, or of one that begins so where it ends in `…`.
fn is_there(text: &str, name: &str) -> bool {
    match name.strip_suffix('…') {
        Some(beginning) => text.contains(&format!("fn {beginning}")),
        None => text.contains(&format!("fn {name}(")),
    }
}

#[test]
fn every_test_that_it_names_is_there() {
    let page = text("docs/security.md").expect("the page");
    let cells =
        ["SQL attacks, and the tests that show them contained", "Attacks, and the tests that show them contained"]
            .map(|heading| last_cells(&page, heading));
    let (mut found, mut wrong) = (0, Vec::new());
    for cell in cells.iter().flatten() {
        let mut last = String::new();
        let parts: Vec<&str> = cell.split('`').collect();
        if parts.len() < 2 && !cell.contains("*guard*") {
            wrong.push(format!("no test is named: {cell}"));
        }
        for (before, mention) in parts.iter().zip(&parts[1..]).step_by(2) {
            let (path, name) = named(before.ends_with("*guard*: "), mention, &last);
            let there = text(&path).is_some_and(|text| name.ends_with(".rs") || is_there(&text, &name));
            if !there {
                wrong.push(format!("{mention} is not in {path}: {cell}"));
            }
            found += usize::from(there);
            last = path;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(found > 50, "the tables have been read: {found}");
}
