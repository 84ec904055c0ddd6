//! `host doctor`: whether a host can work here, and what will hurt it later, each with what to do.

use clap::Args;
use serde_json::json;

use super::Context;
use super::exit::Ended;
use crate::operations::doctor::{self, Findings, Grade};

/// `host doctor`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  host doctor\n  host doctor --json | jq '.findings[] | select(.grade != \"ok\")'\n\n\
    It connects as the host would, and changes nothing. Exit code 1 when there is a problem."
)]
pub struct Doctor {
    /// As JSON, stable for scripts
    #[arg(long)]
    json: bool,
    /// Only what is not as it should be
    #[arg(long, short)]
    quiet: bool,
}

impl Doctor {
    /// Runs it.
    ///
    /// # Errors
    /// When there is a problem.
    pub fn run(&self, context: &Context) -> anyhow::Result<()> {
        let mut findings = doctor::examine(&context.events, &context.read_model, context.runtime.handle());
        let worst = findings.worst();
        if self.quiet {
            findings.0.retain(|finding| finding.grade != Grade::Ok);
        }
        let text = if self.json {
            serde_json::to_string_pretty(&json!({"worst": worst, "findings": findings.0}))? + "\n"
        } else {
            for_people(&findings)
        };
        super::print(&text)?;
        let problems = findings.0.iter().filter(|finding| finding.grade == Grade::Problem).count();
        if problems == 0 {
            return Ok(());
        }
        let message = format!("{problems} {}", if problems == 1 { "problem" } else { "problems" });
        Err(Ended::failed(message, "each says above what to do").into())
    }
}

/// A line a finding, and what to do below it.
fn for_people(findings: &Findings) -> String {
    let mut text = String::new();
    for finding in &findings.0 {
        let grade = match finding.grade {
            Grade::Ok => "ok     ",
            Grade::Warning => "warning",
            Grade::Problem => "PROBLEM",
        };
        text.push_str(&format!("{grade}  {}: {}\n", finding.kind, finding.message));
        if let Some(advice) = &finding.advice {
            text.push_str(&format!("         do: {advice}\n"));
        }
    }
    text
}
