//! The types behind features: `chrono` and `uuid`.

/// `chrono::DateTime<Utc>`, by way of [`Timestamp`](crate::Timestamp).
#[cfg(feature = "chrono")]
mod with_chrono {
    use chrono::{DateTime, Utc};

    use crate::{FromValue, Timestamp, ToValue, Value, ValueError};

    impl ToValue for DateTime<Utc> {
        fn to_value(&self) -> Result<Value, ValueError> {
            Timestamp::from(*self).to_value()
        }
    }

    impl FromValue for DateTime<Utc> {
        fn from_value(value: &Value) -> Result<Self, ValueError> {
            Timestamp::from_value(value).map(Self::from)
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_date_time_is_a_timestamp_and_reads_from_text() {
            let moment = DateTime::<Utc>::from_timestamp_micros(1_357_035_300_000_001).unwrap();
            assert_eq!(moment.to_value(), Ok(Value::Timestamp(1_357_035_300_000_001)));
            let text = Value::Text("2013-01-01T10:15:00.000001Z".into());
            assert_eq!(DateTime::<Utc>::from_value(&text), Ok(moment));
        }
    }
}

/// `uuid::Uuid`.
#[cfg(feature = "uuid")]
mod with_uuid {
    use uuid::Uuid;

    use crate::{FromValue, ToValue, Value, ValueError};

    impl ToValue for Uuid {
        fn to_value(&self) -> Result<Value, ValueError> {
            Ok(Value::Uuid(self.to_string()))
        }
    }

    impl FromValue for Uuid {
        fn from_value(value: &Value) -> Result<Self, ValueError> {
            match value {
                Value::Uuid(text) | Value::Text(text) => text.parse().map_err(|_| ValueError::unfit::<Self>(text)),
                other => Err(ValueError::mismatch::<Self>(other)),
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_uuid_is_written_in_36_characters_and_reads_from_text() {
            let text = "8ece95ad-2113-5fd4-9d84-ad11ad3e8569";
            let uuid: Uuid = text.parse().unwrap();
            assert_eq!(uuid.to_value(), Ok(Value::Uuid(text.into())));
            assert_eq!(Uuid::from_value(&Value::Text(text.into())), Ok(uuid));
            assert!(Uuid::from_value(&Value::Text("8ece".into())).is_err());
        }
    }
}
