//! Functions of SQL that SQLite's own would take minutes for, in one step that nothing interrupts.
//!
//! SQLite looks at the clock between the steps of a statement ([`super::store`]), and a call of a function is one step.
//! Some of its functions compare everything with everything: `instr` of 16 MiB in 32 MiB can take days, and `replace`, `trim`
//! and `unhex` are no better. So these are the host's: the same results (the tests ask
//! SQLite's own), in a time that grows with the length of the arguments and not with their product. What SQLite does to
//! text that is no UTF-8 is kept where it is bytes that are compared, and refused where it is characters: `trim` and
//! `unhex` with such a text as the set of characters.
//!
//! `LIKE` and `GLOB` stay SQLite's, because it finds rows by an index for its own alone; the length of a pattern is bounded
//! instead. `json_patch` compares each member of one object with each of another, and is not on the list of functions.

use std::ffi::{CStr, c_char, c_int, c_void};

use memchr::memmem;
use rusqlite::{Connection, ffi};

/// A function as SQLite calls it.
type Function = unsafe extern "C" fn(*mut ffi::sqlite3_context, c_int, *mut *mut ffi::sqlite3_value);

/// All of them, by name and number of arguments.
const FUNCTIONS: [(&CStr, c_int, Function); 6] = [
    (c"instr", 2, instr),
    (c"replace", 3, replace),
    (c"trim", 2, trim),
    (c"ltrim", 2, ltrim),
    (c"rtrim", 2, rtrim),
    (c"unhex", 2, unhex),
];

/// Puts them in the place of SQLite's own, for this connection.
///
/// # Errors
/// When SQLite has no memory.
pub(super) fn register(connection: &Connection) -> rusqlite::Result<()> {
    // As SQLite's own are: they may stand in indexes, checks and views.
    let flags = ffi::SQLITE_UTF8 | ffi::SQLITE_DETERMINISTIC | ffi::SQLITE_INNOCUOUS;
    for (name, arguments, function) in FUNCTIONS {
        #[expect(unsafe_code, reason = "rusqlite's own way would not give numbers as SQLite writes them")]
        // SAFETY: the handle is that of an open connection, the name ends in a zero byte, and the function keeps to what
        // SQLite asks of one: it reads as many arguments as it is registered for, sets a result, and does not panic.
        let code = unsafe {
            let none = std::ptr::null_mut::<c_void>();
            let handle = connection.handle();
            ffi::sqlite3_create_function_v2(
                handle,
                name.as_ptr(),
                arguments,
                flags,
                none,
                Some(function),
                None,
                None,
                None,
            )
        };
        if code != ffi::SQLITE_OK {
            return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
        }
    }
    Ok(())
}

/// A call: the arguments, and where the result goes.
struct Call {
    /// Where the result goes.
    context: *mut ffi::sqlite3_context,
    /// The arguments.
    arguments: *mut *mut ffi::sqlite3_value,
}

/// What a call gives.
enum Gives<'call> {
    /// NULL.
    Null,
    /// A number.
    Number(usize),
    /// A text.
    Text(&'call [u8]),
    /// A text, or a blob, that the function has made.
    Made(Vec<u8>, Kind),
    /// An error.
    Error(&'static CStr),
    /// The error of what is longer than a value may be.
    TooBig,
}

/// What bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A text.
    Text,
    /// A blob.
    Blob,
}

#[expect(unsafe_code, reason = "SQLite's values are behind pointers")]
impl Call {
    /// An argument.
    fn argument(&self, at: usize) -> *mut ffi::sqlite3_value {
        // SAFETY: SQLite passes as many as the function is registered for, and nobody here asks for more.
        unsafe { *self.arguments.add(at) }
    }

    /// Of which type an argument is.
    fn type_of(&self, at: usize) -> c_int {
        // SAFETY: the value lives as long as the call.
        unsafe { ffi::sqlite3_value_type(self.argument(at)) }
    }

    /// An argument as text, as SQLite itself writes it where it is something else; nothing for NULL.
    fn text(&self, at: usize) -> Option<&[u8]> {
        // SAFETY: as below.
        unsafe { bytes(self.argument(at), Kind::Text) }
    }

    /// An argument as bytes; nothing for NULL.
    fn blob(&self, at: usize) -> Option<&[u8]> {
        // SAFETY: as below.
        unsafe { bytes(self.argument(at), Kind::Blob) }
    }

    /// How long a value may be.
    fn longest(&self) -> usize {
        // SAFETY: the context is that of the running call; -1 asks and changes nothing.
        let limit =
            unsafe { ffi::sqlite3_limit(ffi::sqlite3_context_db_handle(self.context), ffi::SQLITE_LIMIT_LENGTH, -1) };
        usize::try_from(limit).unwrap_or(0)
    }

