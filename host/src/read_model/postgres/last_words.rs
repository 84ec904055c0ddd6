//! Whether the server said something before a connection ended.
//!
//! A session that the server ends because another process has died, or because it is stopped at once, is told so in a notice
//! (57P02) before its connection is closed. One whose own process is killed says nothing. That is all that tells the two apart, and
//! the driver keeps notices to itself: it writes them to the log. So for as long as it reads an answer, its log is listened to:
//! a subscriber of our own on this thread, which hands everything on. A test kills processes and sees that it hears
//! (`promises/losses.rs`), so a driver that writes them elsewhere would not go unnoticed.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::sync::LazyLock;

use tracing::dispatcher::{self, Dispatch};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::super::value::sqlstate;
use super::session::SendError;

/// Where the driver writes notices.
const NOTICES: &str = "sqlx::postgres::notice";

thread_local! {
    /// Whether there was one on this thread.
    static HEARD: Cell<bool> = const { Cell::new(false) };
}

/// Hears of notices.
struct Listener {
    /// Who hears of everything otherwise.
    others: Dispatch,
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        (metadata.target() == NOTICES && *metadata.level() <= tracing::Level::WARN) || self.others.enabled(metadata)
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        self.others.new_span(span)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        self.others.record(span, values);
    }

    fn record_follows_from(&self, span: &Id, follows: &Id) {
        self.others.record_follows_from(span, follows);
    }

    fn event(&self, event: &Event<'_>) {
        if event.metadata().target() == NOTICES {
            HEARD.set(true);
        }
        if self.others.enabled(event.metadata()) {
            self.others.event(event);
        }
    }

    fn enter(&self, span: &Id) {
        self.others.enter(span);
    }

    fn exit(&self, span: &Id) {
        self.others.exit(span);
    }

    fn clone_span(&self, span: &Id) -> Id {
        self.others.clone_span(span)
    }

    fn try_close(&self, span: Id) -> bool {
        self.others.try_close(span)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        // The others say for themselves what they want; more on our account would only cost everybody time.
        Some(LevelFilter::WARN)
    }
}

/// The one of this process; made when the log has been started.
static LISTENER: LazyLock<Dispatch> = LazyLock::new(|| {
    let others = dispatcher::get_default(Dispatch::clone);
    Dispatch::new(Listener { others })
});

/// Waits for an answer; where the connection ended, says whether that was without a word.
pub(super) async fn heard<T>(answer: impl Future<Output = Result<T, SendError>>) -> Result<T, SendError> {
    let mut answer = pin!(answer);
    let mut heard = false;
    let answer = std::future::poll_fn(|context| {
        HEARD.set(false);
        let polled = dispatcher::with_default(&LISTENER, || answer.as_mut().poll(context));
        heard |= HEARD.get();
        polled
    });
    let answer = answer.await;
    answer.map_err(|mut failed| {
        if heard && failed.error.code == sqlstate::WITHOUT_A_WORD {
            sqlstate::CONNECTION_FAILURE.clone_into(&mut failed.error.code);
        }
        failed
    })
}
