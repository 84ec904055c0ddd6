//! What a stream has read and not let go of yet, and who is where in it. No database, no clock, no lock: only the rules.

use std::collections::VecDeque;
use std::sync::Arc;

use fnv::FnvHashMap;

use super::ReaderId;
use crate::event::{Event, Position};
use crate::source::Filter;

/// How many bytes of events are kept at most, for those who are behind.
pub(super) const KEPT: usize = 24 << 20;

/// How many bytes are read ahead of the foremost reader of many.
pub(super) const AHEAD: usize = 6 << 20;

/// How many are read ahead of one that reads alone: there may be as many of those as there are workers.
pub(super) const AHEAD_ALONE: usize = 1 << 20;

/// A stretch of the log: all events that its filter takes with `after < position ≤ through`, in order.
#[derive(Debug)]
pub struct Stretch {
    /// It begins behind this position.
    pub after: Position,
    /// It ends with this one.
    pub through: Position,
    /// Whether nothing was known to stand behind it when it was read.
    pub is_last: bool,
    /// Its events.
    pub events: Vec<Event>,
    /// Which events were read.
    pub filter: Arc<Filter>,
    /// What they take in memory, about.
    pub bytes: usize,
}

/// Where a reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It will come: it has not said yet where it begins.
    Coming,
    /// It has read through this position.
    At(Position),
}

/// What was read, and who is where.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// In order, each beginning where the one before it ends.
    stretches: VecDeque<Arc<Stretch>>,
    /// Where the next one begins; nothing before the first question.
    end: Option<Position>,
    /// What they take together.
    bytes: usize,
    /// Those who read it, or will.
    readers: FnvHashMap<ReaderId, Place>,
}

impl Window {
    /// Where the next stretch begins.
    pub(super) fn end(&self) -> Option<Position> {
        self.end
    }

    /// Begins again at a position. Nobody waits for those who are before it.
    pub(super) fn restart(&mut self, at: Position) {
        self.readers.retain(|_, place| *place == Place::Coming || place.through() >= at);
        self.stretches.clear();
        self.bytes = 0;
        self.end = Some(at);
    }

    /// The stretch with the next position behind `from`, if it was read with a filter that covers `filter`.
    pub(super) fn holding(&self, from: Position, filter: &Filter) -> Option<&Arc<Stretch>> {
        let at = self.stretches.partition_point(|stretch| stretch.through <= from);
        self.stretches.get(at).filter(|stretch| stretch.after <= from && stretch.filter.covers(filter))
    }

    /// Adds what was read behind its end.
    pub(super) fn push(&mut self, stretch: Stretch) {
        self.end = Some(stretch.through);
        self.bytes += stretch.bytes;
        self.stretches.push_back(Arc::new(stretch));
    }

    /// Somebody will come.
    pub(super) fn expect(&mut self, reader: ReaderId) {
        self.readers.insert(reader, Place::Coming);
    }

    /// A reader has read through a position; lets go of what everybody is through with. Says whether it was the
    /// hindmost, and has moved.
    pub(super) fn move_to(&mut self, reader: ReaderId, position: Position) -> bool {
        let hindmost = self.hindmost();
        let before = self.readers.insert(reader, Place::At(position));
        self.let_go();
        before.is_some_and(|place| place != Place::At(position) && Some(place.through()) == hindmost)
    }

    /// A reader is not here any more.
    pub(super) fn leave(&mut self, reader: ReaderId) {
        self.readers.remove(&reader);
        self.let_go();
    }

    /// Lets go of what everybody is through with.
    fn let_go(&mut self) {
        let Some(hindmost) = self.hindmost() else { return };
        while self.stretches.front().is_some_and(|stretch| stretch.through <= hindmost) {
            self.drop_first();
        }
    }

    /// How far the hindmost has read.
    fn hindmost(&self) -> Option<Position> {
        self.readers.values().map(|place| place.through()).min()
    }

    /// Whether somebody has not begun to read.
    pub(super) fn expects_somebody(&self) -> bool {
        self.readers.values().any(|place| *place == Place::Coming)
    }

    /// Whether another stretch may be read.
    pub(super) fn has_room(&self) -> bool {
        self.bytes < KEPT
    }

    /// Makes room: the first stretch goes, and whoever was not through with it reads alone from now on.
    pub(super) fn make_room(&mut self) {
        let Some(first) = self.stretches.front() else { return };
        let through = first.through;
        self.readers.retain(|_, place| place.through() >= through);
        self.drop_first();
        self.let_go();
    }

