//! What a projection binds is what is in its table: every value, on every way that the host sends it, is as if it had been
//! bound by the driver.

use projectionist_tests::chaos::random::Random;
use projectionist_tests::{Connection, Event, Kind, Setup, event, on_both_databases, plugin};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

/// A row as the plugin `values` is told to write it.
#[derive(Clone, Debug, Default)]
struct Row {
    /// A boolean.
    flag: Option<bool>,
    /// An integer; its last bits are the smaller ones.
    integer: Option<i64>,
    /// A float; the nearest one of 32 bits is the smaller.
    float: Option<f64>,
    /// A text.
    text: Option<String>,
    /// Bytes.
    bytes: Option<Vec<u8>>,
    /// How often they are repeated.
    times: usize,
    /// A decimal number.
    numeric: Option<String>,
    /// A UUID.
    uuid: Option<Uuid>,
    /// A JSON text.
    json: Option<String>,
    /// Microseconds since 1970.
    timestamp: Option<i64>,
}

/// What has to be right because it is special.
const TEXTS: &[&str] = &[
    "",
    " ",
    "'",
    "''",
    "\\",
    "\\\\",
    "\\'",
    "\"",
    "\\\"",
    "NULL",
    "null",
    "{}",
    "{a,b}",
    ",",
    "}'",
    "');--",
    "$1",
    "$tag$",
    "E'\\n'",
    "\n\r\t\u{b}\u{7f}",
    "\\x41",
    "\\u0041",
    "U&'\\0041'",
    "\u{feff}bom",
    "é",
    "e\u{301}",
    "\u{202e}right to left",
    "🦀",
    "\u{10ffff}",
    "\u{e000}",
    "'\u{2028}'",
    "/* */ --",
    ";",
    "%",
    "_",
    "\u{a0}",
];
/// See [`TEXTS`].
const INTEGERS: &[i64] = &[0, 1, -1, i64::MIN, i64::MAX, 32_767, -32_768, 2_147_483_647, -2_147_483_648];
/// See [`TEXTS`].
const FLOATS: &[f64] = &[
    0.0,
    -0.0,
    1.0,
    0.1,
    -1.5,
    f64::MIN_POSITIVE,
    5e-324,
    f64::MAX,
    f64::MIN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::NAN,
    1e23,
    9_007_199_254_740_993.0,
];
/// See [`TEXTS`].
const NUMERICS: &[&str] =
    &["0", "-0.00", "1.10", "123456789012345678901234567890.123456789", "-0.00000000000000000001"];
/// See [`TEXTS`].
const JSONS: &[&str] = &[
    "null",
    "{}",
    "[]",
    r#"{"a": "it's \\ \"x\" {1,2}"}"#,
    r#""\u00e9\ud83e\udd80""#,
    "1.10",
    "[1,2, 3]",
    r#"{"b":1, "a":1}"#,
    "\"\"",
];
/// See [`TEXTS`].
const TIMES: &[i64] = &[0, 1, -1, 1_700_000_000_123_456, -62_135_596_800_000_000, 253_402_300_799_999_999];

/// A text of characters of every plane.
fn text(random: &mut Random) -> String {
    if random.percent(40) {
        return (*random.one_of(TEXTS)).to_owned();
    }
    let length = random.below(40);
    let character = |random: &mut Random| loop {
        let bound = *random.one_of(&[0x80, 0x800, 0x1_0000, 0x11_0000]);
        // No database of the two takes U+0000 in a text; that has a test of its own.
        if let Some(character) = u32::try_from(random.between(1, bound - 1)).ok().and_then(char::from_u32) {
            return character;
        }
    };
    (0..length).map(|_| character(random)).collect()
}

impl Row {
    /// One at random.
    fn at_random(random: &mut Random) -> Self {
        let special = random.percent(50);
        let some = |random: &mut Random| random.percent(90);
        let row = Self {
            flag: Some(random.percent(50)),
            integer: Some(if special { *random.one_of(INTEGERS) } else { random.draw().cast_signed() }),
            float: Some(if special { *random.one_of(FLOATS) } else { f64::from_bits(random.draw()) }),
            text: Some(text(random)),
            bytes: Some((0..random.below(60)).map(|_| random.draw().to_le_bytes()[0]).collect()),
            times: 1,
            numeric: Some((*random.one_of(NUMERICS)).to_owned()),
            uuid: Some(Uuid::from_u64_pair(random.draw(), random.draw())),
            json: Some((*random.one_of(JSONS)).to_owned()),
            timestamp: Some(*random.one_of(TIMES)),
        };
        Self {
            flag: row.flag.filter(|_| some(random)),
            integer: row.integer.filter(|_| some(random)),
            // Of the many that are no number, each database has one.
            float: row.float.map(|float| if float.is_nan() { f64::NAN } else { float }).filter(|_| some(random)),
            text: row.text.filter(|_| some(random)),
            bytes: row.bytes.filter(|_| some(random)),
            numeric: row.numeric.filter(|_| some(random)),
            uuid: row.uuid.filter(|_| some(random)),
            json: row.json.filter(|_| some(random)),
            timestamp: row.timestamp.filter(|_| some(random)),
            times: 1,
        }
    }

