//! The types of the standard library, [`Timestamp`], and [`Value`] itself.

use std::borrow::Cow;

use super::{FromValue, ToValue, Value, ValueError};
use crate::Timestamp;

impl ToValue for Value {
    fn to_value(&self) -> Result<Value, ValueError> {
        Ok(self.clone())
    }
}

impl FromValue for Value {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        Ok(value.clone())
    }
}

impl<T: ToValue + ?Sized> ToValue for &T {
    fn to_value(&self) -> Result<Value, ValueError> {
        (**self).to_value()
    }
}

impl<T: ToValue> ToValue for Option<T> {
    fn to_value(&self) -> Result<Value, ValueError> {
        self.as_ref().map_or(Ok(Value::Null), T::to_value)
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        if *value == Value::Null { Ok(None) } else { T::from_value(value).map(Some) }
    }
}

impl ToValue for bool {
    fn to_value(&self) -> Result<Value, ValueError> {
        Ok(Value::Boolean(*self))
    }
}

impl FromValue for bool {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        match value {
            Value::Boolean(truth) => Ok(*truth),
            Value::Int64(number @ (0 | 1)) => Ok(*number == 1),
            other => Err(ValueError::mismatch::<Self>(other)),
        }
    }
}

/// A whole number, from what both databases make of one.
fn whole<T>(value: &Value) -> Result<i64, ValueError> {
    match value {
        Value::Int64(number) => Ok(*number),
        // As the sum of BIGINTs comes on Postgres; `4.00` is as whole as `4`.
        Value::Numeric(number) => {
            let digits = match number.split_once('.') {
                Some((digits, fraction)) if fraction.bytes().all(|byte| byte == b'0') => digits,
                _ => number,
            };
            digits.parse().map_err(|_| ValueError::unfit::<T>(number))
        }
        other => Err(ValueError::mismatch::<T>(other)),
    }
}

/// Both directions for whole numbers.
macro_rules! integers {
    ($($integer:ty),*) => {$(
        impl ToValue for $integer {
            fn to_value(&self) -> Result<Value, ValueError> {
                i64::try_from(*self).map(Value::Int64).map_err(|_| ValueError::unfit::<i64>(self))
            }
        }

        impl FromValue for $integer {
            fn from_value(value: &Value) -> Result<Self, ValueError> {
                let number = whole::<Self>(value)?;
                number.try_into().map_err(|_| ValueError::unfit::<Self>(number))
            }
        }
    )*};
}

integers!(i8, i16, i32, i64, isize, u8, u16, u32, u64, usize);

impl ToValue for f64 {
    fn to_value(&self) -> Result<Value, ValueError> {
        Ok(Value::Float64(*self))
    }
}

impl FromValue for f64 {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        /// Up to here every whole number is a float of its own.
        const EXACT: u64 = 1 << f64::MANTISSA_DIGITS;
        match value {
            Value::Float64(number) => Ok(*number),
            Value::Int64(number) if number.unsigned_abs() <= EXACT => Ok(*number as Self),
            Value::Int64(number) => Err(ValueError::unfit::<Self>(number)),
            Value::Numeric(number) => number.parse().map_err(|_| ValueError::unfit::<Self>(number)),
            other => Err(ValueError::mismatch::<Self>(other)),
        }
    }
}

impl ToValue for f32 {
    fn to_value(&self) -> Result<Value, ValueError> {
        Ok(Value::Float64((*self).into()))
    }
}

impl FromValue for f32 {
    /// Takes the nearest one: a float's own imprecision, not a wrong number.
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        f64::from_value(value).map(|number| number as Self)
    }
}

impl ToValue for str {
    fn to_value(&self) -> Result<Value, ValueError> {
        Ok(Value::Text(self.to_owned()))
    }
}

impl ToValue for String {
    fn to_value(&self) -> Result<Value, ValueError> {
        self.as_str().to_value()
    }
}

impl ToValue for Cow<'_, str> {
    fn to_value(&self) -> Result<Value, ValueError> {
        self.as_ref().to_value()
    }
}

impl FromValue for String {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        match value {
            Value::Text(text) | Value::Uuid(text) | Value::Json(text) | Value::Numeric(text) => Ok(text.clone()),
            other => Err(ValueError::mismatch::<Self>(other)),
        }
    }
}