    /// Sets the result.
    fn end(&self, gives: &Gives<'_>) {
        let context = self.context;
        let (data, length) = match gives {
            Gives::Text(text) => (text.as_ptr(), text.len()),
            Gives::Made(bytes, _) => (bytes.as_ptr(), bytes.len()),
            _ => (std::ptr::null(), 0),
        };
        // SAFETY: the context is that of the running call; what is pointed to lives until SQLite has copied it, which
        // SQLITE_TRANSIENT says it does at once.
        unsafe {
            match gives {
                Gives::Null => ffi::sqlite3_result_null(context),
                Gives::Number(number) => ffi::sqlite3_result_int64(context, i64::try_from(*number).unwrap_or(i64::MAX)),
                Gives::Text(_) | Gives::Made(_, Kind::Text) => ffi::sqlite3_result_text64(
                    context,
                    data.cast::<c_char>(),
                    length as u64,
                    ffi::SQLITE_TRANSIENT(),
                    ffi::SQLITE_UTF8 as u8,
                ),
                Gives::Made(_, Kind::Blob) => {
                    ffi::sqlite3_result_blob64(context, data.cast::<c_void>(), length as u64, ffi::SQLITE_TRANSIENT())
                }
                Gives::Error(message) => ffi::sqlite3_result_error(context, message.as_ptr(), -1),
                Gives::TooBig => ffi::sqlite3_result_error_toobig(context),
            }
        }
    }
}

/// The bytes of a value; nothing for NULL, or when SQLite has no memory to make a text of a number.
///
/// # Safety
/// The value must live for as long as the bytes are used, and nobody may convert it meanwhile.
#[expect(unsafe_code, reason = "SQLite's values are behind pointers")]
unsafe fn bytes<'value>(value: *mut ffi::sqlite3_value, kind: Kind) -> Option<&'value [u8]> {
    // SAFETY: the caller's; the length is asked for after the pointer, as SQLite's documentation wants it.
    unsafe {
        let data = match kind {
            Kind::Text => ffi::sqlite3_value_text(value),
            Kind::Blob => ffi::sqlite3_value_blob(value).cast::<u8>(),
        };
        let length = usize::try_from(ffi::sqlite3_value_bytes(value)).unwrap_or(0);
        match (data.is_null(), length) {
            // An empty blob has no pointer.
            (true, 0) if ffi::sqlite3_value_type(value) == ffi::SQLITE_BLOB => Some(&[]),
            (true, _) => None,
            (false, _) => Some(std::slice::from_raw_parts(data, length)),
        }
    }
}

