//! The functions that a projection may call.
//!
//! What is not on the list is refused, so a function that a later version of a database brings is refused until somebody
//! has looked at it. On the lists is what depends on nothing but its arguments, and aggregates and window functions. Not
//! on them is whatever
//! - reads or changes the session or the server: `set_config`, `current_setting`, `pg_…`, `lo_…`, `nextval`, `changes()`;
//! - takes SQL as text and runs it: `query_to_xml` and its kin, `ts_stat`, `ts_rewrite` (its form with two arguments),
//!   `dblink`;
//! - gives something else when it is called again: `now`, `random`, `gen_random_uuid`, and `age` of one argument. A
//!   projection is a function of its events: what it needs is in the event ([`SPECIAL`] has those without parentheses);
//! - cannot be interrupted, and takes a time that grows with the product of its arguments: `json_patch` on SQLite. Others
//!   of that kind are the host's own there ([`functions`](super::super::sqlite)).
//!
//! Extensions and functions of an operator's own are in other schemas, and out of reach: a name with a schema is refused,
//! and `search_path` holds the projection's schema alone, where it can make no function.

use super::super::value::Dialect;

/// Words that are functions where they stand without parentheses and quotes, on Postgres.
const SPECIAL: &[&str] = &[
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "localtime",
    "localtimestamp",
    "session_user",
    "system_user",
    "user",
];

/// Words that are functions where they stand without parentheses and quotes, on SQLite.
const SPECIAL_SQLITE: &[&str] = &["current_date", "current_time", "current_timestamp"];

/// What both databases have, by groups: SQL's own; numbers; texts; aggregates; windows.
const BOTH: &[&str] = &[
    "coalesce",
    "nullif", //
    "abs",
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "ceil",
    "ceiling",
    "cos",
    "cosh",
    "degrees",
    "exp",
    "floor",
    "ln",
    "log",
    "log10",
    "mod",
    "pi",
    "pow",
    "power",
    "radians",
    "round",
    "sign",
    "sin",
    "sinh",
    "sqrt",
    "tan",
    "tanh",
    "trunc", //
    "concat",
    "concat_ws",
    "format",
    "length",
    "lower",
    "ltrim",
    "octet_length",
    "replace",
    "rtrim",
    "substr",
    "substring",
    "trim",
    "upper", //
    "avg",
    "count",
    "max",
    "min",
    "string_agg",
    "sum", //
    "cume_dist",
    "dense_rank",
    "first_value",
    "lag",
    "last_value",
    "lead",
    "nth_value",
    "ntile",
    "percent_rank",
    "rank",
    "row_number",
];

