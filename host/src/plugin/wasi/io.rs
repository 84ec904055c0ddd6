//! Streams and waiting: stdout and stderr are the log, stdin is at its end, and whatever is waited for is ready.

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, LinkerInstance, Lower, Resource};

use super::super::imports::{Guest, Level};
use super::{Nothing, handle, world};

/// The resource `pollable`: ready, each of them.
pub(super) struct Pollable;

/// The resource `input-stream`: at its end, each of them.
pub(super) struct Input;

/// The resource `output-stream`: its number says which.
pub(super) struct Output;

/// stdout
const OUT: u32 = 1;
/// stderr
const ERR: u32 = 2;

/// How many bytes may be written at once.
const AT_ONCE: u64 = 64 << 10;

/// The WIT variant `stream-error`.
#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum StreamError {
    /// Never.
    #[component(name = "last-operation-failed")]
    Failed(Resource<Nothing<0>>),
    /// There is no more.
    #[component(name = "closed")]
    Closed,
}

/// What has been written of a line.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// Its beginning, up to what a log line may have.
    begun: Vec<u8>,
}

impl Lines {
    /// Takes more of it; gives the lines that are whole. Of a line only as much is kept as the log takes.
    fn write(&mut self, bytes: &[u8], limit: usize) -> Vec<String> {
        let mut whole = Vec::new();
        let mut parts = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(part) = parts.next() {
            let room = limit.saturating_sub(self.begun.len());
            self.begun.extend(&part[..part.len().min(room)]);
            if parts.peek().is_some() {
                whole.push(String::from_utf8_lossy(&self.begun).into_owned());
                self.begun.clear();
            }
        }
        whole
    }

    /// What is there of a line, if anything.
    pub(super) fn take(&mut self) -> Option<String> {
        let begun = std::mem::take(&mut self.begun);
        (!begun.is_empty()).then(|| String::from_utf8_lossy(&begun).into_owned())
    }
}

/// Writes to a stream.
fn write(mut store: StoreContextMut<'_, Guest>, stream: &Resource<Output>, bytes: &[u8]) -> wasmtime::Result<()> {
    // As `check-write` has said. More would be more lines at once than the log's limits were meant to see.
    if bytes.len() as u64 > AT_ONCE {
        wasmtime::bail!("the projection writes {} bytes at once, and {AT_ONCE} were offered", bytes.len());
    }
    let limit = store.data().limits.log_line;
    let wasi = world(&mut store)?;
    let (level, lines) = match stream.rep() {
        ERR => (Level::Warn, wasi.err.write(bytes, limit)),
        _ => (Level::Info, wasi.out.write(bytes, limit)),
    };
    for line in lines {
        store.data().log(level, &line);
    }
    Ok(())
}

/// Defines a function of streams, polling and the standard streams, if it is one.
pub(super) fn define(
    linked: &mut LinkerInstance<'_, Guest>,
    interface: &str,
    function: &str,
) -> wasmtime::Result<bool> {
    match interface {
        "wasi:io/streams" => define_streams(linked, function),
        "wasi:io/poll" => define_poll(linked, function),
        _ => define_standard(linked, interface, function),
    }
}

