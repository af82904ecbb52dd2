//! Response bodies: bytes in memory, a part of a file, a synthetic pattern, or what an application
//! sends. This module knows no HTTP beyond `http_body`. Reading a file blocks the thread.

use std::fmt;
use std::fs::File;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use rustix::buffer::spare_capacity;

/// The most bytes that a body reads from a file, or generates, at a time.
pub(super) const CHUNK_BYTES: usize = 64 << 10;

/// The pattern that synthetic bodies repeat. It is printable and has a newline every 64 bytes.
static PATTERN: [u8; CHUNK_BYTES] = pattern();

/// The body of a response. Its exact length is known from the start, unless it is a file whose size
/// is not that of its content, or comes from an application.
#[derive(Debug)]
pub struct Body(Source);

#[derive(Debug)]
enum Source {
    /// The rest of the body, in memory.
    Memory(Bytes),
    /// `left` bytes of the file from `offset`. The body reads them when the connection asks for
    /// them.
    File {
        file: Arc<File>,
        offset: u64,
        left: u64,
    },
    /// All of the file from `offset`, however much that is.
    ToEnd { file: Arc<File>, offset: u64 },
    /// `left` bytes, which repeat [`PATTERN`].
    Pattern { left: u64 },
    /// What another process sends, as it comes.
    Stream(Streamed),
}

/// What an application sends.
struct Streamed(Pin<Box<dyn HttpBody<Data = Bytes, Error = io::Error>>>);

impl fmt::Debug for Streamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Streamed")
    }
}

impl Body {
    /// No bytes.
    pub fn empty() -> Self {
        Self(Source::Memory(Bytes::new()))
    }

    /// `length` bytes of `file` from `offset`. If the file turns out shorter, the body ends with
    /// `UnexpectedEof`. If it has grown, the body does not include the growth.
    pub fn file(file: Arc<File>, offset: u64, length: u64) -> Self {
        Self(Source::File {
            file,
            offset,
            left: length,
        })
    }

    /// All of `file`, up to its end at the time of reading.
    pub fn to_end(file: Arc<File>) -> Self {
        Self(Source::ToEnd { file, offset: 0 })
    }

    /// `length` bytes of a fixed printable pattern.
    pub fn pattern(length: u64) -> Self {
        Self(Source::Pattern { left: length })
    }

    /// What `stream` brings, as it comes.
    pub fn stream(stream: impl HttpBody<Data = Bytes, Error = io::Error> + 'static) -> Self {
        Self(Source::Stream(Streamed(Box::pin(stream))))
    }

    /// Whether it keeps a file open until it is dropped.
    pub fn holds_file(&self) -> bool {
        matches!(self.0, Source::File { .. } | Source::ToEnd { .. })
    }

    /// The bytes, if they are in memory.
    pub fn in_memory(self) -> Option<Bytes> {
        match self.0 {
            Source::Memory(bytes) => Some(bytes),
            Source::File { .. }
            | Source::ToEnd { .. }
            | Source::Pattern { .. }
            | Source::Stream(_) => None,
        }
    }

