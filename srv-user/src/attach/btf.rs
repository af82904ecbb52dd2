//! The type information of the kernel (BTF): the offset of a field in a structure. This module
//! reads as much of the format as that needs (Documentation/bpf/btf.rst). The parser of aya does not
//! give access to the members of structures. The crates that do have licences that srv does not
//! accept, or do not know the kernels of the last years.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use anyhow::{Context as _, bail, ensure};

/// The file in which a kernel with `CONFIG_DEBUG_INFO_BTF` shows its type information.
pub(crate) const KERNEL: &str = "/sys/kernel/btf/vmlinux";

/// Parsed type information.
pub(crate) struct Btf {
    bytes: Vec<u8>,
    strings: Range<usize>,
    /// Where the record of each type begins. Types are numbered from 1.
    records: Vec<usize>,
    structs: HashMap<String, u32>,
}

const MAGIC: u16 = 0xeb9f;
const RECORD_BYTES: usize = 12;
const MEMBER_BYTES: usize = 12;

mod kind {
    pub(crate) const INT: u32 = 1;
    pub(crate) const ARRAY: u32 = 3;
    pub(crate) const STRUCT: u32 = 4;
    pub(crate) const UNION: u32 = 5;
    pub(crate) const ENUM: u32 = 6;
    pub(crate) const TYPEDEF: u32 = 8;
    pub(crate) const VOLATILE: u32 = 9;
    pub(crate) const CONST: u32 = 10;
    pub(crate) const RESTRICT: u32 = 11;
    pub(crate) const FUNC: u32 = 12;
    pub(crate) const FUNC_PROTO: u32 = 13;
    pub(crate) const VAR: u32 = 14;
    pub(crate) const DATASEC: u32 = 15;
    pub(crate) const DECL_TAG: u32 = 17;
    pub(crate) const TYPE_TAG: u32 = 18;
    pub(crate) const ENUM64: u32 = 19;
}

/// The record of a type, without its name.
struct Record {
    kind: u32,
    count: usize,
    has_bit_fields: bool,
    /// The size in bytes, or the type to which this one refers.
    size_or_type: u32,
}

/// A member of a structure.
struct Member {
    /// Where its name begins, among the strings.
    name: u32,
    /// Its type.
    of: u32,
    /// Its offset, in bits. The width of a bit field, which is in the bits above, is removed.
    bits: u32,
}

impl Btf {
    /// The type information of the running kernel.
    ///
    /// # Errors
    /// The kernel has none, or it cannot be read.
    pub(crate) fn of_kernel() -> anyhow::Result<Self> {
        let bytes = std::fs::read(KERNEL).with_context(|| {
            format!("read {KERNEL} (this needs a kernel built with CONFIG_DEBUG_INFO_BTF=y)")
        })?;
        Self::parse(bytes).with_context(|| format!("parse {KERNEL}"))
    }

    /// Parses type information.
    ///
    /// # Errors
    /// It is no BTF of the byte order of this machine, or it ends too early.
    pub(crate) fn parse(bytes: Vec<u8>) -> anyhow::Result<Self> {
        let magic = bytes.get(..2).context("it is empty")?;
        ensure!(
            magic == MAGIC.to_ne_bytes(),
            "it does not begin with the magic number of BTF"
        );
        let header = word(&bytes, 4)? as usize;
        let section = |at: usize| -> anyhow::Result<Range<usize>> {
            let from = header + word(&bytes, at)? as usize;
            let to = from + word(&bytes, at + 4)? as usize;
            ensure!(to <= bytes.len(), "it is shorter than its header says");
            Ok(from..to)
        };
        let (types, strings) = (section(8)?, section(16)?);
        let mut this = Self {
            bytes,
            strings,
            records: Vec::new(),
            structs: HashMap::new(),
        };
        this.index(types)?;
        Ok(this)
    }

