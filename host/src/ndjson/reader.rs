//! [`Reader`]: a stream of bytes, compressed or not, as events. It holds one line at a time, and a line has a
//! limit, so memory does not grow with the file, however it is made.

use std::fmt;
use std::io::{BufRead, BufReader, Cursor, ErrorKind, Read};

use flate2::bufread::MultiGzDecoder;

use super::line::{self, Id};
use super::{LineProblem, Payloads, ReadError};
use crate::event::NewEvent;

/// How long a line may be, in bytes, where nothing else is said.
pub const LINE_LIMIT: usize = 32 << 20;

/// What a gzip stream begins with.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// How much is read from the system, or decompressed, at a time.
const BUFFER: usize = 128 << 10;

/// Whether the stream is compressed, told by its first bytes and not by a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    /// By gzip.
    Gzip,
    /// It is the text itself.
    None,
}

/// Events of a stream, in order. After an error it is at its end.
pub struct Reader<'a> {
    /// The text.
    input: Box<dyn BufRead + 'a>,
    /// Whether it is made by decompressing.
    compression: Compression,
    /// Which payloads are taken.
    payloads: Payloads,
    /// How long a line may be.
    line_limit: usize,
    /// The line at hand.
    buffer: Vec<u8>,
    /// How many lines were read whole.
    lines: u64,
    /// How many events came without an id.
    without_id: u64,
    /// Whether there is nothing more to give.
    finished: bool,
}

impl fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("compression", &self.compression).field("lines", &self.lines).finish()
    }
}

impl<'a> Reader<'a> {
    /// Reads this stream.
    ///
    /// # Errors
    /// When not even its first bytes can be read.
    pub fn new(mut input: impl Read + 'a, payloads: Payloads) -> Result<Self, ReadError> {
        let mut first = Vec::with_capacity(GZIP.len());
        let peeked = input.by_ref().take(GZIP.len() as u64).read_to_end(&mut first);
        peeked.map_err(|source| ReadError::Io { lines: 0, source })?;
        let compression = if first == GZIP { Compression::Gzip } else { Compression::None };
        let input = BufReader::with_capacity(BUFFER, Cursor::new(first).chain(input));
        let input: Box<dyn BufRead + 'a> = match compression {
            Compression::Gzip => Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(input))),
            Compression::None => Box::new(input),
        };
        Ok(Self {
            input,
            compression,
            payloads,
            line_limit: LINE_LIMIT,
            buffer: Vec::new(),
            lines: 0,
            without_id: 0,
            finished: false,
        })
    }

    /// Takes lines of at most so many bytes.
    #[must_use]
    pub fn with_line_limit(mut self, bytes: usize) -> Self {
        self.line_limit = bytes;
        self
    }

    /// The number of the line that the last event stood on.
    #[must_use]
    pub fn line(&self) -> u64 {
        self.lines
    }

    /// How many of the events so far came without an id, and would be other events the next time.
    #[must_use]
    pub fn without_id(&self) -> u64 {
        self.without_id
    }

    /// The next event, past blank lines.
    fn read(&mut self) -> Result<Option<NewEvent>, ReadError> {
        loop {
            self.buffer.clear();
            let mut limited = self.input.by_ref().take(self.line_limit as u64 + 1);
            if let Err(source) = limited.read_until(b'\n', &mut self.buffer) {
                return Err(self.unreadable(source));
            }
            if self.buffer.is_empty() {
                return Ok(None);
            }
            self.lines += 1;
            let line = self.lines;
            let problem = |problem| ReadError::Line { line, problem };
            if self.buffer.len() > self.line_limit && !self.buffer.ends_with(b"\n") {
                return Err(problem(LineProblem::TooLong { limit: self.line_limit }));
            }
            let text = std::str::from_utf8(&self.buffer)
                .map_err(|error| problem(LineProblem::NotUtf8(error.valid_up_to() + 1)))?;
            // What some editors put at the beginning of a file.
            let text = if line == 1 { text.strip_prefix('\u{feff}').unwrap_or(text) } else { text };
            let text = text.trim_ascii_end();
            if text.is_empty() {
                continue;
            }
            let (event, id) = line::parse(text, self.payloads).map_err(problem)?;
            self.without_id += u64::from(id == Id::New);
            return Ok(Some(event));
        }
    }

    /// What it means that the stream cannot be read further.
    fn unreadable(&self, source: std::io::Error) -> ReadError {
        let lines = self.lines;
        match (self.compression, source.kind()) {
            (Compression::Gzip, ErrorKind::UnexpectedEof) => ReadError::CutOff { lines },
            (Compression::Gzip, ErrorKind::InvalidInput | ErrorKind::InvalidData) => {
                ReadError::Damaged { lines, source }
            }
            _ => ReadError::Io { lines, source },
        }
    }
}