    /// How many bytes are still to come, if that is known.
    pub fn remaining(&self) -> Option<u64> {
        match &self.0 {
            Source::Memory(bytes) => Some(bytes.len() as u64),
            Source::File { left, .. } | Source::Pattern { left } => Some(*left),
            Source::ToEnd { .. } => None,
            Source::Stream(Streamed(stream)) => stream.size_hint().exact(),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(Source::Memory(bytes))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Source::Stream(Streamed(stream)) = &mut self.0 {
            return stream.as_mut().poll_frame(cx);
        }
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        let chunk = match &mut self.0 {
            Source::Memory(bytes) => Ok(std::mem::take(bytes)),
            Source::Pattern { left } => {
                let length = chunk_length(*left);
                *left -= length as u64;
                Ok(Bytes::from_static(&PATTERN[..length]))
            }
            Source::File { file, offset, left } => read(file, *offset, *left).inspect(|chunk| {
                *offset += chunk.len() as u64;
                *left -= chunk.len() as u64;
            }),
            Source::ToEnd { file, offset } => match read_chunk(file, *offset, CHUNK_BYTES) {
                Ok(chunk) if chunk.is_empty() => {
                    self.0 = Source::Memory(Bytes::new());
                    return Poll::Ready(None);
                }
                read => read.inspect(|chunk| *offset += chunk.len() as u64),
            },
            Source::Stream(_) => return Poll::Ready(None),
        };
        if chunk.is_err() {
            self.0 = Source::Memory(Bytes::new());
        }
        Poll::Ready(Some(chunk.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Stream(Streamed(stream)) => stream.is_end_stream(),
            _ => self.remaining() == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining()
            .map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

/// Reads at most one chunk. An empty one is an error, since the header promised `left` more bytes.
fn read(file: &File, offset: u64, left: u64) -> io::Result<Bytes> {
    let chunk = read_chunk(file, offset, chunk_length(left))?;
    if chunk.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!(
                "read file at byte {offset}: it ends {left} bytes early: a process truncated it while srv sent it"
            ),
        ));
    }
    Ok(chunk)
}

fn read_chunk(file: &File, offset: u64, most_bytes: usize) -> io::Result<Bytes> {
    let mut chunk = Vec::with_capacity(most_bytes);
    rustix::io::retry_on_intr(|| rustix::io::pread(file, spare_capacity(&mut chunk), offset))?;
    Ok(chunk.into())
}

fn chunk_length(left: u64) -> usize {
    left.min(CHUNK_BYTES as u64) as usize
}

const fn pattern() -> [u8; CHUNK_BYTES] {
    const LINE: &[u8; 64] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+\n";
    let mut bytes = [0; CHUNK_BYTES];
    let mut at = 0;
    while at < CHUNK_BYTES {
        bytes[at] = LINE[at % LINE.len()];
        at += 1;
    }
    bytes
}

#[cfg(test)]
impl Body {
    /// Everything to its end.
    ///
    /// # Errors
    /// The file cannot be read, or is shorter than was announced.
    pub fn collect(mut self) -> io::Result<Vec<u8>> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut all = Vec::new();
        loop {
            let announced = self.remaining();
            assert_eq!(self.size_hint().exact(), announced);
            match Pin::new(&mut self).poll_frame(&mut context) {
                Poll::Ready(None) => {
                    assert_eq!(announced.unwrap_or(0), 0, "it ends when nothing is left");
                    return Ok(all);
                }
                Poll::Ready(Some(frame)) => {
                    let data = frame?.into_data().expect("only data frames");
                    let length = data.len() as u64;
                    assert!((1..=announced.unwrap_or(u64::MAX)).contains(&length));
                    assert_eq!(self.remaining(), announced.map(|before| before - length));
                    all.extend_from_slice(&data);
                }
                Poll::Pending => panic!("a body blocks, it never waits"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(content: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        Arc::new(file)
    }

    #[test]
    fn memory_comes_in_one_piece() {
        assert!(Body::empty().is_end_stream());
        let body = Body::from(Bytes::from_static(b"hello"));
        assert!(!body.is_end_stream());
        assert_eq!(body.collect().unwrap(), b"hello");
    }

    #[test]
    fn file_comes_in_chunks_and_only_the_part_asked_for() {
        let content: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        let file = file(&content);
        let part = Body::file(file.clone(), 7, 150_000).collect().unwrap();
        assert_eq!(part, content[7..150_007]);
        assert!(Body::file(file, 0, 0).is_end_stream());
    }

    #[test]
    fn file_cut_short_is_an_error_and_the_end() {
        let mut body = Body::file(file(b"abc"), 0, 10);
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut next = || Pin::new(&mut body).poll_frame(&mut context);
        assert!(matches!(next(), Poll::Ready(Some(Ok(_)))));
        let Poll::Ready(Some(Err(error))) = next() else {
            panic!("a promise of 10 bytes cannot be kept with 3");
        };
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(matches!(next(), Poll::Ready(None)));
    }

    #[test]
    fn a_file_without_a_size_comes_to_its_end() {
        let content = vec![b'x'; 2 * CHUNK_BYTES + 7];
        let body = Body::to_end(file(&content));
        assert!(!body.is_end_stream());
        assert_eq!(body.collect().unwrap(), content);
        assert_eq!(Body::to_end(file(b"")).collect().unwrap(), b"");
    }

    #[test]
    fn pattern_is_as_long_as_asked() {
        for length in [0, 1, 64, 65_536, 65_537, 1_000_000] {
            let all = Body::pattern(length).collect().unwrap();
            assert_eq!(all.len() as u64, length);
            assert!(all.is_ascii());
        }
    }
}