    /// The offset in bytes of a field that is named by its path, such as `eventpoll.wq.head`. The
    /// path leaves out anonymous members.
    ///
    /// # Errors
    /// There is no such structure or field; the error names it.
    pub(crate) fn offset(&self, path: &str) -> anyhow::Result<u32> {
        let mut names = path.split('.');
        let name = names.next().unwrap_or_default();
        let found = self.structs.get(name);
        let mut at = *found.with_context(|| format!("the kernel has no struct {name}"))?;
        let mut offset = 0u32;
        for name in names {
            let member = self.member(at, name)?;
            let (bits, of) =
                member.with_context(|| format!("the kernel has no field {name} in {path}"))?;
            ensure!(bits % 8 == 0, "{path} is a bit field");
            let inner = offset.checked_add(bits / 8);
            offset = inner.with_context(|| format!("the offset of {path} is too large"))?;
            at = of;
        }
        Ok(offset)
    }

    /// The number of the type of a function.
    ///
    /// # Errors
    /// There is no such function; the error names it.
    pub(crate) fn function(&self, name: &str) -> anyhow::Result<u32> {
        for (nth, at) in self.records.iter().enumerate() {
            if self.record(*at)?.kind == kind::FUNC && self.name(word(&self.bytes, *at)?)? == name {
                return Ok(nth as u32 + 1);
            }
        }
        bail!("the kernel has no function {name}")
    }

    /// Finds each record, and the structures by name.
    fn index(&mut self, types: Range<usize>) -> anyhow::Result<()> {
        let mut at = types.start;
        while at < types.end {
            let record = self.record(at)?;
            self.records.push(at);
            if record.kind == kind::STRUCT {
                let name = self.name(word(&self.bytes, at)?)?.to_owned();
                let id = self.records.len() as u32;
                // A later structure of the same name belongs to a module, or is a variant.
                self.structs.entry(name).or_insert(id);
            }
            at += RECORD_BYTES + record.trailing_bytes()?;
        }
        Ok(())
    }

    fn record(&self, at: usize) -> anyhow::Result<Record> {
        let info = word(&self.bytes, at + 4)?;
        Ok(Record {
            kind: info >> 24 & 0x1f,
            count: (info & 0xffff) as usize,
            has_bit_fields: info >> 31 == 1,
            size_or_type: word(&self.bytes, at + 8)?,
        })
    }

    fn place_of(&self, id: u32) -> anyhow::Result<usize> {
        let nth = (id as usize)
            .checked_sub(1)
            .context("void has no members")?;
        let place = self.records.get(nth).copied();
        place.with_context(|| format!("there is no type {id}"))
    }

    fn name(&self, offset: u32) -> anyhow::Result<&str> {
        let strings = &self.bytes[self.strings.clone()];
        let from = strings
            .get(offset as usize..)
            .context("a name is outside of the strings")?;
        let end = from.iter().position(|byte| *byte == 0);
        Ok(std::str::from_utf8(&from[..end.unwrap_or(from.len())])?)
    }

    /// The offset in bits and the type of a member of a structure or of its anonymous members. Each
    /// anonymous member is searched once, so that the search ends even if type information refers
    /// to itself.
    fn member(&self, id: u32, name: &str) -> anyhow::Result<Option<(u32, u32)>> {
        let mut seen = HashSet::new();
        let mut parts = vec![(id, 0u32)];
        while let Some((id, base)) = parts.pop() {
            let id = self.without_qualifiers(id)?;
            if !seen.insert(id) {
                continue;
            }
            for member in self.members(id)? {
                let Member { name: at, of, bits } = member?;
                let bits = base
                    .checked_add(bits)
                    .context("the offset of a field is too large")?;
                let its_name = self.name(at)?;
                if its_name == name {
                    return Ok(Some((bits, of)));
                }
                if its_name.is_empty() {
                    parts.push((of, bits));
                }
            }
        }
        Ok(None)
    }

