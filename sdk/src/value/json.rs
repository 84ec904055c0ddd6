//! JSON columns.

use serde::{Serialize, de::DeserializeOwned};

use super::{FromValue, ToValue, Value, ValueError};

/// Any serde type as a JSON value: `params![Json(&address)]`, `row.get::<Json<Address>>("address")?.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<T: Serialize> ToValue for Json<T> {
    fn to_value(&self) -> Result<Value, ValueError> {
        serde_json::to_string(&self.0).map(Value::Json).map_err(ValueError::new)
    }
}

impl<T: DeserializeOwned> FromValue for Json<T> {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        let read = match value {
            Value::Json(text) | Value::Text(text) => serde_json::from_str(text),
            // SQLite stores what is declared JSON and looks like a number as one.
            Value::Int64(number) => serde_json::from_value((*number).into()),
            Value::Float64(number) => serde_json::from_value((*number).into()),
            other => return Err(ValueError::mismatch::<Self>(other)),
        };
        read.map(Self).map_err(|error| ValueError::new(format_args!("is JSON that does not read: {error}")))
    }
}

impl ToValue for serde_json::Value {
    /// `null` is JSON's null, not SQL's; that one is `None`.
    fn to_value(&self) -> Result<Value, ValueError> {
        Ok(Value::Json(self.to_string()))
    }
}

impl FromValue for serde_json::Value {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        Json::from_value(value).map(|Json(json)| json)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_reads_back_from_json_and_from_text() {
        let json = json!({"a": [1, null]});
        assert_eq!(json.to_value(), Ok(Value::Json(r#"{"a":[1,null]}"#.into())));
        assert_eq!(serde_json::Value::from_value(&json.to_value().unwrap()), Ok(json.clone()));
        assert_eq!(serde_json::Value::from_value(&Value::Text("[1]".into())), Ok(json!([1])));
        assert_eq!(serde_json::Value::from_value(&Value::Int64(7)), Ok(json!(7)));
        assert_eq!(Json::from_value(&Value::Json("[1,2]".into())), Ok(Json(vec![1, 2])));
        assert!(serde_json::Value::from_value(&Value::Json("{".into())).is_err());
    }
}