impl ToValue for [u8] {
    fn to_value(&self) -> Result<Value, ValueError> {
        Ok(Value::Bytes(self.to_vec()))
    }
}

impl<const N: usize> ToValue for [u8; N] {
    fn to_value(&self) -> Result<Value, ValueError> {
        self.as_slice().to_value()
    }
}

impl ToValue for Vec<u8> {
    fn to_value(&self) -> Result<Value, ValueError> {
        self.as_slice().to_value()
    }
}

impl FromValue for Vec<u8> {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        match value {
            Value::Bytes(bytes) => Ok(bytes.clone()),
            other => Err(ValueError::mismatch::<Self>(other)),
        }
    }
}

impl ToValue for Timestamp {
    fn to_value(&self) -> Result<Value, ValueError> {
        Ok(Value::Timestamp(self.as_micros()))
    }
}

impl FromValue for Timestamp {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        match value {
            Value::Timestamp(micros) => Ok(Self::from_micros(*micros)),
            Value::Text(text) => text.parse().map_err(|_| ValueError::unfit::<Self>(text)),
            other => Err(ValueError::mismatch::<Self>(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Params, params};

    /// Reads a value as a `T`, or says why not.
    fn read<T: FromValue>(value: Value) -> Result<T, String> {
        T::from_value(&value).map_err(|error| error.to_string())
    }

    #[test]
    fn a_number_beyond_a_bigint_is_an_error_that_names_the_parameter() {
        let params: Params = params!["a", u64::MAX];
        assert_eq!(
            params.into_values().unwrap_err().to_string(),
            "parameter $2 is 18446744073709551615 and does not fit into i64 (SQLSTATE 22003)"
        );
        assert_eq!((i64::MAX as u64).to_value(), Ok(Value::Int64(i64::MAX)));
    }

    #[test]
    fn numbers_are_never_wrapped_or_cut() {
        assert_eq!(read::<u8>(Value::Int64(255)), Ok(255));
        assert_eq!(read::<u8>(Value::Int64(256)), Err("is 256 and does not fit into u8".into()));
        assert_eq!(read::<u64>(Value::Int64(-1)), Err("is -1 and does not fit into u64".into()));
        assert_eq!(read::<i64>(Value::Numeric("-42.00".into())), Ok(-42));
        assert_eq!(read::<i64>(Value::Numeric("0.5".into())), Err("is 0.5 and does not fit into i64".into()));
        assert_eq!(read::<f64>(Value::Int64(1 << 53)), Ok(9_007_199_254_740_992.0));
        assert!(read::<f64>(Value::Int64((1 << 53) + 1)).is_err());
    }

    #[test]
    fn a_boolean_reads_from_what_either_database_answers() {
        assert_eq!(read(Value::Boolean(true)), Ok(true));
        assert_eq!(read(Value::Int64(0)), Ok(false));
        assert_eq!(read::<bool>(Value::Int64(2)), Err("is int64 and does not read as bool".into()));
    }

    #[test]
    fn null_reads_as_none_and_as_nothing_else() {
        assert_eq!(read::<Option<i64>>(Value::Null), Ok(None));
        assert_eq!(read::<Option<i64>>(Value::Int64(3)), Ok(Some(3)));
        assert_eq!(read::<i64>(Value::Null), Err("is null and does not read as i64".into()));
        assert_eq!(None::<&str>.to_value(), Ok(Value::Null));
    }

    #[test]
    fn a_timestamp_reads_from_text_too() {
        let moment = Timestamp::from_micros(1_357_035_300_000_000);
        assert_eq!(read(moment.to_value().unwrap()), Ok(moment));
        assert_eq!(read(Value::Text("2013-01-01 10:15:00".into())), Ok(moment));
        assert!(read::<Timestamp>(Value::Text("soon".into())).is_err());
    }

    #[test]
    fn text_and_bytes_stay_what_they_are() {
        assert_eq!(read(Cow::Borrowed("é").to_value().unwrap()), Ok("é".to_owned()));
        assert_eq!(read(b"\0\xff".to_value().unwrap()), Ok(vec![0u8, 255]));
        assert_eq!(
            read::<String>(Value::Bytes(vec![])),
            Err("is bytes and does not read as alloc::string::String".into())
        );
    }
}
