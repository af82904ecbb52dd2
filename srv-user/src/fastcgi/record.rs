//! Records: their header, the encoder, and the incremental decoder. Knows no order of records.

use bytes::{Buf, Bytes};

use super::Fault;

/// The length of a record's header.
pub const HEADER_BYTES: usize = 8;

/// The longest content of one record.
pub const CONTENT_BYTES: usize = u16::MAX as usize;

const VERSION: u8 = 1;

/// The type of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// FCGI_BEGIN_REQUEST
    BeginRequest,
    /// FCGI_ABORT_REQUEST
    AbortRequest,
    /// FCGI_END_REQUEST
    EndRequest,
    /// FCGI_PARAMS
    Params,
    /// FCGI_STDIN
    Stdin,
    /// FCGI_STDOUT
    Stdout,
    /// FCGI_STDERR
    Stderr,
    /// FCGI_DATA
    Data,
    /// FCGI_GET_VALUES
    GetValues,
    /// FCGI_GET_VALUES_RESULT
    GetValuesResult,
    /// FCGI_UNKNOWN_TYPE
    UnknownType,
    /// A type that the protocol does not have.
    Other(u8),
}

impl Kind {
    /// The number on the wire.
    pub const fn code(self) -> u8 {
        match self {
            Self::BeginRequest => 1,
            Self::AbortRequest => 2,
            Self::EndRequest => 3,
            Self::Params => 4,
            Self::Stdin => 5,
            Self::Stdout => 6,
            Self::Stderr => 7,
            Self::Data => 8,
            Self::GetValues => 9,
            Self::GetValuesResult => 10,
            Self::UnknownType => 11,
            Self::Other(code) => code,
        }
    }

    /// The type with this number on the wire.
    pub const fn of(code: u8) -> Self {
        match code {
            1 => Self::BeginRequest,
            2 => Self::AbortRequest,
            3 => Self::EndRequest,
            4 => Self::Params,
            5 => Self::Stdin,
            6 => Self::Stdout,
            7 => Self::Stderr,
            8 => Self::Data,
            9 => Self::GetValues,
            10 => Self::GetValuesResult,
            11 => Self::UnknownType,
            code => Self::Other(code),
        }
    }
}

/// The header of a record with `content_bytes` of content and no padding.
pub const fn header(kind: Kind, request_id: u16, content_bytes: u16) -> [u8; HEADER_BYTES] {
    let [id_1, id_0] = request_id.to_be_bytes();
    let [length_1, length_0] = content_bytes.to_be_bytes();
    [VERSION, kind.code(), id_1, id_0, length_1, length_0, 0, 0]
}

/// Appends `content` as one record, or as several if it is longer than one can be. Without content
/// that is none: an empty record would end the stream ([`put_end_of_stream`]).
pub fn put(out: &mut Vec<u8>, kind: Kind, request_id: u16, content: &[u8]) {
    for content in content.chunks(CONTENT_BYTES) {
        // A chunk is at most as long as the type can say.
        out.extend_from_slice(&header(kind, request_id, content.len() as u16));
        out.extend_from_slice(content);
    }
}

/// Appends the empty record that ends a stream.
pub fn put_end_of_stream(out: &mut Vec<u8>, kind: Kind, request_id: u16) {
    out.extend_from_slice(&header(kind, request_id, 0));
}

/// A part of a record's content: records are not collected, so a large one costs no memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The record's type.
    pub kind: Kind,
    /// The record's request; 0 for records about the connection.
    pub request_id: u16,
    /// This is empty only if the whole record is.
    pub content: Bytes,
    /// The length of the record's whole content.
    pub record_bytes: u16,
    /// Whether the record's content ends here.
    pub is_last: bool,
}

impl Fragment {
    /// Whether the record has no content, which ends a stream.
    pub fn is_end_of_stream(&self) -> bool {
        self.record_bytes == 0
    }
}

/// Takes records apart, in whatever portions their bytes arrive.
#[derive(Debug, Default)]
pub struct Decoder {
    header: [u8; HEADER_BYTES],
    /// How much of the header is there.
    header_filled: usize,
    /// What the record still has, once its header is complete.
    content_left: usize,
    padding_left: usize,
}

impl Decoder {
    /// Takes the next fragment off `input`. `None`: all of `input` is used up.
    ///
    /// # Errors
    /// The bytes are no records of version 1.
    pub fn decode(&mut self, input: &mut Bytes) -> Result<Option<Fragment>, Fault> {
        loop {
            if self.header_filled == HEADER_BYTES && self.content_left == 0 {
                let skipped = self.padding_left.min(input.len());
                input.advance(skipped);
                self.padding_left -= skipped;
                if self.padding_left > 0 {
                    return Ok(None);
                }
                self.header_filled = 0;
            }
            if input.is_empty() {
                return Ok(None);
            }
            if self.header_filled < HEADER_BYTES {
                if !self.fill_header(input)? {
                    return Ok(None);
                }
                if self.content_left > 0 {
                    continue;
                }
                return Ok(Some(self.fragment(Bytes::new())));
            }
            let length = self.content_left.min(input.len());
            self.content_left -= length;
            return Ok(Some(self.fragment(input.split_to(length))));
        }
    }