/// Makes a function as SQLite calls it of one that takes a [`Call`].
macro_rules! function {
    ($(#[$documented:meta])* $name:ident, $of:expr) => {
        $(#[$documented])*
        #[expect(unsafe_code, reason = "SQLite calls it")]
        unsafe extern "C" fn $name(
            context: *mut ffi::sqlite3_context,
            _: c_int,
            arguments: *mut *mut ffi::sqlite3_value,
        ) {
            let call = Call { context, arguments };
            call.end(&($of)(&call));
        }
    };
}

function!(
    /// `instr(text, what)`: where it is for the first time, in characters from 1; in bytes, where both are blobs.
    instr, find
);
function!(
    /// `replace(text, what, by)`.
    replace, replace_all
);
function!(
    /// `trim(text, characters)`.
    trim, |call| trim_sides(call, true, true)
);
function!(
    /// `ltrim(text, characters)`.
    ltrim, |call| trim_sides(call, true, false)
);
function!(
    /// `rtrim(text, characters)`.
    rtrim, |call| trim_sides(call, false, true)
);
function!(
    /// `unhex(text, characters that are passed over)`.
    unhex, bytes_of_hex
);

/// See [`instr`].
#[expect(unsafe_code, reason = "SQLite's values are behind pointers")]
fn find(call: &Call) -> Gives<'_> {
    let (first, second) = (call.type_of(0), call.type_of(1));
    if first == ffi::SQLITE_NULL || second == ffi::SQLITE_NULL {
        return Gives::Null;
    }
    let blobs = (first == ffi::SQLITE_BLOB, second == ffi::SQLITE_BLOB);
    let found = match blobs {
        (true, true) => call.blob(0).zip(call.blob(1)).map(|(hay, needle)| position(hay, needle, Kind::Blob)),
        (false, false) => call.text(0).zip(call.text(1)).map(|(hay, needle)| position(hay, needle, Kind::Text)),
        // A blob that is read as a text would be one from then on, also to whoever is called next; so it is a copy.
        // SAFETY: the copies live until their bytes are compared; a copy that could not be made has no text.
        _ => unsafe {
            let copies = (ffi::sqlite3_value_dup(call.argument(0)), ffi::sqlite3_value_dup(call.argument(1)));
            let found = bytes(copies.0, Kind::Text)
                .zip(bytes(copies.1, Kind::Text))
                .map(|(hay, needle)| position(hay, needle, Kind::Text));
            ffi::sqlite3_value_free(copies.0);
            ffi::sqlite3_value_free(copies.1);
            found
        },
    };
    found.map_or(Gives::Error(c"out of memory"), Gives::Number)
}

/// Where a needle is, from 1; 0 if it is nowhere.
fn position(haystack: &[u8], needle: &[u8], kind: Kind) -> usize {
    let continues = |byte: u8| kind == Kind::Text && byte & 0xc0 == 0x80;
    let found = match needle.first() {
        None => return 1,
        // Characters begin elsewhere; only at the very start SQLite looks nevertheless.
        Some(first) if continues(*first) => haystack.starts_with(needle).then_some(0),
        Some(_) => memmem::find(haystack, needle),
    };
    found.map_or(0, |at| 1 + haystack.get(1..=at).unwrap_or_default().iter().filter(|byte| !continues(**byte)).count())
}

/// See [`replace`].
fn replace_all(call: &Call) -> Gives<'_> {
    let Some((text, what)) = call.text(0).zip(call.text(1)) else { return Gives::Null };
    if matches!(what.first(), None | Some(0)) {
        return Gives::Text(text);
    }
    let Some(by) = call.text(2) else { return Gives::Null };
    let finder = memmem::Finder::new(what);
    // Before there is room for it.
    let times = if by.len() > what.len() { finder.find_iter(text).count() } else { 0 };
    let length = text.len() + times * by.len().saturating_sub(what.len());
    if length > call.longest() {
        return Gives::TooBig;
    }
    let mut made = Vec::with_capacity(length);
    let mut from = 0;
    for at in finder.find_iter(text) {
        made.extend_from_slice(&text[from..at]);
        made.extend_from_slice(by);
        from = at + what.len();
    }
    made.extend_from_slice(&text[from..]);
    Gives::Made(made, Kind::Text)
}

/// Characters to look up: those of a text, in a time that does not depend on how many there are.
struct Characters<'text> {
    /// The text.
    text: &'text str,
    /// A bit for each character, where there are many.
    many: Option<Vec<u64>>,
}

/// How many bytes of characters are looked through one by one.
const FEW: usize = 32;

impl<'text> Characters<'text> {
    /// Those of a text.
    fn of(text: &'text str) -> Self {
        let many = (text.len() > FEW).then(|| {
            let mut bits = vec![0_u64; 0x11_0000 / 64];
            for character in text.chars() {
                let at = character as usize;
                bits[at / 64] |= 1 << (at % 64);
            }
            bits
        });
        Self { text, many }
    }

    /// Whether a character is among them.
    fn has(&self, character: char) -> bool {
        match &self.many {
            None => self.text.contains(character),
            Some(bits) => bits[character as usize / 64] >> (character as usize % 64) & 1 == 1,
        }
    }
}

/// The error of a set of characters that are none.
const NO_CHARACTERS: &CStr = c"the characters are not UTF-8";

/// See [`trim`]: from the left, from the right.
fn trim_sides(call: &Call, left: bool, right: bool) -> Gives<'_> {
    let Some((mut text, set)) = call.text(0).zip(call.text(1)) else { return Gives::Null };
    let set = set.split(|byte| *byte == 0).next().unwrap_or_default();
    let Ok(set) = std::str::from_utf8(set) else { return Gives::Error(NO_CHARACTERS) };
    let set = Characters::of(set);
    while left
        && let Some(first) = first_character(text)
        && set.has(first)
    {
        text = &text[first.len_utf8()..];
    }
    while right
        && let Some(last) = last_character(text)
        && set.has(last)
    {
        text = &text[..text.len() - last.len_utf8()];
    }
    Gives::Text(text)
}

/// The first character of what may be no UTF-8.
fn first_character(text: &[u8]) -> Option<char> {
    let start = &text[..text.len().min(4)];
    let valid = match std::str::from_utf8(start) {
        Ok(start) => start,
        // Up to the byte that is cut off, or wrong.
        Err(error) => std::str::from_utf8(&start[..error.valid_up_to()]).unwrap_or_default(),
    };
    valid.chars().next()
}