/// What Postgres has besides.
const POSTGRES: &[&str] = &[
    // SQL's own.
    "array",
    "greatest",
    "grouping",
    "least",
    "num_nonnulls",
    "num_nulls",
    "row",
    // Numbers.
    "acosd",
    "asind",
    "atan2d",
    "atand",
    "cbrt",
    "cosd",
    "cot",
    "cotd",
    "div",
    "factorial",
    "gcd",
    "lcm",
    "min_scale",
    "scale",
    "sind",
    "tand",
    "trim_scale",
    "width_bucket",
    // Texts.
    "ascii",
    "bit_length",
    "btrim",
    "char_length",
    "character_length",
    "chr",
    "initcap",
    "left",
    "lpad",
    "md5",
    "normalize",
    "overlay",
    "position",
    "quote_ident",
    "quote_literal",
    "quote_nullable",
    "regexp_count",
    "regexp_instr",
    "regexp_like",
    "regexp_match",
    "regexp_matches",
    "regexp_replace",
    "regexp_split_to_array",
    "regexp_split_to_table",
    "regexp_substr",
    "repeat",
    "reverse",
    "right",
    "rpad",
    "split_part",
    "starts_with",
    "string_to_array",
    "string_to_table",
    "strpos",
    "to_char",
    "to_hex",
    "to_number",
    "translate",
    "unistr",
    // Bytes.
    "bit_count",
    "convert_from",
    "convert_to",
    "decode",
    "encode",
    "get_bit",
    "get_byte",
    "set_bit",
    "set_byte",
    "sha224",
    "sha256",
    "sha384",
    "sha512",
    // Times. The host sets the session's time zone to UTC.
    "age",
    "date",
    "date_bin",
    "date_part",
    "date_trunc",
    "extract",
    "isfinite",
    "justify_days",
    "justify_hours",
    "justify_interval",
    "make_date",
    "make_interval",
    "make_time",
    "make_timestamp",
    "make_timestamptz",
    "timezone",
    "to_date",
    "to_timestamp",
    // Arrays, and rows out of them.
    "array_append",
    "array_cat",
    "array_dims",
    "array_fill",
    "array_length",
    "array_lower",
    "array_ndims",
    "array_position",
    "array_positions",
    "array_prepend",
    "array_remove",
    "array_replace",
    "array_to_string",
    "array_upper",
    "cardinality",
    "generate_series",
    "generate_subscripts",
    "trim_array",
    "unnest",
    // JSON.
    "array_to_json",
    "json_array_elements",
    "json_array_elements_text",
    "json_array_length",
    "json_build_array",
    "json_build_object",
    "json_each",
    "json_each_text",
    "json_extract_path",
    "json_extract_path_text",
    "json_object",
    "json_object_keys",
    "json_strip_nulls",
    "json_typeof",
    "jsonb_array_elements",
    "jsonb_array_elements_text",
    "jsonb_array_length",
    "jsonb_build_array",
    "jsonb_build_object",
    "jsonb_each",
    "jsonb_each_text",
    "jsonb_extract_path",
    "jsonb_extract_path_text",
    "jsonb_insert",
    "jsonb_object",
    "jsonb_object_keys",
    "jsonb_path_exists",
    "jsonb_path_match",
    "jsonb_path_query",
    "jsonb_path_query_array",
    "jsonb_path_query_first",
    "jsonb_pretty",
    "jsonb_set",
    "jsonb_set_lax",
    "jsonb_strip_nulls",
    "jsonb_typeof",
    "row_to_json",
    "to_json",
    "to_jsonb",
    // Ranges.
    "daterange",
    "int4range",
    "int8range",
    "isempty",
    "lower_inc",
    "lower_inf",
    "numrange",
    "range_merge",
    "tsrange",
    "tstzrange",
    "upper_inc",
    "upper_inf",
    // Search in texts.
    "array_to_tsvector",
    "numnode",
    "phraseto_tsquery",
    "plainto_tsquery",
    "querytree",
    "setweight",
    "strip",
    "to_tsquery",
    "to_tsvector",
    "ts_delete",
    "ts_filter",
    "ts_headline",
    "ts_rank",
    "ts_rank_cd",
    "tsvector_to_array",
    "websearch_to_tsquery",
    // Addresses.
    "abbrev",
    "broadcast",
    "family",
    "host",
    "hostmask",
    "inet_merge",
    "inet_same_family",
    "masklen",
    "netmask",
    "network",
    "set_masklen",
    // Aggregates.
    "any_value",
    "array_agg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "corr",
    "covar_pop",
    "covar_samp",
    "every",
    "json_agg",
    "json_object_agg",
    "jsonb_agg",
    "jsonb_object_agg",
    "mode",
    "percentile_cont",
    "percentile_disc",
    "range_agg",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "var_pop",
    "var_samp",
    "variance",
];

/// What SQLite has besides.
const SQLITE: &[&str] = &[
    // SQL's own.
    "glob",
    "if",
    "ifnull",
    "iif",
    "like",
    "likelihood",
    "likely",
    "unlikely",
    // Numbers.
    "log2",
    // Texts and bytes.
    "char",
    "hex",
    "instr",
    "printf",
    "quote",
    "soundex",
    "typeof",
    "unhex",
    "unicode",
    "unistr",
    "unistr_quote",
    "zeroblob",
    // Times.
    "date",
    "datetime",
    "julianday",
    "strftime",
    "time",
    "timediff",
    "unixepoch",
    // JSON.
    "json",
    "json_array",
    "json_array_length",
    "json_each",
    "json_error_position",
    "json_extract",
    "json_group_array",
    "json_group_object",
    "json_insert",
    "json_object",
    "json_pretty",
    "json_quote",
    "json_remove",
    "json_replace",
    "json_set",
    "json_tree",
    "json_type",
    "json_valid",
    "jsonb",
    "jsonb_array",
    "jsonb_extract",
    "jsonb_group_array",
    "jsonb_group_object",
    "jsonb_insert",
    "jsonb_object",
    "jsonb_remove",
    "jsonb_replace",
    "jsonb_set",
    // Aggregates.
    "group_concat",
    "total",
];

/// What reads the clock when its first argument is missing.
const TIMES_SQLITE: &[&str] = &["date", "datetime", "julianday", "time", "unixepoch"];

