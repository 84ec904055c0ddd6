//! Instants as text: microseconds since 1970 (UTC), to and from RFC 3339.
//!
//! All of the host counts instants in microseconds. Text is what SQLite stores and what people type; every event
//! that SQLite reads or writes passes here, so this is the day arithmetic of Howard Hinnant's
//! "chrono-Compatible Low-Level Date Algorithms" on plain integers, without a calendar type in between.
//!
//! [`parse`] is generous, for what other writers left in a database; [`parse_rfc3339`] is strict, for what a
//! user types: there, a time without an offset is more likely a local time than UTC, and guessing loses hours.

/// Microseconds in a second.
const SECOND: i64 = 1_000_000;
/// Seconds in a day.
const DAY: i64 = 86_400;

/// This instant.
#[must_use]
pub fn now() -> i64 {
    chrono::Utc::now().timestamp_micros()
}

/// As `YYYY-MM-DDTHH:MM:SS.ffffffZ`. A year outside of 0000…9999 has a sign and as many digits as it needs, as
/// ISO 8601 says, so that every number has a text that [`parse`] reads.
#[must_use]
pub fn format(micros: i64) -> String {
    let (seconds, fraction) = (micros.div_euclid(SECOND), micros.rem_euclid(SECOND));
    let (days, second) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
    let (year, month, day) = civil_from_days(days);
    let mut text = Vec::with_capacity(27);
    if (0..=9999).contains(&year) {
        digits(&mut text, year, 4);
    } else {
        text.extend_from_slice(format!("{year:+05}").as_bytes());
    }
    for (before, number, width) in [
        (b'-', month, 2),
        (b'-', day, 2),
        (b'T', second / 3600, 2),
        (b':', second / 60 % 60, 2),
        (b':', second % 60, 2),
        (b'.', fraction, 6),
    ] {
        text.push(before);
        digits(&mut text, number, width);
    }
    text.push(b'Z');
    // Digits and signs only, so nothing is ever replaced.
    String::from_utf8(text).unwrap_or_default()
}

/// Appends a number in exactly so many digits.
fn digits(text: &mut Vec<u8>, number: i64, width: u32) {
    for place in (0..width).rev() {
        let digit = number / 10_i64.pow(place) % 10;
        text.push(b'0' + u8::try_from(digit).unwrap_or(0));
    }
}

/// Any way in which databases and their drivers write an instant: date and time with `T` or a space between, or
/// the date alone; seconds, fraction (digits after the sixth are dropped) and offset may be missing; `+02`,
/// `+0200`, `+02:00`, `Z`, `UTC`, and what Go prints (` +0000 UTC m=+0.1`). Without an offset it is UTC.
#[must_use]
pub fn parse(text: &str) -> Option<i64> {
    read(text).map(|parsed| parsed.micros)
}

/// RFC 3339 and nothing else: the offset and the seconds have to be there. As in [`format()`], a year may have a sign
/// and more digits.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    read(text).filter(|parsed| parsed.form == Form::Rfc3339).map(|parsed| parsed.micros)
}

/// How a text is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// As the standard says.
    Rfc3339,
    /// Some other way.
    Loose,
}

/// What a text says, and how.
struct Parsed {
    /// Microseconds since 1970, UTC.
    micros: i64,
    /// How it is written.
    form: Form,
}

/// Reads the whole text.
fn read(text: &str) -> Option<Parsed> {
    let mut rest = Cursor(text.as_bytes());
    let mut form = Form::Rfc3339;
    let year = rest.year()?;
    rest.expect(b"-")?;
    let month = rest.number(2)?;
    rest.expect(b"-")?;
    let day = rest.number(2)?;
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    let (mut second, mut fraction, mut offset) = (0, 0, None);
    if rest.take(b"Tt ") {
        second = rest.hours_and_minutes()?;
        if rest.take(b":") {
            // 60 is a leap second, and counts as the first of the next minute.
            second += rest.number(2).filter(|second| *second <= 60)?;
            if rest.take(b".,") {
                fraction = rest.fraction()?;
            }
        } else {
            form = Form::Loose;
        }
        offset = rest.offset(&mut form)?;
    }
    if !rest.0.is_empty() {
        return None;
    }
    if offset.is_none() {
        form = Form::Loose;
    }
    // In 128 bits, because the last instants of an i64 may be written with an offset that takes them further.
    let seconds =
        i128::from(days_from_civil(year, month, day)) * i128::from(DAY) + i128::from(second - offset.unwrap_or(0));
    let micros = i64::try_from(seconds * i128::from(SECOND) + i128::from(fraction)).ok()?;
    Some(Parsed { micros, form })
}

