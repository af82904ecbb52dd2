//! Where a body ends: its bytes are counted and then forgotten.

use anyhow::{Context as _, Result, bail, ensure};

use super::Framing;

/// Longest line that tells a chunk's size or is part of the trailer section, bytes.
const LINE_BYTES_MAX: usize = 64 << 10;

/// What is still to come of a body.
#[derive(Debug)]
pub(super) enum Body {
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked(Chunks),
    /// Whatever comes until the connection ends.
    Connection,
}

impl Body {
    pub(super) fn of(framing: Framing) -> Self {
        match framing {
            Framing::Length(bytes) => Self::Length(bytes),
            Framing::Chunked => Self::Chunked(Chunks::default()),
            Framing::Connection => Self::Connection,
        }
    }

    /// Takes the body's next bytes; how many were not the body's, once it is complete.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<Option<usize>> {
        match self {
            Self::Length(left) => {
                let taken = (*left).min(bytes.len() as u64);
                *left -= taken;
                Ok((*left == 0).then_some(bytes.len() - taken as usize))
            }
            Self::Chunked(chunks) => chunks.take(bytes),
            Self::Connection => Ok(None),
        }
    }
}

/// The chunked transfer coding (RFC 9112, section 7.1). Not
/// `httparse::parse_chunk_size`: it refuses a line that ends with LF alone, which
/// curl accepts.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    next: Part,
    /// What came of a line that was incomplete.
    line: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Part {
    #[default]
    Size,
    /// So many bytes of a chunk.
    Data(u64),
    DataEnd,
    Trailer,
}

impl Chunks {
    fn take(&mut self, mut bytes: &[u8]) -> Result<Option<usize>> {
        loop {
            if let Part::Data(left) = &mut self.next {
                let taken = (*left).min(bytes.len() as u64);
                *left -= taken;
                bytes = &bytes[taken as usize..];
                if *left > 0 {
                    return Ok(None);
                }
                self.next = Part::DataEnd;
            }
            let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
                self.line.extend_from_slice(bytes);
                ensure!(
                    self.line.len() <= LINE_BYTES_MAX,
                    "a line between chunks is longer than {LINE_BYTES_MAX} bytes"
                );
                return Ok(None);
            };
            self.line.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            if self.end_line()? {
                return Ok(Some(bytes.len()));
            }
        }
    }

    /// A line is complete; whether the body is.
    fn end_line(&mut self) -> Result<bool> {
        let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        self.next = match self.next {
            Part::Size => match size(line)? {
                0 => Part::Trailer,
                bytes => Part::Data(bytes),
            },
            Part::DataEnd if line.is_empty() => Part::Size,
            Part::DataEnd => bail!("a chunk is longer than its size says"),
            Part::Trailer if line.is_empty() => return Ok(true),
            Part::Trailer => Part::Trailer,
            Part::Data(_) => unreachable!("data has no lines"),
        };
        self.line.clear();
        Ok(false)
    }
}

/// The number at the start of a chunk's first line; extensions may follow it.
fn size(line: &[u8]) -> Result<u64> {
    let end = line.iter().position(|byte| b"; \t".contains(byte));
    let digits = &line[..end.unwrap_or(line.len())];
    std::str::from_utf8(digits)
        .ok()
        .filter(|digits| !digits.starts_with('+'))
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .with_context(|| format!("`{}` is not a chunk's size", String::from_utf8_lossy(line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNKED: &[u8] = b"5;name=value\r\nhello\r\n00A\n0123456789\n0\r\nTrailer: x\r\n\r\n";

    #[test]
    fn a_chunked_body_ends_at_the_same_byte_wherever_it_is_cut() {
        for cut in 0..CHUNKED.len() {
            let mut body = Body::of(Framing::Chunked);
            assert_eq!(body.take(&CHUNKED[..cut]).unwrap(), None, "cut at {cut}");
            let rest = [&CHUNKED[cut..], b"next"].concat();
            assert_eq!(body.take(&rest).unwrap(), Some(4), "cut at {cut}");
        }
    }

    #[test]
    fn a_chunk_that_is_none_is_refused() {
        for bytes in [
            "hello\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x1\r\n",
            "\r\n",
            "2\r\nabc\r\n",
        ] {
            let mut body = Body::of(Framing::Chunked);
            assert!(body.take(bytes.as_bytes()).is_err(), "{bytes}");
        }
        assert!(size(b"fffffffffffffffff").is_err());
        let mut body = Body::of(Framing::Chunked);
        assert!(body.take(&vec![b'0'; LINE_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn a_length_is_counted() {
        let mut body = Body::of(Framing::Length(3));
        assert_eq!(body.take(b"ab").unwrap(), None);
        assert_eq!(body.take(b"cd").unwrap(), Some(1));
        assert_eq!(Body::of(Framing::Length(0)).take(b"").unwrap(), Some(0));
        assert_eq!(Body::of(Framing::Connection).take(b"x").unwrap(), None);
    }
}