impl Iterator for Reader<'_> {
    type Item = Result<NewEvent, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let item = self.read().transpose();
        self.finished = !matches!(item, Some(Ok(_)));
        item
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression as Level, write::GzEncoder};
    use proptest::prelude::*;

    use super::*;

    /// A good line.
    const LINE: &str = r#"{"aggregate_type":"A","aggregate_id":"a","event_type":"T","payload":{"n":1}}"#;

    /// How many events there are before the end or an error.
    fn read(bytes: &[u8]) -> (usize, Option<String>) {
        let mut events = 0;
        for event in Reader::new(bytes, Payloads::Objects).unwrap().with_line_limit(1 << 10) {
            match event {
                Ok(_) => events += 1,
                Err(error) => return (events, Some(error.to_string())),
            }
        }
        (events, None)
    }

    /// Compressed.
    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Level::default());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn blank_lines_carriage_returns_and_a_missing_last_newline_are_fine() {
        let text = format!("\u{feff}{LINE}\r\n\n  \n{LINE}\n{LINE}");
        assert_eq!(read(text.as_bytes()), (3, None));
        assert_eq!(read(b""), (0, None));
    }

    #[test]
    fn a_mistake_has_the_number_of_its_line() {
        let text = format!("{LINE}\n\n{LINE}\n{{\"x\":1}}\n{LINE}\n");
        let (events, error) = read(text.as_bytes());
        assert_eq!(events, 2);
        assert!(error.unwrap().starts_with("line 4: unknown field `x`"));
    }

    #[test]
    fn a_line_longer_than_the_limit_is_refused_before_it_is_held() {
        let text = format!("{LINE}\n{}", "x".repeat(4 << 10));
        let reader = Reader::new(text.as_bytes(), Payloads::Objects).unwrap().with_line_limit(1 << 10);
        let error = reader.last().unwrap().unwrap_err();
        let problem = LineProblem::TooLong { limit: 1 << 10 };
        assert!(matches!(&error, ReadError::Line { line: 2, problem: p } if p.to_string() == problem.to_string()));
        // A line of exactly the limit is not too long.
        let padded = format!("{LINE}{}\n", " ".repeat((1 << 10) - LINE.len()));
        assert_eq!(read(padded.as_bytes()), (1, None));
    }

    #[test]
    fn bytes_that_are_not_text_are_refused_with_their_place() {
        assert_eq!(read(b"{\"a\xff").1.unwrap(), "line 1: byte 4 is not UTF-8");
    }

    #[test]
    fn gzip_is_told_by_its_first_bytes_and_may_have_several_members() {
        let mut bytes = gzip(&format!("{LINE}\n"));
        bytes.extend(gzip(LINE));
        assert_eq!(read(&bytes), (2, None));
    }

    #[test]
    fn a_gzip_stream_that_is_cut_off_says_how_far_it_was_read() {
        let text: String = (0..500).map(|n| LINE.replace('1', &(n * 7919 % 1000).to_string()) + "\n").collect();
        let bytes = gzip(&text);
        for cut in [3, bytes.len() / 2, bytes.len() - 1] {
            let (events, error) = read(&bytes[..cut]);
            let expected =
                format!("the file is cut off: its gzip stream ends in the middle, after {events} whole lines");
            assert_eq!(error.unwrap(), expected);
        }
    }

    #[test]
    fn a_damaged_gzip_stream_is_no_end_of_file() {
        let mut bytes = gzip(&format!("{LINE}\n"));
        let last = bytes.len() - 6;
        bytes[last] ^= 1;
        assert!(read(&bytes).1.unwrap().starts_with("the file is damaged"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), gzipped: bool) {
            let mut bytes = bytes;
            if gzipped {
                bytes.splice(0..0, [0x1f, 0x8b, 8, 0]);
            }
            prop_assert!(read(&bytes).0 <= 200);
        }

        #[test]
        fn a_line_cut_anywhere_is_an_error_or_blank(cut in 0..LINE.len()) {
            let (events, error) = read(&LINE.as_bytes()[..cut]);
            prop_assert_eq!(events, 0);
            prop_assert_eq!(error.is_some(), cut > 0);
        }
    }
}