    /// Makes the first stretch as large as all that may be kept, for a test.
    #[cfg(test)]
    pub(super) fn fill(&mut self) {
        if let Some(first) = self.stretches.pop_front() {
            self.bytes += KEPT;
            let bytes = first.bytes + KEPT;
            let (after, through, is_last) = (first.after, first.through, first.is_last);
            let (events, filter) = (first.events.clone(), Arc::clone(&first.filter));
            self.stretches.push_front(Arc::new(Stretch { after, through, is_last, events, filter, bytes }));
        }
    }

    /// Drops the first stretch.
    fn drop_first(&mut self) {
        if let Some(stretch) = self.stretches.pop_front() {
            self.bytes -= stretch.bytes;
        }
    }

    /// Whether less than `wanted` bytes stand before the foremost reader, and there is room for more.
    pub(super) fn wants_more(&self, wanted: usize) -> bool {
        let foremost = self.readers.values().map(|place| place.through()).max().unwrap_or_default();
        let ahead: usize = self
            .stretches
            .iter()
            .rev()
            .take_while(|stretch| stretch.after >= foremost)
            .map(|stretch| stretch.bytes)
            .sum();
        self.has_room() && ahead < wanted
    }
}

impl Place {
    /// What it has read through.
    fn through(self) -> Position {
        match self {
            Self::Coming => Position::START,
            Self::At(position) => position,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stretch without events.
    fn stretch(after: u64, through: u64, bytes: usize) -> Stretch {
        let (after, through) = (Position::new(after), Position::new(through));
        Stretch { after, through, is_last: false, events: vec![], filter: Arc::default(), bytes }
    }

    /// A window from 0 with stretches of ten positions and a third of the room each.
    fn window(stretches: u64) -> Window {
        let mut window = Window::default();
        window.restart(Position::START);
        for number in 0..stretches {
            window.push(stretch(number * 10, number * 10 + 10, KEPT / 3 + 1));
        }
        window
    }

    /// Where the stretch that holds what follows `from` begins.
    fn holding(window: &Window, from: u64) -> Option<u64> {
        window.holding(Position::new(from), &Filter::default()).map(|stretch| stretch.after.get())
    }

    #[test]
    fn a_position_is_in_the_stretch_that_holds_the_next_one() {
        let window = window(2);
        assert_eq!(holding(&window, 0), Some(0));
        assert_eq!(holding(&window, 9), Some(0));
        assert_eq!(holding(&window, 10), Some(10));
        assert_eq!(holding(&window, 20), None, "not read yet");
    }

    #[test]
    fn what_everybody_is_through_with_is_let_go_and_nothing_before() {
        let mut window = window(2);
        window.expect(2);
        window.move_to(1, Position::new(20));
        assert_eq!(holding(&window, 0), Some(0), "the other is still to come");
        assert!(window.move_to(2, Position::new(10)), "it was the hindmost");
        assert!(!window.move_to(1, Position::new(20)));
        assert_eq!((holding(&window, 0), holding(&window, 10)), (None, Some(10)));
        window.leave(2);
        assert_eq!(holding(&window, 10), None);
        assert_eq!(window.bytes, 0);
    }

    #[test]
    fn without_room_the_hindmost_is_left_behind() {
        let mut window = window(3);
        window.expect(2);
        window.expect(3);
        window.move_to(1, Position::new(30));
        window.move_to(2, Position::START);
        window.move_to(3, Position::new(10));
        assert!(!window.has_room() && !window.wants_more(AHEAD));
        window.make_room();
        assert_eq!((holding(&window, 0), holding(&window, 10)), (None, Some(10)), "3 still needs the second");
        window.move_to(3, Position::new(30));
        assert_eq!(window.bytes, 0, "nobody waits for 2 any more");
    }

    #[test]
    fn it_is_read_ahead_up_to_a_bound_and_no_further() {
        let mut window = Window::default();
        window.restart(Position::START);
        window.move_to(1, Position::START);
        for number in 0..4 {
            assert!(window.wants_more(AHEAD), "{number}");
            window.push(stretch(number * 10, number * 10 + 10, AHEAD / 4));
        }
        assert!(!window.wants_more(AHEAD));
        window.move_to(1, Position::new(10));
        assert!(window.wants_more(AHEAD));
    }

    #[test]
    fn what_was_read_with_a_narrower_filter_is_not_for_somebody_who_wants_more() {
        let mut window = Window::default();
        window.restart(Position::START);
        let filter = Filter { event_types: vec!["A".into()], ..Filter::default() };
        window.push(Stretch { filter: Arc::new(filter.clone()), ..stretch(0, 10, 1) });
        assert!(window.holding(Position::START, &filter).is_some());
        assert!(window.holding(Position::START, &Filter::default()).is_none());
    }
}
