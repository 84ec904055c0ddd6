//! [`Timestamptz`]: Postgres' TIMESTAMPTZ as microseconds since 1970, whatever its value.
//!
//! sqlx would decode into a calendar type, and panics on what such a type cannot hold: `infinity`, and years
//! that Postgres has and chrono has not. One row of that kind in somebody's events table must not end the host.
//! Here it becomes the first or the last instant that both sides can hold.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueFormat, PgValueRef};
use sqlx::types::chrono::{DateTime, Utc};
use sqlx::{Decode, Encode, Postgres, Type};

/// Postgres counts from 2000-01-01.
const EPOCH: i64 = 946_684_800_000_000;
/// Its first instant, 4714-11-24 BC, in its own count.
const FIRST: i64 = -211_813_488_000_000_000;

/// Microseconds since 1970, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamptz(pub i64);

impl Timestamptz {
    /// As Postgres counts; what it does not reach becomes its first instant, never `-infinity`.
    fn to_wire(self) -> i64 {
        self.0.saturating_sub(EPOCH).max(FIRST)
    }

    /// From Postgres' count.
    fn from_wire(micros: i64) -> Self {
        Self(micros.saturating_add(EPOCH))
    }
}

impl Type<Postgres> for Timestamptz {
    fn type_info() -> PgTypeInfo {
        <DateTime<Utc> as Type<Postgres>>::type_info()
    }
}

impl PgHasArrayType for Timestamptz {
    fn array_type_info() -> PgTypeInfo {
        <DateTime<Utc> as PgHasArrayType>::array_type_info()
    }
}

impl Encode<'_, Postgres> for Timestamptz {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        <i64 as Encode<'_, Postgres>>::encode_by_ref(&self.to_wire(), buffer)
    }
}

impl Decode<'_, Postgres> for Timestamptz {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        match value.format() {
            PgValueFormat::Binary => <i64 as Decode<'_, Postgres>>::decode(value).map(Self::from_wire),
            PgValueFormat::Text => {
                let text = value.as_str()?;
                let micros = crate::timestamp::parse(text).ok_or_else(|| format!("`{text}` is no timestamp"))?;
                Ok(Self(micros))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_survives_the_wire() {
        for micros in [0, -1, 1_357_017_300_123_456, EPOCH] {
            assert_eq!(Timestamptz::from_wire(Timestamptz(micros).to_wire()), Timestamptz(micros));
        }
    }

    #[test]
    fn infinity_is_the_last_instant_and_not_a_panic() {
        assert_eq!(Timestamptz::from_wire(i64::MAX), Timestamptz(i64::MAX));
        assert_eq!(Timestamptz(i64::MIN).to_wire(), FIRST);
    }
}
