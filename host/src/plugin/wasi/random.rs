//! Numbers that look random, and follow from projection, position, call, and how many were drawn before in it.
//!
//! SHA-256 of all of these: the same on every machine and in every version of the host. They are no secret: whoever knows
//! the position can compute them.

use sha2::{Digest as _, Sha256};
use wasmtime::component::LinkerInstance;

use super::super::imports::Guest;
use super::{Call, world};
use crate::event::Position;

/// How many bytes one call may draw.
const AT_ONCE: u64 = 1 << 20;

/// Where numbers come from.
#[derive(Debug)]
pub(super) struct Source {
    /// Which projection.
    projection: [u8; 32],
    /// Which call.
    call: Call,
    /// At which event.
    position: Position,
    /// How many blocks were drawn in it.
    drawn: u64,
}

impl Source {
    /// For a projection.
    pub(super) fn new(projection: &str) -> Self {
        let projection = Sha256::digest(format!("projectionist randomness v1\0{projection}")).into();
        Self { projection, call: Call::Start, position: Position::START, drawn: 0 }
    }

    /// A call begins.
    pub(super) fn begin(&mut self, call: Call, position: Position) {
        (self.call, self.position, self.drawn) = (call, position, 0);
    }

    /// The next 32 bytes.
    fn block(&mut self) -> [u8; 32] {
        let mut hash = Sha256::new_with_prefix(self.projection);
        hash.update([self.call as u8]);
        hash.update(self.position.get().to_be_bytes());
        hash.update(self.drawn.to_be_bytes());
        self.drawn += 1;
        hash.finalize().into()
    }

    /// A number.
    fn number(&mut self) -> u64 {
        first(&self.block())
    }

    /// So many bytes.
    fn bytes(&mut self, count: u64) -> wasmtime::Result<Vec<u8>> {
        if count > AT_ONCE {
            wasmtime::bail!("the projection asked for {count} random bytes at once, and {AT_ONCE} are allowed");
        }
        let count = usize::try_from(count)?;
        let mut bytes = Vec::with_capacity(count + 32);
        while bytes.len() < count {
            bytes.extend(self.block());
        }
        bytes.truncate(count);
        Ok(bytes)
    }

    /// What languages seed their hash maps with, once and at the first map: always the same, because when that is
    /// depends on when the instance was made.
    fn seed(&self) -> (u64, u64) {
        (first(&self.projection), first(&self.projection[8..]))
    }
}

/// A number, of the first 8 bytes.
fn first(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Defines a function of the three interfaces, if it is one.
pub(super) fn define(
    linked: &mut LinkerInstance<'_, Guest>,
    interface: &str,
    function: &str,
) -> wasmtime::Result<bool> {
    match (interface, function) {
        ("wasi:random/random", "get-random-u64") | ("wasi:random/insecure", "get-insecure-random-u64") => {
            linked.func_wrap(function, |mut store, ()| Ok((world(&mut store)?.random.number(),)))?;
        }
        ("wasi:random/random", "get-random-bytes") | ("wasi:random/insecure", "get-insecure-random-bytes") => {
            linked
                .func_wrap(function, |mut store, (count,): (u64,)| Ok((world(&mut store)?.random.bytes(count)?,)))?;
        }
        ("wasi:random/insecure-seed", "insecure-seed") => {
            linked.func_wrap(function, |mut store, ()| Ok((world(&mut store)?.random.seed(),)))?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_from_projection_call_and_position() {
        let draw = |projection: &str, call, position| {
            let mut source = Source::new(projection);
            source.begin(call, Position::new(position));
            (source.number(), source.bytes(5).unwrap(), source.number())
        };
        let one = draw("a", Call::Handle, 1);
        assert_eq!(one, draw("a", Call::Handle, 1), "the same again");
        assert_ne!(one.0, one.2, "another each time");
        for other in [draw("b", Call::Handle, 1), draw("a", Call::Flush, 1), draw("a", Call::Handle, 2)] {
            assert!(one.0 != other.0 && one.1 != other.1);
        }
        // For ever: tables were made of them.
        assert_eq!(one.0, 16_819_087_490_894_966_467);
    }

    #[test]
    fn nobody_makes_the_host_draw_without_end() {
        assert!(Source::new("a").bytes(AT_ONCE + 1).unwrap_err().to_string().contains("1048577 random bytes"));
        assert_eq!(Source::new("a").bytes(AT_ONCE).unwrap().len(), 1 << 20);
    }
}
