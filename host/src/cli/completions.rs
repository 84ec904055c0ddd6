//! `host completions`: completions for a shell.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::Cli;

/// `host completions`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    host completions bash > /etc/bash_completion.d/host\n  \
    host completions zsh > \"${fpath[1]}/_host\"\n  \
    host completions fish > ~/.config/fish/completions/host.fish")]
pub struct Completions {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    /// Runs it.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn run(&self) -> anyhow::Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "host", &mut script);
        super::print(&String::from_utf8_lossy(&script))?;
        Ok(())
    }
}