    /// The event that has it written.
    fn event(&self, id: usize) -> Event {
        let hex = |bytes: &Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let payload: Value = json!({
            "id": id, "flag": self.flag, "integer": self.integer.map(|integer| integer.to_string()),
            "float": self.float.map(|float| float.to_bits().to_string()), "text": self.text,
            "bytes": self.bytes.as_ref().map(hex), "times": self.times, "numeric": self.numeric,
            "uuid": self.uuid.map(|uuid| uuid.to_string()), "json": self.json, "timestamp": self.timestamp.map(|at| at.to_string()),
        });
        event("Row", "Rows", "one").payload(payload)
    }

    /// Its bytes.
    fn all_bytes(&self) -> Option<Vec<u8>> {
        self.bytes.as_ref().map(|bytes| bytes.repeat(self.times))
    }
}

/// The smaller integers.
#[expect(clippy::cast_possible_truncation, reason = "as the plugin does it")]
fn parts(integer: Option<i64>) -> (Option<i16>, Option<i32>) {
    (integer.map(|all| all as i16), integer.map(|all| all as i32))
}

/// The smaller float.
#[expect(clippy::cast_possible_truncation, reason = "as the plugin does it")]
fn single(float: Option<f64>) -> Option<f32> {
    float.map(|float| float as f32)
}

/// The first characters.
fn short(text: Option<&String>) -> Option<String> {
    text.map(|text| text.chars().take(200).collect())
}

/// Writes the rows into `expected`, a table like the plugin's, bound by the driver with their types.
fn bind(setup: &Setup, rows: &[Row]) {
    match setup.read_model().kind() {
        Kind::Postgres => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(bind_in_postgres(&setup.read_model().url(), rows)).expect("the driver binds them");
        }
        Kind::Sqlite => {
            let file = setup.read_model().file_of("values_of_each_type");
            bind_in_sqlite(&rusqlite::Connection::open(file).expect("the file"), rows).expect("the driver binds them");
        }
    }
}

/// On Postgres.
async fn bind_in_postgres(url: &str, rows: &[Row]) -> sqlx::Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::raw_sql("SET search_path = values_of_each_type; SET timezone = 'UTC'; CREATE TABLE expected (LIKE found)")
        .execute(&mut connection)
        .await?;
    for (id, row) in rows.iter().enumerate() {
        let (small, medium) = parts(row.integer);
        let seconds = row.timestamp.map(|at| (at.div_euclid(1_000_000), at.rem_euclid(1_000_000)));
        // The driver has no decimal numbers, JSON texts and times without more of it: Postgres reads those.
        sqlx::query(
            "INSERT INTO expected VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::text::numeric, $12, $13::text::json,
                 $14::text::jsonb, '1970-01-01Z'::timestamptz + $15 * interval '1 second' + $16 * interval '1 microsecond')",
        )
        .bind(i64::try_from(id).expect("a small number"))
        .bind(row.flag)
        .bind(small)
        .bind(medium)
        .bind(row.integer)
        .bind(single(row.float))
        .bind(row.float)
        .bind(&row.text)
        .bind(short(row.text.as_ref()))
        .bind(row.all_bytes())
        .bind(&row.numeric)
        .bind(row.uuid)
        .bind(&row.json)
        .bind(&row.json)
        .bind(seconds.map(|(seconds, _)| seconds as f64))
        .bind(seconds.map(|(_, micros)| micros as f64))
        .execute(&mut connection)
        .await?;
    }
    connection.close().await
}

