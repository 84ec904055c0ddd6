//! A host that has ended: what it said, and its exit code.

/// What a process that has ended left behind.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its arguments, for messages.
    pub command: String,
    /// Its exit code; nothing when a signal ended it.
    pub code: Option<i32>,
    /// Everything it wrote to standard output.
    pub stdout: String,
    /// Everything it wrote to standard error: its log and its errors.
    pub stderr: String,
}

impl Output {
    /// That it ended with 0.
    ///
    /// # Panics
    /// When it did not, with all it said.
    #[track_caller]
    pub fn success(&self) -> &Self {
        self.exited(0)
    }

    /// That it ended with this code.
    ///
    /// # Panics
    /// When it did not, with all it said.
    #[track_caller]
    pub fn exited(&self, code: i32) -> &Self {
        let Self { command, stdout, stderr, .. } = self;
        assert_eq!(self.code, Some(code), "exit code of `{command}`\n--- stdout\n{stdout}\n--- stderr\n{stderr}");
        self
    }

    /// That it ended with this code and this error: what stands behind `error: `, to the end.
    ///
    /// # Panics
    /// When it did not, with all it said.
    #[track_caller]
    pub fn failed(&self, code: i32, error: &str) -> &Self {
        self.exited(code);
        assert_eq!(self.error(), error, "the error of `{}`", self.command);
        self
    }

    /// What it said as its error: what stands behind `error: `, to the end.
    ///
    /// # Panics
    /// When it said no error.
    #[must_use]
    #[track_caller]
    pub fn error(&self) -> &str {
        let Self { command, stderr, .. } = self;
        let at = if stderr.starts_with("error: ") { Some(0) } else { stderr.find("\nerror: ").map(|at| at + 1) };
        let at = at.unwrap_or_else(|| panic!("`{command}` said no error\n--- stderr\n{stderr}"));
        stderr[at + "error: ".len()..].trim_end()
    }
}