    /// The members of a structure or union. Other types have none.
    fn members(
        &self,
        id: u32,
    ) -> anyhow::Result<impl Iterator<Item = anyhow::Result<Member>> + use<'_>> {
        let place = self.place_of(id)?;
        let record = self.record(place)?;
        let count = match record.kind {
            kind::STRUCT | kind::UNION => record.count,
            _ => 0,
        };
        let mask = match record.has_bit_fields {
            true => 0xff_ffff,
            false => u32::MAX,
        };
        Ok((0..count).map(move |nth| {
            let at = place + RECORD_BYTES + nth * MEMBER_BYTES;
            Ok(Member {
                name: word(&self.bytes, at)?,
                of: word(&self.bytes, at + 4)?,
                bits: word(&self.bytes, at + 8)? & mask,
            })
        }))
    }

    /// The type behind typedefs and qualifiers.
    fn without_qualifiers(&self, mut id: u32) -> anyhow::Result<u32> {
        const MAX_DEPTH: u32 = 32;
        for _ in 0..MAX_DEPTH {
            let record = self.record(self.place_of(id)?)?;
            match record.kind {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    id = record.size_or_type;
                }
                _ => return Ok(id),
            }
        }
        bail!("type {id} refers to itself")
    }
}

impl Record {
    /// The number of bytes that follow the record and belong to it.
    fn trailing_bytes(&self) -> anyhow::Result<usize> {
        Ok(match self.kind {
            kind::INT | kind::VAR | kind::DECL_TAG => 4,
            kind::ARRAY => 12,
            kind::STRUCT | kind::UNION => MEMBER_BYTES * self.count,
            kind::ENUM | kind::FUNC_PROTO => 8 * self.count,
            kind::DATASEC | kind::ENUM64 => 12 * self.count,
            0 | 20.. => bail!(
                "it has a type of kind {}, which srv does not know",
                self.kind
            ),
            _ => 0,
        })
    }
}

