//! Exact decimal numbers.

use std::{fmt, str::FromStr};

use super::{FromValue, ToValue, Value, ValueError};

/// An exact decimal number such as `12.50`, kept as its text.
///
/// There is no arithmetic here: let the database add, or parse the text into the decimal type of your
/// choice. SQLite keeps what is declared `NUMERIC` or `DECIMAL` as a float where that looks the same; for
/// more than 15 digits declare the column `TEXT`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Numeric(String);

impl Numeric {
    /// The number's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Numeric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Numeric {
    type Err = ValueError;

    /// Takes an optional sign, digits, and at most one decimal point among or around them.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if all_digits(whole) && all_digits(fraction) && whole.len() + fraction.len() > 0 {
            Ok(Self(text.to_owned()))
        } else {
            Err(ValueError::new(format_args!("is {text:?} and no decimal number")))
        }
    }
}

impl From<i64> for Numeric {
    fn from(number: i64) -> Self {
        Self(number.to_string())
    }
}

impl ToValue for Numeric {
    fn to_value(&self) -> Result<Value, ValueError> {
        Ok(Value::Numeric(self.0.clone()))
    }
}

impl FromValue for Numeric {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        match value {
            // What the database says is a number is one, `NaN` of Postgres included.
            Value::Numeric(number) => Ok(Self(number.clone())),
            Value::Int64(number) => Ok((*number).into()),
            Value::Float64(number) => Ok(Self(number.to_string())),
            Value::Text(text) => text.parse(),
            other => Err(ValueError::mismatch::<Self>(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_numeric_is_a_decimal_number_and_keeps_its_digits() {
        for text in ["12.50", "-0.1", "+7", ".5", "5.", "123456789012345678901234567890.1"] {
            let number: Numeric = text.parse().unwrap();
            assert_eq!(number.to_value(), Ok(Value::Numeric(text.into())));
        }
        for text in ["", ".", "-", "1e3", "1.2.3", "1,5", " 1", "NaN"] {
            assert!(text.parse::<Numeric>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_numeric_reads_from_what_sqlite_makes_of_it() {
        let read = |value| Numeric::from_value(&value).unwrap().to_string();
        assert_eq!(read(Value::Int64(12)), "12");
        assert_eq!(read(Value::Float64(12.5)), "12.5");
        assert_eq!(read(Value::Text("12.50".into())), "12.50");
    }
}
