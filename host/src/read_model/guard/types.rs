//! The types, collations and operator classes that a projection may name.
//!
//! A type is a way to the catalogue: a cast to `regclass` looks a name up there and says whether it exists, one to a type
//! of another schema calls that type's input function. So types are on a list, too, and none has a schema. On SQLite any
//! word is a type and none does anything.

use sqlparser::ast::{ArrayElemTypeDef, DataType, ObjectName};

use super::super::value::Dialect;

/// Types of Postgres that the parser knows as words only.
const POSTGRES: &[&str] = &[
    "bigserial",
    "bpchar",
    "cidr",
    "date",
    "daterange",
    "inet",
    "int4range",
    "int8range",
    "jsonpath",
    "macaddr",
    "macaddr8",
    "money",
    "name",
    "numrange",
    "serial",
    "serial2",
    "serial4",
    "serial8",
    "smallserial",
    "timestamp",
    "timestamptz",
    "timetz",
    "tsquery",
    "tsrange",
    "tstzrange",
    "tsvector",
    "varbit",
];

/// Collations that are in every database, or are built in.
const COLLATIONS_POSTGRES: &[&str] =
    &["C", "POSIX", "default", "ucs_basic", "unicode", "und-x-icu", "C.utf8", "en_US.utf8"];

/// Collations of SQLite's own.
const COLLATIONS_SQLITE: &[&str] = &["binary", "nocase", "rtrim"];

/// Whether a type may be named.
pub(super) fn is_allowed(dialect: Dialect, of: &DataType) -> bool {
    if dialect == Dialect::Sqlite {
        return true;
    }
    match of {
        DataType::Character(_)
        | DataType::Char(_)
        | DataType::CharacterVarying(_)
        | DataType::CharVarying(_)
        | DataType::Varchar(_)
        | DataType::Uuid
        | DataType::Numeric(_)
        | DataType::Decimal(_)
        | DataType::Dec(_)
        | DataType::Float(_)
        | DataType::Int2(_)
        | DataType::SmallInt(_)
        | DataType::Int(_)
        | DataType::Int4(_)
        | DataType::Int8(_)
        | DataType::Integer(_)
        | DataType::BigInt(_)
        | DataType::Float4
        | DataType::Float8
        | DataType::Real
        | DataType::Double(_)
        | DataType::DoublePrecision
        | DataType::Bool
        | DataType::Boolean
        | DataType::Date
        | DataType::Time(..)
        | DataType::Timestamp(..)
        | DataType::Interval { .. }
        | DataType::JSON
        | DataType::JSONB
        | DataType::Text
        | DataType::Bytea
        | DataType::Bit(_)
        | DataType::BitVarying(_)
        | DataType::VarBit(_)
        | DataType::GeometricType(_)
        | DataType::TsVector
        | DataType::TsQuery => true,
        DataType::Array(ArrayElemTypeDef::SquareBracket(of, _) | ArrayElemTypeDef::Qualified(of, _)) => {
            is_allowed(dialect, of)
        }
        DataType::Custom(name, modifiers) => {
            modifiers.is_empty() && name_alone(name, dialect).is_some_and(|name| POSTGRES.contains(&&*name))
        }
        _ => false,
    }
}

/// Whether a text that is cast to the type is read as a time.
pub(super) fn is_time(of: &DataType) -> bool {
    match of {
        DataType::Date | DataType::Time(..) | DataType::Timestamp(..) => true,
        DataType::Custom(name, _) => {
            matches!(&*name.to_string().to_lowercase(), "date" | "timestamp" | "timestamptz" | "timetz")
        }
        _ => false,
    }
}

/// Whether a collation may be named.
pub(super) fn is_collation(dialect: Dialect, name: &ObjectName) -> bool {
    let Some(name) = name_alone(name, dialect) else { return false };
    match dialect {
        Dialect::Postgres => COLLATIONS_POSTGRES.contains(&&*name),
        Dialect::Sqlite => COLLATIONS_SQLITE.contains(&&*name),
    }
}

/// A name without a schema, as the database knows it: folded where it was not quoted, and always on SQLite.
pub(super) fn name_alone(name: &ObjectName, dialect: Dialect) -> Option<String> {
    match &name.0[..] {
        [part] => part.as_ident().map(|ident| known_as(ident, dialect)),
        _ => None,
    }
}

/// A word as the database knows it.
pub(super) fn known_as(ident: &sqlparser::ast::Ident, dialect: Dialect) -> String {
    match (dialect, ident.quote_style) {
        (Dialect::Postgres, Some(_)) => ident.value.clone(),
        _ => ident.value.to_ascii_lowercase(),
    }
}