    /// Whether the bytes so far end with a record.
    pub fn is_between_records(&self) -> bool {
        let is_complete = self.content_left == 0 && self.padding_left == 0;
        self.header_filled == 0 || (self.header_filled == HEADER_BYTES && is_complete)
    }

    /// Takes what the header lacks. Returns whether it is complete.
    fn fill_header(&mut self, input: &mut Bytes) -> Result<bool, Fault> {
        let length = (HEADER_BYTES - self.header_filled).min(input.len());
        input.copy_to_slice(&mut self.header[self.header_filled..][..length]);
        self.header_filled += length;
        if self.header[0] != VERSION {
            return Err(Fault::Version(self.header[0]));
        }
        if self.header_filled < HEADER_BYTES {
            return Ok(false);
        }
        self.content_left = usize::from(self.record_bytes());
        self.padding_left = usize::from(self.header[6]);
        Ok(true)
    }

    fn record_bytes(&self) -> u16 {
        u16::from_be_bytes([self.header[4], self.header[5]])
    }

    fn fragment(&self, content: Bytes) -> Fragment {
        Fragment {
            kind: Kind::of(self.header[1]),
            request_id: u16::from_be_bytes([self.header[2], self.header[3]]),
            content,
            record_bytes: self.record_bytes(),
            is_last: self.content_left == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a decoder makes of `bytes` that arrive in portions of `portion` bytes.
    fn decode(bytes: &[u8], portion: usize) -> Result<Vec<(Kind, u16, Vec<u8>)>, Fault> {
        let mut decoder = Decoder::default();
        let mut records = Vec::new();
        let mut content = Vec::new();
        for portion in bytes.chunks(portion) {
            let mut input = Bytes::copy_from_slice(portion);
            while let Some(fragment) = decoder.decode(&mut input)? {
                content.extend_from_slice(&fragment.content);
                if fragment.is_last {
                    assert_eq!(content.len(), usize::from(fragment.record_bytes));
                    let whole = std::mem::take(&mut content);
                    records.push((fragment.kind, fragment.request_id, whole));
                }
            }
            assert!(input.is_empty(), "all of it is used up");
        }
        Ok(records)
    }

    #[test]
    fn the_wire_is_that_of_the_specification() {
        let mut out = Vec::new();
        put(&mut out, Kind::Stdout, 0x0102, b"abc");
        put_end_of_stream(&mut out, Kind::Stdout, 0x0102);
        assert_eq!(
            out,
            b"\x01\x06\x01\x02\x00\x03\x00\x00abc\x01\x06\x01\x02\0\0\0\0"
        );
    }

    #[test]
    fn padding_is_skipped() {
        let bytes =
            b"\x01\x06\x00\x01\x00\x01\x03\x00a\xff\xff\xff\x01\x06\x00\x01\0\0\x02\0\xff\xff";
        let records = vec![
            (Kind::Stdout, 1, b"a".to_vec()),
            (Kind::Stdout, 1, Vec::new()),
        ];
        for portion in 1..=bytes.len() {
            assert_eq!(decode(bytes, portion).unwrap(), records, "{portion}");
        }
    }

    #[test]
    fn what_is_too_long_for_one_record_becomes_several() {
        let mut out = Vec::new();
        put(&mut out, Kind::Stdin, 1, &vec![7; CONTENT_BYTES + 1]);
        let lengths: Vec<_> = decode(&out, 1 << 20)
            .unwrap()
            .into_iter()
            .map(|it| it.2.len())
            .collect();
        assert_eq!(lengths, [CONTENT_BYTES, 1]);
        out.clear();
        put(&mut out, Kind::Stdin, 1, b"");
        assert!(out.is_empty(), "an empty record would end the stream");
    }

    #[test]
    fn another_version_is_found_at_its_first_byte() {
        assert_eq!(decode(b"H", 1), Err(Fault::Version(b'H')));
        assert_eq!(decode(b"\x02", 1), Err(Fault::Version(2)));
    }

    proptest! {
        #[test]
        fn records_come_back(
            records in prop::collection::vec((0..=13_u8, any::<u16>(), prop::collection::vec(any::<u8>(), 1..300)), 0..8),
            portion in 1..400_usize,
        ) {
            let mut out = Vec::new();
            let mut expected = Vec::new();
            for (kind, id, content) in records {
                put(&mut out, Kind::of(kind), id, &content);
                expected.push((Kind::of(kind), id, content));
            }
            prop_assert_eq!(decode(&out, portion).unwrap(), expected);
        }

        #[test]
        fn any_bytes_give_records_or_a_fault(bytes in prop::collection::vec(any::<u8>(), 0..200), portion in 1..50_usize) {
            let bytes = [b"\x01".to_vec(), bytes].concat();
            prop_assert_eq!(decode(&bytes, portion), decode(&bytes, bytes.len()));
        }

        #[test]
        fn kinds_come_back(code: u8) {
            prop_assert_eq!(Kind::of(code).code(), code);
        }
    }
}