/// On SQLite, which has no types for decimal numbers, UUIDs, JSON and times: they are texts.
fn bind_in_sqlite(connection: &rusqlite::Connection, rows: &[Row]) -> rusqlite::Result<()> {
    connection.execute_batch("CREATE TABLE expected AS SELECT * FROM found WHERE false; BEGIN")?;
    for (id, row) in rows.iter().enumerate() {
        let (small, medium) = parts(row.integer);
        connection.execute(
            "INSERT INTO expected (id, flag, small, medium, large, single, double, text, short, bytes, uuid, json, jsonb)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?12)",
            rusqlite::params![
                id.cast_signed() as i64,
                row.flag,
                small,
                medium,
                row.integer,
                single(row.float).map(f64::from),
                row.float,
                row.text,
                short(row.text.as_ref()),
                row.all_bytes(),
                row.uuid.map(|uuid| uuid.to_string()),
                row.json,
            ],
        )?;
    }
    connection.execute_batch("COMMIT")
}

/// The rows of the projection that are other than they should be.
fn differences(setup: &Setup) -> Vec<Vec<String>> {
    let mut connection: Connection = setup.read_model().connect_to("values_of_each_type");
    match setup.read_model().kind() {
        Kind::Postgres => connection.rows(
            "SELECT left(found::text, 500), left(expected::text, 500) FROM found FULL JOIN expected USING (id)
             WHERE found::text IS DISTINCT FROM expected::text",
        ),
        // With their storage classes: `quote` tells a text from a number, and shows a float in full.
        Kind::Sqlite => {
            let columns = [
                "flag", "small", "medium", "large", "single", "double", "text", "short", "bytes", "uuid", "json",
                "jsonb",
            ];
            let of = |table: &str| columns.map(|column| format!("quote({table}.{column})")).join(" || ' ' || ");
            let (found, expected) = (of("found"), of("expected"));
            connection.rows(&format!(
                "SELECT substr({found}, 1, 500), substr({expected}, 1, 500) FROM found JOIN expected USING (id)
                 WHERE {found} IS NOT {expected}"
            ))
        }
    }
}

on_both_databases!(every_value_is_in_the_table_as_if_the_driver_had_bound_it);
fn every_value_is_in_the_table_as_if_the_driver_had_bound_it(setup: &Setup) {
    let seed = std::process::id().into();
    let mut random = Random::new(seed);
    let mut rows: Vec<Row> = (0..400).map(|_| Row::at_random(&mut random)).collect();
    if setup.read_model().kind() == Kind::Sqlite {
        // It stores NULL for what is no number, and the host refuses that.
        rows.iter_mut().for_each(|row| row.float = row.float.filter(|float| !float.is_nan()));
    }
    // Sixteen megabytes, on both ways.
    let large = Row { bytes: Some((0..=255).collect()), times: 65_536, ..Row::default() };
    rows.extend([large.clone(), large]);
    for chunk in rows.iter().enumerate().collect::<Vec<_>>().chunks(100) {
        setup.insert(&chunk.iter().map(|(id, row)| row.event(*id)).collect::<Vec<_>>());
    }
    setup.run(["run", "--once", "--plugin", &plugin("values")]).success();
    let letters = setup.dead_letters("values_of_each_type");
    assert_eq!(letters.first(), None, "seed {seed}");
    bind(setup, &rows);
    assert_eq!(setup.count("values_of_each_type", "found"), rows.len() as u64);
    assert_eq!(setup.count("values_of_each_type", "expected"), rows.len() as u64);
    assert_eq!(differences(setup), Vec::<Vec<String>>::new(), "seed {seed}");
}

on_both_databases!(a_text_that_holds_the_character_nul_is_refused_by_the_number_of_its_parameter);
fn a_text_that_holds_the_character_nul_is_refused_by_the_number_of_its_parameter(setup: &Setup) {
    let row = |text: &str| Row { text: Some(text.to_owned()), times: 1, ..Row::default() };
    // Often enough that rows go together.
    let mut rows: Vec<Row> = (0..40).map(|number| row(&number.to_string())).collect();
    rows[30] = row("a\0b");
    let events: Vec<Event> = rows.iter().enumerate().map(|(id, row)| row.event(id)).collect();
    setup.insert(&events);
    setup.run(["run", "--once", "--on-error", "skip", "--plugin", &plugin("values")]).success();
    let letters = setup.dead_letters("values_of_each_type");
    assert_eq!(letters.iter().map(|letter| letter.position).collect::<Vec<_>>(), [31]);
    assert!(letters[0].error.contains("U+0000") && letters[0].error.contains("$8"), "{}", letters[0].error);
    assert_eq!(setup.count("values_of_each_type", "found"), 39);
}