/// Texts that are a moment by the clock, where a time is expected.
const CLOCK: &[&str] = &["now", "today", "tomorrow", "yesterday"];

/// Whether a function of this name (as the database knows it: folded where it was not quoted) may be called.
pub(in super::super) fn is_allowed(dialect: Dialect, name: &str) -> bool {
    let besides = match dialect {
        Dialect::Postgres => POSTGRES,
        Dialect::Sqlite => SQLITE,
    };
    BOTH.contains(&name) || besides.contains(&name)
}

/// Whether a word is a function without parentheses.
pub(super) fn is_special(dialect: Dialect, word: &str) -> bool {
    match dialect {
        Dialect::Postgres => SPECIAL.contains(&word),
        Dialect::Sqlite => SPECIAL_SQLITE.contains(&word),
    }
}

/// Functions of Postgres that take a row as their one argument. Where `t` has no column `f`, `t.f` is another way to write
/// `f(t)`, so it calls them without a parenthesis. Of these only names can be judged, since nobody here knows which columns a table
/// has: what is a column of such a name is named without its table (`f` alone is never a function), or with an alias of another name in a
/// subquery. Those that are on the list of what may be called may be called so, too, and so is every column of their names.
const OF_A_ROW: &[&str] = &[
    "any_out",
    "anycompatible_out",
    "anycompatiblenonarray_out",
    "anyelement_out",
    "anynonarray_out",
    "hash_record",
    "pg_collation_for",
    "pg_column_compression",
    "pg_column_size",
    "pg_column_toast_chunk_id",
    "pg_typeof",
    "record_out",
    "record_send",
];

/// Whether this, behind a table and a dot, may be a call of a function that may not be called.
pub(super) fn is_called_as_column(dialect: Dialect, name: &str) -> bool {
    dialect == Dialect::Postgres && OF_A_ROW.contains(&name) && !is_allowed(dialect, name)
}

/// How many arguments a function needs so that it does not read the clock.
pub(super) fn fewest_arguments(dialect: Dialect, name: &str) -> usize {
    match dialect {
        Dialect::Postgres if name == "age" => 2,
        Dialect::Sqlite if name == "strftime" => 2,
        Dialect::Sqlite if TIMES_SQLITE.contains(&name) => 1,
        _ => 0,
    }
}

/// Whether a function reads a text among its arguments as a time.
pub(super) fn takes_times(dialect: Dialect, name: &str) -> bool {
    match dialect {
        Dialect::Postgres => {
            matches!(name, "age" | "date" | "date_bin" | "date_part" | "date_trunc" | "extract" | "timezone")
        }
        Dialect::Sqlite => matches!(name, "strftime" | "timediff") || TIMES_SQLITE.contains(&name),
    }
}

/// Whether a text is a moment by the clock, where a time is expected.
#[must_use]
pub fn is_clock(text: &str) -> bool {
    let first = text.split_whitespace().next().unwrap_or("");
    CLOCK.iter().any(|word| first.eq_ignore_ascii_case(word))
}

/// What to do instead of calling a function that is not allowed.
pub(super) fn instead(name: &str) -> &'static str {
    match name {
        "now"
        | "clock_timestamp"
        | "statement_timestamp"
        | "transaction_timestamp"
        | "timeofday"
        | "current_date"
        | "current_time"
        | "current_timestamp"
        | "localtime"
        | "localtimestamp" => "a projection is a function of its events: take the event's `created_at`",
        "random" | "random_normal" | "randomblob" | "gen_random_uuid" | "uuidv4" | "uuidv7" | "uuid_generate_v4" => {
            "a projection is a function of its events: derive it from the event's id or position"
        }
        "nextval" | "currval" | "lastval" | "setval" | "last_insert_rowid" => {
            "let an identity column number the rows, or take the event's position"
        }
        _ => "compute it in the projection, and pass it as a parameter",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_function_is_on_a_list_twice() {
        for dialect in [POSTGRES, SQLITE] {
            let mut names: Vec<_> = BOTH.iter().chain(dialect).collect();
            names.sort_unstable();
            let all = names.len();
            names.dedup();
            assert_eq!(names.len(), all);
        }
    }

    #[test]
    fn a_time_by_the_clock_is_told_from_a_text() {
        assert!(is_clock("now") && is_clock(" Today 12:00"));
        assert!(!is_clock("2013-01-01") && !is_clock("") && !is_clock("nowhere"));
    }
}
