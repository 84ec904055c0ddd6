//! What a connection that was lost says of the event at which it was lost: nothing, as a rule.
//!
//! Servers restart, ways are cut, administrators end sessions. The worker claims again and tries the same events again, for as
//! long as it takes. But a statement can also end its own process on the server: by its memory, say, for which the system
//! kills it. Tried again, it does so again, and each time the server restarts with everybody's sessions. Such an event is
//! poison, and is to be dealt with like any other.
//!
//! **One by one.** When the connection was lost [`IN_A_ROW`] times at the same place, the events of that batch go each in a
//! transaction of its own. That harms nobody, whatever the reason is: those before the one are committed, and a loss
//! is known by its event from then on.
//!
//! **What counts against it** is a loss with all of these, and [`IN_A_ROW`] of them:
//! - It was alone in its transaction, and one of its statements on its way.
//! - The server's process ended without a word. Postgres tells the client when it is asked to end a session, and when it shuts
//!   down or is stopped at once (57P01, 57P02); also the sessions that it has to end because *another* process has died
//!   are told. Only who is killed itself says nothing.
//! - A process of that server has died since: it has gone through a recovery, which shows by when its statistics were reset. A
//!   connection that was merely cut, by a proxy or a firewall, ends without a word as well, and nobody has died.
//! - It is the same server, up since the same time. Where the server itself was killed, or its machine, nobody
//!   can say anything to anybody, and it comes back with another beginning.
//!
//! Losses that are none of this count for nothing, so restarts and ended sessions may come at the same event for as long as they
//! like. What cannot be told (a server that does not restart by itself after a death, `restart_after_crash = off`) is
//! an outage: the event is tried again.

use super::failure::ApplyError;
use crate::database::DatabaseError;
use crate::event::Position;
use crate::read_model::ReadModel;
use crate::read_model::life::Life;
use crate::read_model::value::{SqlError, sqlstate};

/// How many are too many.
pub(super) const IN_A_ROW: u32 = 3;

/// What a worker knows of the connections that it has lost.
#[derive(Debug, Default)]
pub struct Losses {
    /// Where the checkpoint stood at the last one, and how many there were.
    at: Option<(Position, u32)>,
    /// How many losses it has taken so far to find out.
    rounds: u32,
    /// Up to where events go one by one.
    alone_until: Option<Position>,
    /// The event that was lost alone.
    suspect: Option<Suspect>,
    /// How the server was found at the last claim, while events go one by one.
    life: Option<Life>,
    /// The request during which it was lost, and how often.
    replay: Option<(i64, u32)>,
}

/// An event at which a connection was lost.
#[derive(Debug)]
struct Suspect {
    /// Which.
    position: Position,
    /// How many losses count against it.
    counts: u32,
    /// Whether the last one may, when it is known what has become of the server.
    is_open: bool,
}

impl Losses {
    /// A batch was lost that began here and ends there.
    pub(super) fn lost(&mut self, at: Position, to: Position) {
        let times = self.at.filter(|(before, _)| *before == at).map_or(1, |(_, times)| times + 1);
        self.at = Some((at, times));
        self.rounds = times;
        if times >= IN_A_ROW {
            self.alone_until = self.alone_until.max(Some(to));
        }
    }

    /// An event was lost with this error, alone in its transaction.
    pub(super) fn lost_alone(&mut self, position: Position, error: &ApplyError) {
        if self.alone_until.is_none() {
            return;
        }
        let known = self.suspect.as_ref().filter(|suspect| suspect.position == position);
        self.rounds = known.map_or(IN_A_ROW, |_| self.rounds) + 1;
        let counts = known.map_or(0, |it| it.counts);
        self.suspect = Some(Suspect { position, counts, is_open: error.is_without_a_word() });
    }

    /// Whether another try may tell more than those before it: whoever is to end after so many failures goes on for that
    /// long, or an event that kills its process would never be given up.
    pub(super) fn may_tell_more(&self) -> bool {
        (1..=3 * IN_A_ROW).contains(&self.rounds)
    }

    /// Whether events go one by one from here.
    pub(super) fn is_one_by_one(&mut self, from: Position) -> bool {
        if self.alone_until.is_some_and(|until| from >= until) {
            *self = Self { replay: self.replay, ..Self::default() };
        }
        if self.alone_until.is_none() && self.at.is_some_and(|(at, _)| at != from) {
            // That one has come through.
            (self.at, self.rounds) = (None, 0);
        }
        self.alone_until.is_some()
    }