/// What is left to read. Every function takes what it names, or nothing and says `None`.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    /// One byte of these, if it is next.
    fn take(&mut self, any: &[u8]) -> bool {
        match self.0.split_first() {
            Some((first, rest)) if any.contains(first) => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    /// One byte of these.
    fn expect(&mut self, any: &[u8]) -> Option<()> {
        self.take(any).then_some(())
    }

    /// Exactly so many digits.
    fn number(&mut self, width: usize) -> Option<i64> {
        let (digits, rest) = self.0.split_at_checked(width)?;
        self.0 = rest;
        digits.iter().try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + i64::from(digit - b'0')))
    }

    /// Four digits, or a sign and four to six.
    fn year(&mut self) -> Option<i64> {
        let sign = match self.0.first()? {
            b'+' => 1,
            b'-' => -1,
            _ => return self.number(4),
        };
        self.0 = &self.0[1..];
        let width = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if !(4..=6).contains(&width) {
            return None;
        }
        self.number(width).map(|year| sign * year)
    }

    /// `HH:MM`, in seconds.
    fn hours_and_minutes(&mut self) -> Option<i64> {
        let hours = self.number(2).filter(|hours| *hours < 24)?;
        self.expect(b":")?;
        let minutes = self.number(2).filter(|minutes| *minutes < 60)?;
        Some(hours * 3600 + minutes * 60)
    }

    /// At least one digit, in microseconds.
    fn fraction(&mut self) -> Option<i64> {
        let width = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = self.0.split_at(width);
        self.0 = rest;
        let micros =
            (0..6).fold(0, |number, place| number * 10 + digits.get(place).map_or(0, |digit| i64::from(digit - b'0')));
        (width > 0).then_some(micros)
    }

    /// The offset in seconds, where there is one, up to the end of the text.
    fn offset(&mut self, form: &mut Form) -> Option<Option<i64>> {
        // Go's monotonic clock says nothing about the instant.
        if let Some(at) = self.0.windows(3).position(|bytes| bytes == b" m=") {
            self.0 = &self.0[..at];
            *form = Form::Loose;
        }
        if self.take(b" ") {
            *form = Form::Loose;
        }
        let sign = match self.0.first() {
            None => return Some(None),
            Some(b'Z' | b'z') => {
                self.0 = &self.0[1..];
                return Some(Some(0));
            }
            Some(b'+') => 1,
            Some(b'-') => -1,
            Some(_) => 0,
        };
        let mut seconds = 0;
        if sign != 0 {
            self.0 = &self.0[1..];
            seconds = self.number(2).filter(|hours| *hours < 24)? * 3600;
            let colon = self.take(b":");
            if !colon {
                *form = Form::Loose;
            }
            if colon || !matches!(self.0.first(), None | Some(b' ')) {
                seconds += self.number(2).filter(|minutes| *minutes < 60)? * 60;
            }
            if self.take(b" ") {
                *form = Form::Loose;
            }
        }
        // The name of a zone: alone it must be UTC; behind an offset it is a comment.
        if !self.0.is_empty() {
            let known = matches!(self.0, b"UTC" | b"GMT");
            if !known && (sign == 0 || !self.0.iter().all(u8::is_ascii_alphanumeric)) {
                return None;
            }
            self.0 = &[];
            *form = Form::Loose;
        }
        Some(Some(sign * seconds))
    }
}

