//! Hostile input for tests: real inputs that were cut, spliced and changed.
//! Random bytes alone are refused by the first comparison of any parser.

use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::RngSeed;

/// As many cases as `PROPTEST_CASES` asks for (256 if it does not), the same in
/// each run unless `PROPTEST_RNG_SEED` asks for others.
pub(crate) fn config() -> ProptestConfig {
    let asked = ProptestConfig::default();
    ProptestConfig {
        rng_seed: match asked.rng_seed {
            RngSeed::Random => RngSeed::Fixed(0),
            fixed => fixed,
        },
        failure_persistence: None,
        ..asked
    }
}

/// One of the seeds with up to eight changes, in a type that is shown as text.
pub(crate) fn mutated<S: AsRef<[u8]>>(seeds: impl IntoIterator<Item = S>) -> BoxedStrategy<Bytes> {
    let seeds: Vec<Vec<u8>> = seeds.into_iter().map(|seed| seed.as_ref().into()).collect();
    let edits = prop::collection::vec(edit(seeds.clone()), 0..=8);
    let change = |(mut bytes, edits): (Vec<u8>, Vec<Edit>)| {
        edits.iter().for_each(|edit| edit.apply(&mut bytes));
        Bytes::from(bytes)
    };
    (prop::sample::select(seeds), edits)
        .prop_map(change)
        .boxed()
}

/// As [`mutated`]; what is not UTF-8 is replaced.
pub(crate) fn mutated_text<S: AsRef<[u8]>>(
    seeds: impl IntoIterator<Item = S>,
) -> BoxedStrategy<String> {
    let text = |bytes: Bytes| String::from_utf8_lossy(&bytes).into_owned();
    mutated(seeds).prop_map(text).boxed()
}

/// A change of bytes.
#[derive(Clone, Debug)]
enum Edit {
    /// Changes bits of one byte.
    Flip(Index, u8),
    /// Sets four bytes: a length or an offset in a binary format.
    Set(Index, u32),
    /// Removes what is between two places.
    Cut(Index, Index),
    /// Puts bytes in.
    Insert(Index, Vec<u8>),
}

fn edit(donors: Vec<Vec<u8>>) -> impl Strategy<Value = Edit> {
    let any_place = any::<Index>;
    let word = prop_oneof![
        prop::sample::select(vec![0, u32::MAX, 1 << 31, i32::MAX as u32]),
        0..64u32,
        any::<u32>(),
    ];
    let part = |(donor, from, to): (Vec<u8>, Index, Index)| donor[range(&donor, from, to)].to_vec();
    let spliced = (prop::sample::select(donors), any_place(), any_place()).prop_map(part);
    let inserted = prop_oneof![3 => spliced, 1 => prop::collection::vec(any::<u8>(), 1..16)];
    prop_oneof![
        (any_place(), 1..=u8::MAX).prop_map(|(at, bits)| Edit::Flip(at, bits)),
        (any_place(), word).prop_map(|(at, word)| Edit::Set(at, word)),
        (any_place(), any_place()).prop_map(|(from, to)| Edit::Cut(from, to)),
        (any_place(), inserted).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
    ]
}

impl Edit {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let length = bytes.len();
        match self {
            Self::Flip(at, bits) => {
                if let Some(byte) = bytes.get_mut(at.index(length + 1)) {
                    *byte ^= bits;
                }
            }
            Self::Set(at, word) => {
                // Words of binary formats are aligned.
                let at = at.index(length + 1) / 4 * 4;
                if let Some(place) = bytes.get_mut(at..at + 4) {
                    place.copy_from_slice(&word.to_ne_bytes());
                }
            }
            Self::Cut(from, to) => drop(bytes.drain(range(bytes, *from, *to))),
            Self::Insert(at, inserted) => {
                let at = at.index(length + 1);
                bytes.splice(at..at, inserted.iter().copied());
            }
        }
    }
}

fn range(bytes: &[u8], from: Index, to: Index) -> std::ops::Range<usize> {
    let (from, to) = (from.index(bytes.len() + 1), to.index(bytes.len() + 1));
    from.min(to)..from.max(to)
}
