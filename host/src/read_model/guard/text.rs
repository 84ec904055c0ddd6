//! Whether a text can be read in one way only, and how deep it nests, before anything parses it.
//!
//! What is judged is a tree that [`sqlparser`] makes; what runs is what the database makes of the text. So both have to
//! read the same tokens. Two ways were open: to send the tree as text again, or to refuse what two lexers could read
//! differently. The tree is not sent: its rendering is a program of its own, whose mistakes would change what a
//! projection means without a word, and it is no safer, because the database reads the rendered text with the same lexer.
//! Instead a text may use only what every lexer of SQL reads alike, and a small lexer after Postgres' own rules
//! (`scan.l`) says where each token ends; where `sqlparser` says otherwise, the text is refused. Left out are, each with
//! a message: escape strings (`E'…'`, `U&'…'` and all other prefixes), dollar quotes, comments inside of comments, letters
//! outside of ASCII that are not in quotes, carriage returns alone, control characters, numbers that run into letters
//! (`0x1F`, `1_000`), two strings side by side, and names in backticks or brackets. None is needed: values are
//! parameters. Plain strings hold backslashes as they are: the host sets `standard_conforming_strings`, and no statement
//! that is allowed can change it.
//!
//! **Nesting.** A parser, and whoever walks or drops its tree, recurses once a level, and a text of 64 KiB can have 32,000
//! (`1+1+1…`). A level takes at least one token, and what commas separate stands side by side. So the tokens that are open
//! at one place (of its own list element, and of those around it) bound the depth there.

use sqlparser::dialect::Dialect as Grammar;
use sqlparser::tokenizer::{Token, Tokenizer};

use super::super::value::{Dialect, SqlError, sqlstate};

/// How many tokens may stand between two commas, those of all brackets around them included: 500 alternatives of an OR.
const OPEN_TOKENS: u32 = 2_048;

/// How many brackets may be open.
const BRACKETS: usize = 48;

/// What operators are made of.
const OPERATORS: &[u8] = b"+-*/<>=~!@#%^&|?";

/// Sees that a text can be read in one way only, and not too deep.
///
/// # Errors
/// What about it is ambiguous, or that it nests too deep.
pub(super) fn check(sql: &str, dialect: Dialect, grammar: &dyn Grammar) -> Result<(), SqlError> {
    let ours = Scan::new(sql, dialect).run()?;
    let tokens = Tokenizer::new(grammar, sql)
        .with_unescape(false)
        .tokenize()
        .map_err(|error| syntax(&format!("cannot parse the statement: {error}")))?;
    let mut theirs = String::with_capacity(sql.len());
    for token in &tokens {
        match token {
            Token::Whitespace(_) => {}
            Token::SingleQuotedString(text) => push_quoted(&mut theirs, '\'', text),
            Token::Word(word) if word.quote_style == Some('"') => push_quoted(&mut theirs, '"', &word.value),
            other => theirs.push_str(&other.to_string()),
        }
    }
    if ours == theirs {
        Ok(())
    } else {
        Err(syntax("the statement can be read in more than one way: write it with plain names, strings and comments"))
    }
}

/// Writes what stands in quotes, with a mark before it that no text holds outside of quotes.
fn push_quoted(into: &mut String, quote: char, text: &str) {
    into.push('\0');
    into.push(quote);
    into.push_str(text);
    into.push(quote);
}

/// An error of what cannot be read.
fn syntax(message: &str) -> SqlError {
    SqlError::permanent(sqlstate::SYNTAX, message)
}

/// A walk over a text.
struct Scan<'text> {
    /// The text.
    sql: &'text str,
    /// Which SQL.
    dialect: Dialect,
    /// Where the walk is.
    at: usize,
    /// The tokens so far, without what is between them.
    tokens: String,
    /// The tokens since the last comma, for each open bracket.
    open: Vec<u32>,
    /// The sum of those.
    sum: u32,
    /// Whether the last token is a string.
    behind_string: bool,
}

impl<'text> Scan<'text> {
    /// At the beginning.
    fn new(sql: &'text str, dialect: Dialect) -> Self {
        let tokens = String::with_capacity(sql.len());
        Self { sql, dialect, at: 0, tokens, open: vec![0], sum: 0, behind_string: false }
    }

    /// The byte so far ahead; 0 behind the end.
    fn peek(&self, ahead: usize) -> u8 {
        self.sql.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }

    /// To the end; gives the tokens.
    fn run(mut self) -> Result<String, SqlError> {
        while self.at < self.sql.len() {
            match self.peek(0) {
                b' ' | b'\t' | b'\n' => self.at += 1,
                b'\r' if self.peek(1) == b'\n' => self.at += 2,
                b'-' if self.peek(1) == b'-' => self.line_comment()?,
                b'/' if self.peek(1) == b'*' => self.block_comment()?,
                byte => {
                    let is_string = byte == b'\'';
                    if is_string && self.behind_string {
                        return Err(syntax("two strings stand side by side: write them as one"));
                    }
                    self.count(byte)?;
                    self.token(byte)?;
                    self.behind_string = is_string;
                }
            }
        }
        Ok(self.tokens)
    }