    /// The partition was claimed again: looks at what has become of the server.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub(super) fn look(&mut self, read_model: &ReadModel, owner: &str) -> Result<(), DatabaseError> {
        if self.alone_until.is_none() {
            return Ok(());
        }
        let now = read_model.life(owner)?;
        self.judge(now);
        Ok(())
    }

    /// Counts the last loss, if it is to be counted.
    fn judge(&mut self, now: Option<Life>) {
        let died =
            self.life.as_ref().zip(now.as_ref()).is_some_and(|(before, now)| now.has_lost_a_process_since(before));
        if let Some(suspect) = &mut self.suspect
            && std::mem::take(&mut suspect.is_open)
            && died
        {
            suspect.counts += 1;
            let (position, times) = (suspect.position.get(), suspect.counts);
            tracing::warn!(position, times, "a process of the server died over this event");
        }
        self.life = now;
    }

    /// Why an event is given up without being tried again.
    pub(super) fn verdict(&self, position: Position) -> Option<ApplyError> {
        let guilty = |suspect: &&Suspect| suspect.position == position && suspect.counts >= IN_A_ROW;
        self.suspect.as_ref().filter(guilty).map(|suspect| {
            let message = format!(
                "the server's process died each of the {} times that this event was applied alone",
                suspect.counts
            );
            SqlError::permanent(sqlstate::WITHOUT_A_WORD, message).into()
        })
    }

    /// A request was lost.
    pub(super) fn lost_in_replay(&mut self, request: i64) {
        let times = self.replay.filter(|(before, _)| *before == request).map_or(1, |(_, times)| times + 1);
        self.replay = Some((request, times));
    }

    /// Whether a request was lost so often that it is answered. Whoever has asked is there to ask again.
    pub(super) fn is_past_trying(&self, request: i64) -> bool {
        self.replay.is_some_and(|(lost, times)| lost == request && times >= IN_A_ROW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that has lost so many processes.
    fn life(started: &str, deaths: u32) -> Option<Life> {
        Some(Life::new(started.to_owned(), deaths.to_string()))
    }

    /// What a connection ends with that nobody says anything about.
    fn silence() -> ApplyError {
        SqlError::retryable(sqlstate::WITHOUT_A_WORD, "").into()
    }

    /// Events up to 20 go one by one from 10 on, and the server has been looked at.
    fn one_by_one() -> Losses {
        let mut losses = Losses::default();
        for _ in 0..IN_A_ROW {
            assert!(!losses.is_one_by_one(Position::from_sql(10)));
            losses.lost(Position::from_sql(10), Position::from_sql(20));
        }
        assert!(losses.is_one_by_one(Position::from_sql(10)));
        losses.judge(life("monday", 0));
        losses
    }

    #[test]
    fn an_event_over_which_processes_die_is_given_up() {
        let (mut losses, event) = (one_by_one(), Position::from_sql(11));
        for deaths in 1..=IN_A_ROW {
            assert!(losses.verdict(event).is_none());
            losses.lost_alone(event, &silence());
            losses.judge(life("monday", deaths));
        }
        let verdict = losses.verdict(event).unwrap().to_string();
        assert_eq!(
            verdict,
            "the server's process died each of the 3 times that this event was applied alone (SQLSTATE 08X01)"
        );
        assert!(losses.verdict(Position::from_sql(12)).is_none());
        assert!(losses.may_tell_more());
        assert!(!losses.is_one_by_one(Position::from_sql(20)) && !losses.may_tell_more());
    }

    #[test]
    fn whoever_is_to_end_after_so_many_failures_does_when_nothing_is_found_out() {
        let mut losses = one_by_one();
        for _ in 0..2 * IN_A_ROW {
            assert!(losses.may_tell_more());
            losses.lost_alone(Position::from_sql(11), &silence());
        }
        losses.lost_alone(Position::from_sql(11), &silence());
        assert!(!losses.may_tell_more());
        losses.lost_alone(Position::from_sql(12), &silence());
        assert!(losses.may_tell_more(), "another event");
    }

    #[test]
    fn no_other_loss_counts_however_often_it_comes() {
        let event = Position::from_sql(11);
        let told = |code: &str| ApplyError::from(SqlError::retryable(code, ""));
        for (error, started, deaths) in [
            // Somebody has ended the session, or stopped the server; another process has died.
            (told("57P01"), "monday", 1),
            (told("57P02"), "monday", 1),
            (told("08006"), "monday", 1),
            // The way was cut.
            (silence(), "monday", 0),
            // The server, or its machine, was killed.
            (silence(), "tuesday", 1),
        ] {
            let mut losses = one_by_one();
            for round in 1..10 {
                losses.lost_alone(event, &error);
                let started = if started == "monday" { started.to_owned() } else { format!("{started} {round}") };
                losses.judge(life(&started, deaths * round));
                assert!(losses.verdict(event).is_none(), "{error} {started}");
            }
        }
        // Where the server cannot be asked.
        let mut losses = one_by_one();
        for _ in 1..10 {
            losses.lost_alone(event, &silence());
            losses.judge(None);
        }
        assert!(losses.verdict(event).is_none());
    }

    #[test]
    fn only_losses_in_a_row_at_the_same_place_make_a_batch_go_one_by_one_and_only_that_batch() {
        let mut losses = Losses::default();
        for position in [10, 11, 10, 11, 10, 10] {
            losses.lost(Position::from_sql(position), Position::from_sql(20));
            assert!(!losses.is_one_by_one(Position::from_sql(position)));
        }
        losses.lost(Position::from_sql(10), Position::from_sql(20));
        assert!(losses.is_one_by_one(Position::from_sql(10)) && losses.is_one_by_one(Position::from_sql(19)));
        assert!(!losses.is_one_by_one(Position::from_sql(20)));
    }
}