fn word(bytes: &[u8], at: usize) -> anyhow::Result<u32> {
    let word = bytes.get(at..at + 4).context("it ends too early")?;
    Ok(u32::from_ne_bytes(word.try_into()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::attach::offsets;
    use crate::mutation::{config, mutated};

    #[test]
    fn what_is_no_btf_is_refused() {
        for bytes in [
            &b""[..],
            b"ELF",
            &[0x9f, 0xeb],
            &[0x9f, 0xeb, 1, 0, 24, 0, 0, 0],
        ] {
            assert!(Btf::parse(bytes.to_vec()).is_err());
        }
    }

    /// `struct outer { int a; union { struct { int b; }; const typedef_t c; }; }`,
    /// where typedef_t is `struct inner { int d; int e; }`.
    fn sample() -> Vec<u8> {
        let strings = b"\0outer\0a\0b\0c\0inner\0d\0e\0int\0inner_t\0call\0";
        let name = |name: &str| {
            let at = strings
                .windows(name.len() + 2)
                .position(|window| window == [b"\0", name.as_bytes(), b"\0"].concat());
            at.unwrap() as u32 + 1
        };
        let info = |kind: u32, count: u32| kind << 24 | count;
        let types: Vec<u32> = [
            vec![name("int"), info(kind::INT, 0), 4, 32],
            vec![name("inner"), info(kind::STRUCT, 2), 8],
            vec![name("d"), 1, 0, name("e"), 1, 32],
            vec![name("inner_t"), info(kind::TYPEDEF, 0), 2],
            vec![0, info(kind::CONST, 0), 3],
            vec![0, info(kind::STRUCT, 1), 4, name("b"), 1, 0],
            vec![0, info(kind::UNION, 2), 8, 0, 5, 0, name("c"), 4, 0],
            vec![name("outer"), info(kind::STRUCT, 2), 12],
            vec![name("a"), 1, 0, 0, 6, 32],
            vec![0, info(kind::FUNC_PROTO, 0), 0],
            vec![name("call"), info(kind::FUNC, 0), 8],
        ]
        .concat();
        let types: Vec<u8> = types.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let header = [
            24,
            0,
            types.len() as u32,
            types.len() as u32,
            strings.len() as u32,
        ];
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        bytes.extend(header.iter().flat_map(|word| word.to_ne_bytes()));
        bytes.extend(types);
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn fields_are_found_through_anonymous_members() {
        let btf = Btf::parse(sample()).unwrap();
        for (path, offset) in [
            ("outer.a", 0),
            ("outer.b", 4),
            ("outer.c.e", 8),
            ("inner.e", 4),
        ] {
            assert_eq!(btf.offset(path).unwrap(), offset, "{path}");
        }
    }

    #[test]
    fn functions_are_found_by_name_and_nothing_else_is() {
        let btf = Btf::parse(sample()).unwrap();
        assert_eq!(btf.function("call").unwrap(), 9);
        let error = btf.function("outer").unwrap_err().to_string();
        assert!(error.contains("no function outer"), "{error}");
    }

    #[test]
    fn an_unknown_name_is_named() {
        let btf = Btf::parse(sample()).unwrap();
        for (path, named) in [
            ("other.a", "struct other"),
            ("outer.c.x", "field x in outer.c.x"),
        ] {
            let error = format!("{:#}", btf.offset(path).unwrap_err());
            assert!(error.contains(named), "{error}");
        }
    }

    /// The beginning of the running kernel's: all of it is too much for a test
    /// that parses it hundreds of times.
    fn excerpt() -> Option<Vec<u8>> {
        const TYPES_BYTES: usize = 8 << 10;
        const STRINGS_BYTES: usize = 8 << 10;
        let whole = std::fs::read(KERNEL).ok()?;
        let of_header = |at: usize| word(&whole, at).unwrap() as usize;
        let (header, strings) = (of_header(4), of_header(4) + of_header(16));
        let mut bytes = whole[..header].to_vec();
        for (at, value) in [(12, TYPES_BYTES), (16, TYPES_BYTES), (20, STRINGS_BYTES)] {
            bytes[at..at + 4].copy_from_slice(&(value as u32).to_ne_bytes());
        }
        bytes.extend(&whole[header..header + TYPES_BYTES]);
        bytes.extend(&whole[strings..strings + STRINGS_BYTES]);
        Some(bytes)
    }

    #[test]
    fn hostile_type_information_is_refused_or_answers() {
        let seeds = [Some(sample()), excerpt()].into_iter().flatten();
        proptest!(config(), |(bytes in mutated(seeds))| {
            let btf = Btf::parse(bytes.to_vec());
            if let Ok(btf) = &btf {
                for path in ["", ".", "outer.a", "outer.b.x", "outer.c.e", "inner.e", "list_head.next"] {
                    let _ = btf.offset(path);
                }
            }
            let readable = offsets::find(btf.as_ref().map_err(|error| anyhow::anyhow!("{error}")));
            prop_assert!(readable.queues.is_err(), "it is not in there");
        });
    }

    /// In an earlier version the search recursed until the stack was full.
    #[test]
    fn a_structure_inside_itself_comes_to_an_end() {
        const OUTER: u32 = 7;
        let mut bytes = sample();
        // The type of the last member of `outer`, which has no name; behind it come the
        // function and its prototype, of three words each.
        let strings = bytes.len() - word(&bytes, 20).unwrap() as usize;
        let end = strings - 2 * 12;
        bytes[end - 8..end - 4].copy_from_slice(&OUTER.to_ne_bytes());
        let btf = Btf::parse(bytes).unwrap();
        assert_eq!(btf.offset("outer.a").unwrap(), 0);
        let error = btf.offset("outer.b").unwrap_err().to_string();
        assert!(error.contains("no field b"), "{error}");
    }
}
