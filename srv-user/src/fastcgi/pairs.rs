//! Name-value pairs, of which the parameters of a request consist. A length is one byte up to 127,
//! and four bytes beyond.

use bytes::{Buf, Bytes};

use super::Fault;

/// Appends a pair.
pub fn put(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    put_lengths(out, name.len(), value.len());
    out.extend_from_slice(name);
    out.extend_from_slice(value);
}

/// Appends the lengths of a pair, which the caller appends after them.
pub fn put_lengths(out: &mut Vec<u8>, name_bytes: usize, value_bytes: usize) {
    put_length(out, name_bytes);
    put_length(out, value_bytes);
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    match u8::try_from(length) {
        Ok(short @ 0..=127) => out.push(short),
        // The bounds of headers keep every length below this.
        _ => out.extend_from_slice(&(length.min(0x7fff_ffff) as u32 | 0x8000_0000).to_be_bytes()),
    }
}

/// Takes apart a stream of pairs that is there as a whole. The pairs share its memory.
///
/// # Errors
/// A length leads beyond the end.
pub fn parse(mut stream: Bytes) -> Result<Vec<(Bytes, Bytes)>, Fault> {
    let mut pairs = Vec::new();
    while !stream.is_empty() {
        let name = take_length(&mut stream)?;
        let value = take_length(&mut stream)?;
        // Each is below 2^31, so that the sum does not overflow.
        if name + value > stream.len() {
            return Err(Fault::Pairs);
        }
        pairs.push((stream.split_to(name), stream.split_to(value)));
    }
    Ok(pairs)
}

fn take_length(stream: &mut Bytes) -> Result<usize, Fault> {
    match stream.first() {
        Some(short @ 0..=127) => {
            let length = usize::from(*short);
            stream.advance(1);
            Ok(length)
        }
        Some(_) if stream.len() >= 4 => Ok((stream.get_u32() & 0x7fff_ffff) as usize),
        _ => Err(Fault::Pairs),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_take_one_byte_or_four() {
        let mut out = Vec::new();
        put(&mut out, b"A", &[b'x'; 127]);
        assert_eq!(out[..3], [1, 127, b'A']);
        out.clear();
        put(&mut out, b"A", &[b'x'; 128]);
        assert_eq!(out[..6], [1, 0x80, 0, 0, 128, b'A']);
    }

    #[test]
    fn a_length_beyond_the_end_is_a_fault() {
        for bytes in [
            &b"\x01"[..],
            b"\x01\x01a",
            b"\x80\x00\x00",
            b"\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x00\xff\xff\xff\xff",
        ] {
            assert_eq!(
                parse(Bytes::copy_from_slice(bytes)),
                Err(Fault::Pairs),
                "{bytes:?}"
            );
        }
        // Unusual, but valid.
        assert_eq!(
            parse(Bytes::from_static(b"\0\0")).unwrap(),
            [(Bytes::new(), Bytes::new())]
        );
        assert_eq!(parse(Bytes::new()).unwrap(), []);
    }

    proptest! {
        #[test]
        fn pairs_come_back(pairs in prop::collection::vec((0..300_usize, 0..300_usize), 0..6)) {
            let mut out = Vec::new();
            let mut expected = Vec::new();
            for (nth, (name, value)) in pairs.into_iter().enumerate() {
                let pair = (Bytes::from(vec![nth as u8; name]), Bytes::from(vec![!nth as u8; value]));
                put(&mut out, &pair.0, &pair.1);
                expected.push(pair);
            }
            prop_assert_eq!(parse(out.into()).unwrap(), expected);
        }

        #[test]
        fn any_bytes_give_pairs_or_a_fault(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(pairs) = parse(bytes.clone().into()) {
                let sum: usize = pairs.iter().map(|(name, value)| name.len() + value.len()).sum();
                prop_assert!(sum + 2 * pairs.len() <= bytes.len());
            }
        }
    }
}
