//! A moment in UTC with microseconds, and the one text form it has.
//!
//! This is all of a calendar that a projection needs to store an event's time, in a few hundred bytes of
//! component; whoever computes with dates switches on the feature `chrono`.

use std::{error::Error, fmt, str::FromStr};

/// Microseconds in a second.
const SECOND: i64 = 1_000_000;
/// Microseconds in a day.
const DAY: i64 = 86_400 * SECOND;

/// A moment: microseconds since 1970-01-01T00:00:00Z.
///
/// Displayed, and stored by SQLite, as `2013-01-01T10:15:00.000000Z`: always UTC, always six decimals, so
/// that texts compare as the moments do. (From year 0 to 9999; RFC 3339 has no others.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The moment so many microseconds after 1970-01-01T00:00:00Z.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    pub const fn as_micros(self) -> i64 {
        self.0
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(self.0.div_euclid(DAY));
        let micros = self.0.rem_euclid(DAY);
        let seconds = micros / SECOND;
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let fraction = micros % SECOND;
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:06}Z")
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    /// Reads RFC 3339, and what databases print: a space for the `T`, an offset such as `+02`, or none at
    /// all, which means UTC. Decimals after the sixth are cut off.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text.as_bytes()).map(Self).ok_or_else(|| TimestampError(text.to_owned()))
    }
}

/// A text that is no timestamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimestampError(String);

impl fmt::Display for TimestampError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no timestamp such as 2013-01-01T10:15:00Z", self.0)
    }
}

impl Error for TimestampError {}

/// The microseconds that `YYYY-MM-DD[T ]HH:MM[:SS[.f…]][Z|±HH[[:]MM]]` means.
fn parse(text: &[u8]) -> Option<i64> {
    let mut rest = text;
    let year = number(&mut rest, 4)?;
    let month = after(&mut rest, b"-").and_then(|()| number(&mut rest, 2))?;
    let day = after(&mut rest, b"-").and_then(|()| number(&mut rest, 2))?;
    after(&mut rest, b"Tt ")?;
    let hour = number(&mut rest, 2)?;
    let minute = after(&mut rest, b":").and_then(|()| number(&mut rest, 2))?;
    let mut second = 0;
    let mut fraction = 0;
    if after(&mut rest, b":").is_some() {
        second = number(&mut rest, 2)?;
        if after(&mut rest, b".").is_some() {
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if digits == 0 {
                return None;
            }
            let padded = rest[..digits].iter().chain(std::iter::repeat(&b'0'));
            fraction = padded.take(6).fold(0, |micros, byte| micros * 10 + i64::from(byte - b'0'));
            rest = &rest[digits..];
        }
    }
    let sign = match rest {
        [] => 0,
        [b'Z' | b'z'] => {
            rest = &[];
            0
        }
        [b'+', ..] => 1,
        [b'-', ..] => -1,
        _ => return None,
    };
    let mut offset = 0;
    if sign != 0 {
        rest = &rest[1..];
        offset = number(&mut rest, 2)? * 3600;
        if !rest.is_empty() {
            let _ = after(&mut rest, b":");
            offset += number(&mut rest, 2)? * 60;
        }
    }
    let days = days_from_civil(year, month, day);
    let real_date = civil_from_days(days) == (year, month, day);
    let real_time = hour < 24 && minute < 60 && second < 60;
    (rest.is_empty() && real_date && real_time)
        .then(|| days * DAY + (hour * 3600 + minute * 60 + second - sign * offset) * SECOND + fraction)
}

/// Takes exactly so many digits.
fn number(rest: &mut &[u8], digits: usize) -> Option<i64> {
    let (head, tail) = rest.split_at_checked(digits)?;
    *rest = tail;
    head.iter().try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0')))
}

/// Takes one of these bytes.
fn after(rest: &mut &[u8], one_of: &[u8]) -> Option<()> {
    let (head, tail) = rest.split_first()?;
    one_of.contains(head).then(|| *rest = tail)
}

/// Days since 1970-01-01 to (year, month, day) of the Gregorian calendar, and back, after Howard Hinnant's
/// "chrono-compatible low-level date algorithms": an era is 400 years, a year starts in March.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The inverse of [`civil_from_days`].
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// `chrono::DateTime<Utc>`.
#[cfg(feature = "chrono")]
mod with_chrono {
    use chrono::{DateTime, Utc};

    use super::Timestamp;

    impl From<DateTime<Utc>> for Timestamp {
        fn from(moment: DateTime<Utc>) -> Self {
            Self(moment.timestamp_micros())
        }
    }

    impl From<Timestamp> for DateTime<Utc> {
        /// Moments beyond chrono's calendar (262,000 years from now) become its last or first.
        fn from(moment: Timestamp) -> Self {
            let beyond = if moment.0 < 0 { Self::MIN_UTC } else { Self::MAX_UTC };
            Self::from_timestamp_micros(moment.0).unwrap_or(beyond)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_displayed_in_utc_with_six_decimals() {
        let shown = |micros| Timestamp::from_micros(micros).to_string();
        assert_eq!(shown(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(shown(-1), "1969-12-31T23:59:59.999999Z");
        assert_eq!(shown(1_357_035_300_000_000), "2013-01-01T10:15:00.000000Z");
        assert_eq!(shown(951_782_400_000_001), "2000-02-29T00:00:00.000001Z");
    }

    #[test]
    fn what_was_displayed_reads_back() {
        let first = "0000-01-01T00:00:00.000000Z".parse::<Timestamp>().unwrap().as_micros();
        let last = "9999-12-31T23:59:59.999999Z".parse::<Timestamp>().unwrap().as_micros();
        for micros in (first..last).step_by(7_654_321_098_765).chain([first, last]) {
            let moment = Timestamp::from_micros(micros);
            assert_eq!(moment.to_string().parse(), Ok(moment));
        }
    }

    #[test]
    fn the_forms_of_databases_and_rfc_3339_mean_the_same_moment() {
        let expected = Ok(Timestamp::from_micros(1_357_035_300_000_000));
        for text in [
            "2013-01-01T10:15:00Z",
            "2013-01-01t10:15:00.000z",
            "2013-01-01 10:15:00",
            "2013-01-01 10:15",
            "2013-01-01 10:15:00+00",
            "2013-01-01T05:15:00-05:00",
            "2013-01-01T05:15:00-0500",
            "2013-01-01 15:45:00.0000009+05:30",
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in [
            "",
            "2013-01-01",
            "2013-13-01T00:00:00Z",
            "2013-02-29T00:00:00Z",
            "2013-01-01T24:00:00Z",
            "2013-01-01T10:15:00.Z",
            "2013-01-01T10:15:00Zz",
            "2013-01-01T10:15:00+5",
            "+013-01-01T10:15:00Z",
            "2013-01-01T10:15:00é",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }
}
