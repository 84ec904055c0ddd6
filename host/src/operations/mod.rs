//! What an operator sees: [`report`] is how far everything is, [`observer`] has it at hand for whoever asks often,
//! [`gauges`] is it as metrics, [`health`] judges it, and
//! [`doctor`] looks at what it stands on.

pub mod doctor;
pub mod gauges;
pub mod health;
pub mod observer;
pub mod report;