/// Defines one of the functions that give the standard streams.
fn define_standard(linked: &mut LinkerInstance<'_, Guest>, interface: &str, name: &str) -> wasmtime::Result<bool> {
    match (interface, name) {
        ("wasi:cli/stdin", "get-stdin") => {
            linked.func_wrap(name, |store, ()| Ok((handle::<Input>(store, 0)?,)))?;
        }
        ("wasi:cli/stdout", "get-stdout") => {
            linked.func_wrap(name, |store, ()| Ok((handle::<Output>(store, OUT)?,)))?;
        }
        ("wasi:cli/stderr", "get-stderr") => {
            linked.func_wrap(name, |store, ()| Ok((handle::<Output>(store, ERR)?,)))?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Defines a function of `wasi:io/poll`.
fn define_poll(linked: &mut LinkerInstance<'_, Guest>, function: &str) -> wasmtime::Result<bool> {
    match function {
        "[method]pollable.ready" => linked.func_wrap(function, |_, (_,): (Resource<Pollable>,)| Ok((true,)))?,
        "[method]pollable.block" => linked.func_wrap(function, |_, (_,): (Resource<Pollable>,)| Ok(()))?,
        "poll" => linked.func_wrap(function, |_, (list,): (Vec<Resource<Pollable>>,)| {
            if list.is_empty() {
                wasmtime::bail!("the projection waits for nothing");
            }
            Ok(((0..u32::try_from(list.len())?).collect::<Vec<_>>(),))
        })?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// Defines a function of `wasi:io/streams`.
fn define_streams(linked: &mut LinkerInstance<'_, Guest>, function: &str) -> wasmtime::Result<bool> {
    /// An answer of a function that writes.
    type Written = (Result<(), StreamError>,);
    match function {
        "[method]input-stream.read" | "[method]input-stream.blocking-read" => {
            linked.func_wrap(function, |_, _: (Resource<Input>, u64)| Ok((Err::<Vec<u8>, _>(StreamError::Closed),)))?;
        }
        "[method]input-stream.skip" | "[method]input-stream.blocking-skip" => {
            linked.func_wrap(function, |_, _: (Resource<Input>, u64)| Ok((Err::<u64, _>(StreamError::Closed),)))?;
        }
        "[method]input-stream.subscribe" => {
            linked.func_wrap(function, |store, _: (Resource<Input>,)| Ok((handle::<Pollable>(store, 0)?,)))?;
        }
        "[method]output-stream.subscribe" => {
            linked.func_wrap(function, |store, _: (Resource<Output>,)| Ok((handle::<Pollable>(store, 0)?,)))?;
        }
        "[method]output-stream.check-write" => {
            linked.func_wrap(function, |_, _: (Resource<Output>,)| Ok((Ok::<_, StreamError>(AT_ONCE),)))?;
        }
        "[method]output-stream.write" | "[method]output-stream.blocking-write-and-flush" => {
            linked.func_wrap(
                function,
                |store, (stream, bytes): (Resource<Output>, Vec<u8>)| -> wasmtime::Result<Written> {
                    write(store, &stream, &bytes)?;
                    Ok((Ok(()),))
                },
            )?;
        }
        "[method]output-stream.flush" | "[method]output-stream.blocking-flush" => {
            linked.func_wrap(function, |_, _: (Resource<Output>,)| -> wasmtime::Result<Written> { Ok((Ok(()),)) })?;
        }
        "[method]output-stream.write-zeroes" | "[method]output-stream.blocking-write-zeroes-and-flush" => {
            // Nobody logs zeroes.
            linked
                .func_wrap(function, |_, _: (Resource<Output>, u64)| -> wasmtime::Result<Written> { Ok((Ok(()),)) })?;
        }
        "[method]output-stream.splice" | "[method]output-stream.blocking-splice" => {
            linked.func_wrap(function, |_, _: (Resource<Output>, Resource<Input>, u64)| {
                Ok((Err::<u64, _>(StreamError::Closed),))
            })?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_and_no_longer_than_the_log_takes() {
        let mut lines = Lines::default();
        assert!(lines.write(b"one", 8).is_empty());
        assert_eq!(lines.write(b" and\ntwo\nthree", 8), ["one and", "two"]);
        assert!(lines.write(&[b'x'; 1_000], 8).is_empty());
        assert_eq!(lines.begun.len(), 8);
        assert_eq!(lines.write(b"\n\xff\n", 8), ["threexxx", "\u{fffd}"]);
        assert_eq!(lines.take(), None);
        lines.write(b"rest", 8);
        assert_eq!(lines.take().as_deref(), Some("rest"));
    }
}