    /// Counts a token.
    fn count(&mut self, byte: u8) -> Result<(), SqlError> {
        let depth = self.open.len();
        let Some(level) = self.open.last_mut() else { return Ok(()) };
        match byte {
            b',' | b';' => {
                self.sum -= *level;
                *level = 0;
            }
            b')' | b']' if depth > 1 => {
                self.sum -= *level;
                self.open.pop();
            }
            _ => {
                *level += 1;
                self.sum += 1;
                if matches!(byte, b'(' | b'[') {
                    self.open.push(0);
                }
            }
        }
        if self.open.len() > BRACKETS + 1 {
            return Err(too_deep(&format!("more than {BRACKETS} brackets are open at one place")));
        }
        if self.sum > OPEN_TOKENS {
            return Err(too_deep(&format!(
                "more than {OPEN_TOKENS} words and signs stand without a comma between them"
            )));
        }
        Ok(())
    }

    /// Passes over a token.
    fn token(&mut self, byte: u8) -> Result<(), SqlError> {
        let start = self.at;
        match byte {
            b'\'' | b'"' => return self.quoted(byte),
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => self.word()?,
            b'0'..=b'9' => self.number()?,
            b'.' if self.peek(1).is_ascii_digit() => self.number()?,
            b'$' => {
                self.at += 1;
                if !self.peek(0).is_ascii_digit() {
                    return Err(syntax(
                        "`$` begins the number of a parameter; a text in dollar quotes is refused: pass it as a parameter",
                    ));
                }
                self.digits();
                self.refuse_letter()?;
            }
            b'`' => return Err(syntax("a name is quoted with \"…\", not with backticks")),
            b'[' if self.dialect == Dialect::Sqlite => {
                return Err(syntax("a name is quoted with \"…\", not with brackets"));
            }
            b'(' | b')' | b',' | b'.' | b';' | b':' | b'[' | b']' => self.at += 1,
            byte if OPERATORS.contains(&byte) => self.at += 1,
            b'\r' => return Err(syntax("a carriage return stands alone: end lines with a line feed")),
            0x80.. => {
                let found: String = self.sql[self.at..].chars().take(1).collect();
                return Err(syntax(&format!(
                    "`{found}` stands outside of quotes: names with such letters are quoted with \"…\""
                )));
            }
            other => {
                return Err(syntax(&format!("the statement holds the byte 0x{other:02x}, which is no part of SQL")));
            }
        }
        self.tokens.push_str(&self.sql[start..self.at]);
        Ok(())
    }

    /// What stands in quotes; a quote inside is doubled.
    fn quoted(&mut self, quote: u8) -> Result<(), SqlError> {
        let start = self.at + 1;
        self.at = start;
        loop {
            match self.peek(0) {
                0 if self.at >= self.sql.len() => return Err(syntax("a quote is not closed")),
                0 => return Err(syntax("the statement holds U+0000")),
                byte if byte == quote && self.peek(1) == quote => self.at += 2,
                byte if byte == quote => break,
                _ => self.at += 1,
            }
        }
        push_quoted(&mut self.tokens, char::from(quote), &self.sql[start..self.at]);
        self.at += 1;
        Ok(())
    }

    /// A word without quotes.
    fn word(&mut self) -> Result<(), SqlError> {
        while self.peek(0).is_ascii_alphanumeric() || self.peek(0) == b'_' {
            self.at += 1;
        }
        let prefixed =
            matches!(self.peek(0), b'\'' | b'"') || (self.peek(0) == b'&' && matches!(self.peek(1), b'\'' | b'"'));
        if prefixed {
            return Err(syntax(
                "a quote follows a letter, which makes its text another: write a plain '…', or pass the text as a parameter",
            ));
        }
        if self.peek(0) == b'$' {
            return Err(syntax("a name with `$` is quoted with \"…\""));
        }
        Ok(())
    }

    /// A number.
    fn number(&mut self) -> Result<(), SqlError> {
        self.digits();
        if self.peek(0) == b'.' {
            self.at += 1;
            self.digits();
        }
        if matches!(self.peek(0), b'e' | b'E') {
            let sign = usize::from(matches!(self.peek(1), b'+' | b'-'));
            if self.peek(1 + sign).is_ascii_digit() {
                self.at += 1 + sign;
                self.digits();
            }
        }
        self.refuse_letter()
    }

    /// Digits.
    fn digits(&mut self) {
        while self.peek(0).is_ascii_digit() {
            self.at += 1;
        }
    }

    /// Some read `1a` as one thing, others as two.
    fn refuse_letter(&self) -> Result<(), SqlError> {
        let byte = self.peek(0);
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..) {
            return Err(syntax("a number runs into letters: numbers are written with digits, and a space behind them"));
        }
        Ok(())
    }

    /// To the end of the line.
    fn line_comment(&mut self) -> Result<(), SqlError> {
        while self.at < self.sql.len() && self.peek(0) != b'\n' {
            if self.peek(0) == b'\r' && self.peek(1) != b'\n' {
                return Err(syntax("a comment holds a carriage return, where some end it and others do not"));
            }
            if self.peek(0) == 0 {
                return Err(syntax("the statement holds U+0000"));
            }
            self.at += 1;
        }
        Ok(())
    }

    /// To the end of the comment.
    fn block_comment(&mut self) -> Result<(), SqlError> {
        self.at += 2;
        loop {
            match (self.peek(0), self.peek(1)) {
                (b'*', b'/') => break,
                (b'/', b'*') => return Err(syntax("a comment stands inside of a comment")),
                (0, _) if self.at >= self.sql.len() => return Err(syntax("a comment is not closed")),
                (0, _) => return Err(syntax("the statement holds U+0000")),
                _ => self.at += 1,
            }
        }
        self.at += 2;
        Ok(())
    }
}

/// An error of what nests too deep.
fn too_deep(message: &str) -> SqlError {
    SqlError::permanent(sqlstate::TOO_COMPLEX, format!("the statement nests too deep: {message}; split it"))
}
