//! What a user may rely on, one module a promise. Each test is named after the fact that it proves.
//!
//! The tests run the real binary against real databases; `projectionist_tests` is their harness.

#![expect(unused_crate_dependencies, reason = "they are the harness's")]

mod append;
mod backup;
mod careful_path;
mod chaos;
mod claims;
mod config_file;
mod configuration;
mod connections;
mod dashboard;
mod dead_letter_tools;
mod dead_letters;
mod demo;
mod dev;
mod doctor;
mod environment;
mod evil;
mod exactly_once;
mod filters;
mod foreign_events;
mod grants;
mod health;
mod horizon;
mod horizon_model;
mod import_export;
mod isolation;
mod limits;
mod live;
mod metrics;
mod months;
mod partitions;
mod pause;
mod plugins;
mod rebuild;
mod rebuild_failures;
mod rebuild_swap;
mod reload;
mod replay_crashes;
mod replica_sets;
mod rescale;
mod roles;
mod rolling_upgrade;
mod runs;
mod sabotage;
mod security_page;
mod status;
mod tls;
mod traces;
mod trust;
mod upgrade;
mod values;
mod wasi;