/// Days since 1970-01-01 of a date in the proleptic Gregorian calendar.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March, so that the leap day is the last of its year.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468
}

/// The inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

/// How many days a month has.
fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, FixedOffset, SecondsFormat, Utc};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_instant_survives_its_text(micros: i64) {
            prop_assert_eq!(parse(&format(micros)), Some(micros));
            prop_assert_eq!(parse_rfc3339(&format(micros)), Some(micros));
        }

        #[test]
        fn the_text_is_what_chrono_writes(micros in -62_167_219_200_000_000_i64..253_402_300_800_000_000) {
            let instant = DateTime::<Utc>::from_timestamp_micros(micros).unwrap();
            prop_assert_eq!(format(micros), instant.to_rfc3339_opts(SecondsFormat::Micros, true));
        }

        #[test]
        fn what_chrono_writes_at_any_offset_is_read(
            micros in -60_000_000_000_000_000_i64..250_000_000_000_000_000, minutes in -1439..1440_i32
        ) {
            let offset = FixedOffset::east_opt(minutes * 60).unwrap();
            let instant = DateTime::<Utc>::from_timestamp_micros(micros).unwrap().with_timezone(&offset);
            let whole_seconds = micros - micros.rem_euclid(SECOND);
            prop_assert_eq!(parse_rfc3339(&instant.to_rfc3339_opts(SecondsFormat::Nanos, false)), Some(micros));
            prop_assert_eq!(parse(&instant.format("%Y-%m-%d %H:%M:%S%.6f%z").to_string()), Some(micros));
            prop_assert_eq!(parse(&instant.format("%Y-%m-%d %H:%M:%S %z CEST").to_string()), Some(whole_seconds));
            prop_assert_eq!(parse(&instant.to_utc().format("%Y-%m-%d %H:%M:%S").to_string()), Some(whole_seconds));
        }

        #[test]
        fn what_chrono_takes_for_rfc_3339_is_read_alike(text in "[0-9]{4}-[01][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{1,9})?(Z|[+-][0-2][0-9]:[0-6][0-9])") {
            let ours = parse_rfc3339(&text);
            match DateTime::parse_from_rfc3339(&text) {
                Ok(instant) => prop_assert_eq!(ours, Some(instant.timestamp_micros())),
                Err(_) => prop_assert_eq!(ours, None),
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}", near in "[-+]?[0-9]{0,7}-?[0-9:T. Zm=+-]{0,30}") {
            for text in [text, near] {
                prop_assert!(parse_rfc3339(&text).is_none_or(|micros| parse(&text) == Some(micros)));
            }
        }
    }

    #[test]
    fn what_other_writers_store_is_read() {
        let expected = parse_rfc3339("2013-01-01T05:15:00Z");
        assert_eq!(expected, Some(1_357_017_300_000_000));
        for text in [
            "2013-01-01 05:15:00",
            "2013-01-01 05:15",
            "2013-01-01T05:15:00.000",
            "2013-01-01 05:15:00+00",
            "2013-01-01 05:15:00 UTC",
            "2013-01-01 00:15:00-0500",
            "2013-01-01 05:15:00.0000001 +0000 UTC m=+0.000012",
            "2013-01-01 06:15:00 +0100 CET",
            "2013-01-01T05:15:00 GMT",
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
        assert_eq!(parse("2013-01-01"), Some(1_356_998_400_000_000));
    }

    #[test]
    fn a_user_has_to_say_the_offset_and_the_seconds() {
        for text in ["2013-01-01 05:15:00", "2013-01-01T05:15Z", "2013-01-01", "2013-01-01T05:15:00+0100", "now", ""] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn a_date_that_does_not_exist_is_refused() {
        for text in ["2013-02-29T00:00:00Z", "1900-02-29T00:00:00Z", "2013-13-01T00:00:00Z", "2013-01-01T24:00:00Z"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert!(parse("2000-02-29T00:00:00Z").is_some());
    }
}