/// The last character of what may be no UTF-8.
fn last_character(text: &[u8]) -> Option<char> {
    let whole = |length: usize| std::str::from_utf8(&text[text.len() - length..]).ok();
    (1..=text.len().min(4)).find_map(whole).and_then(|end| end.chars().next_back())
}

/// See [`unhex`].
fn bytes_of_hex(call: &Call) -> Gives<'_> {
    let Some((text, passed)) = call.text(0).zip(call.text(1)) else { return Gives::Null };
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let (Ok(text), Ok(passed)) = (std::str::from_utf8(text), std::str::from_utf8(passed)) else {
        return Gives::Error(NO_CHARACTERS);
    };
    // SQLite reads these as U+FFFD.
    let read = |character: char| if matches!(character, '\u{fffe}' | '\u{ffff}') { '\u{fffd}' } else { character };
    let folded = passed.replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}");
    let passed = Characters::of(&folded);
    let mut made = Vec::with_capacity(text.len() / 2);
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let Some(high) = character.to_digit(16) else {
            if passed.has(read(character)) {
                continue;
            }
            return Gives::Null;
        };
        let Some(low) = characters.next().and_then(|character| character.to_digit(16)) else { return Gives::Null };
        made.push((high << 4 | low) as u8);
    }
    Gives::Made(made, Kind::Blob)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rusqlite::types::Value;

    use super::*;

    /// Text of few characters, so that something is found, or anything.
    fn text() -> impl Strategy<Value = String> {
        prop_oneof!["[ab é€]{0,8}", "[\\PC\0]{0,6}", "[0-9a-fA-F \u{fffd}\u{fffe}]{0,8}", "[a-z0-9é ]{30,60}"]
    }

    /// A value of any type.
    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            6 => text().prop_map(Value::Text),
            1 => Just(Value::Null),
            1 => (-99_i64..1_000).prop_map(Value::Integer),
            1 => any::<f64>().prop_map(Value::Real),
            2 => text().prop_map(|text| Value::Blob(text.into_bytes())),
            1 => prop::collection::vec(any::<u8>(), 0..5).prop_map(Value::Blob),
        ]
    }

    /// What a connection gives for an expression.
    fn ask(connection: &Connection, sql: &str, values: &[Value]) -> Result<Value, String> {
        let mut statement = connection.prepare_cached(sql).unwrap();
        statement.query_row(rusqlite::params_from_iter(values), |row| row.get(0)).map_err(|error| error.to_string())
    }

    /// SQLite as it is, and with these functions.
    fn both() -> (Connection, Connection) {
        let (theirs, ours) = (Connection::open_in_memory().unwrap(), Connection::open_in_memory().unwrap());
        register(&ours).unwrap();
        (theirs, ours)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]
        #[test]
        fn they_give_what_those_of_sqlite_give(values in [value(), value(), value()]) {
            thread_local!(static BOTH: (Connection, Connection) = both());
            BOTH.with(|(theirs, ours)| {
                for sql in [
                    "SELECT instr(?1, ?2), ?3",
                    "SELECT instr(CAST(?1 AS TEXT), CAST(?2 AS TEXT)), ?3",
                    "SELECT replace(?1, ?2, ?3)",
                    "SELECT trim(?1, ?2), ?3",
                    "SELECT ltrim(?1, ?2), ?3",
                    "SELECT rtrim(?1, ?2), ?3",
                    "SELECT unhex(?1, ?2), ?3",
                ] {
                    let (theirs, ours) = (ask(theirs, sql, &values), ask(ours, sql, &values));
                    // It says so where a set of characters is none.
                    if ours.as_ref().is_err_and(|error| error.contains("not UTF-8")) {
                        let invalid = |value: &Value| matches!(value, Value::Blob(bytes) if std::str::from_utf8(bytes).is_err());
                        prop_assert!(values.iter().any(invalid), "{} {:?}", sql, values);
                        continue;
                    }
                    prop_assert_eq!(theirs, ours, "{} {:?}", sql, values);
                }
                Ok(())
            })?;
        }
    }

    #[test]
    fn what_would_be_longer_than_a_value_may_be_is_refused_before_it_is_made() {
        let (theirs, ours) = both();
        for connection in [&theirs, &ours] {
            connection.set_limit(rusqlite::limits::Limit::SQLITE_LIMIT_LENGTH, 1_000).unwrap();
        }
        for by in [1, 2, 10, 11, 900] {
            let values = ["a".repeat(100), "a".to_owned(), "b".repeat(by)].map(Value::Text);
            let sql = "SELECT length(replace(?1, ?2, ?3))";
            assert_eq!(ask(&theirs, sql, &values), ask(&ours, sql, &values), "{by}");
        }
    }
}
