//! The type information of the kernel (BTF): the offset of a field in a structure. This module
//! reads as much of the format as that needs (Documentation/bpf/btf.rst). The parser of aya does not
//! give access to the members of structures. The crates that do have licences that srv does not
//! accept, or do not know the kernels of the last years.

use std::collections::HashSet;
use std::ops::Range;

use crate::error::{Error, ErrorKind, Result, Tried as _};

/// The file in which a kernel with `CONFIG_DEBUG_INFO_BTF` shows its type information.
pub const KERNEL: &str = "/sys/kernel/btf/vmlinux";

/// Parsed type information.
pub struct Btf {
    bytes: Vec<u8>,
    strings: Range<usize>,
    /// Where the record of each type begins. Types are numbered from 1.
    records: Vec<usize>,
    /// The structures: where the name of each begins, among the strings, and its number.
    structs: Vec<(u32, u32)>,
}

/// What reading found, or what is wrong with the type information.
type Read<T> = std::result::Result<T, String>;

fn refused(why: String) -> Error {
    Error::new(ErrorKind::Program, why)
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
    pub fn of_kernel() -> Result<Self> {
        let tried =
            format!("read {KERNEL} (this needs a kernel built with CONFIG_DEBUG_INFO_BTF=y)");
        let bytes = std::fs::read(KERNEL).tried(ErrorKind::Program, tried)?;
        Self::parse(bytes).map_err(|error| error.while_trying(format!("parse {KERNEL}")))
    }

    /// Parses type information.
    ///
    /// # Errors
    /// It is no BTF of the byte order of this machine, or it ends too early.
    pub fn parse(bytes: Vec<u8>) -> Result<Self> {
        Self::parsed(bytes).map_err(refused)
    }

    fn parsed(bytes: Vec<u8>) -> Read<Self> {
        let magic = bytes.get(..2).ok_or("it is empty")?;
        if magic != MAGIC.to_ne_bytes() {
            return Err("it does not begin with the magic number of BTF".into());
        }
        let header = word(&bytes, 4)? as usize;
        let section = |at: usize| -> Read<Range<usize>> {
            let from = header + word(&bytes, at)? as usize;
            let to = from + word(&bytes, at + 4)? as usize;
            match to <= bytes.len() {
                true => Ok(from..to),
                false => Err("it is shorter than its header says".into()),
            }
        };
        let (types, strings) = (section(8)?, section(16)?);
        let mut this = Self {
            bytes,
            strings,
            records: Vec::new(),
            structs: Vec::new(),
        };
        this.index(types)?;
        Ok(this)
    }

    /// The offset in bytes of a field that is named by its path, such as `eventpoll.wq.head`. The
    /// path leaves out anonymous members.
    ///
    /// # Errors
    /// There is no such structure or field; the error names it.
    pub fn offset(&self, path: &str) -> Result<u32> {
        self.find(path).map_err(refused)
    }

    fn find(&self, path: &str) -> Read<u32> {
        let mut names = path.split('.');
        let name = names.next().unwrap_or_default();
        let found = self.structure(name);
        let mut at = found.ok_or_else(|| format!("the kernel has no struct {name}"))?;
        let mut offset = 0u32;
        for name in names {
            let member = self.member(at, name)?;
            let (bits, of) =
                member.ok_or_else(|| format!("the kernel has no field {name} in {path}"))?;
            if bits % 8 != 0 {
                return Err(format!("{path} is a bit field"));
            }
            let inner = offset.checked_add(bits / 8);
            offset = inner.ok_or_else(|| format!("the offset of {path} is too large"))?;
            at = of;
        }
        Ok(offset)
    }

    /// The number of the type of a function.
    ///
    /// # Errors
    /// There is no such function; the error names it.
    pub fn function(&self, name: &str) -> Result<u32> {
        self.find_function(name).map_err(refused)
    }

    fn find_function(&self, name: &str) -> Read<u32> {
        for (nth, at) in self.records.iter().enumerate() {
            if self.record(*at)?.kind == kind::FUNC && self.name(word(&self.bytes, *at)?)? == name {
                return Ok(nth as u32 + 1);
            }
        }
        Err(format!("the kernel has no function {name}"))
    }

    /// Finds each record, and the structures by name.
    fn index(&mut self, types: Range<usize>) -> Read<()> {
        let mut at = types.start;
        while at < types.end {
            let record = self.record(at)?;
            self.records.push(at);
            if record.kind == kind::STRUCT {
                let id = self.records.len() as u32;
                self.structs.push((word(&self.bytes, at)?, id));
            }
            at += RECORD_BYTES + record.trailing_bytes()?;
        }
        Ok(())
    }

    /// The first structure of that name. A later one belongs to a module, or is a variant. Few names
    /// are looked up, so no map is worth its time.
    fn structure(&self, name: &str) -> Option<u32> {
        let mut structs = self.structs.iter();
        let strings = &self.bytes[self.strings.clone()];
        let found = structs.find(|(at, _)| {
            let from = strings.get(*at as usize..).unwrap_or_default();
            from.starts_with(name.as_bytes()) && from.get(name.len()) == Some(&0)
        });
        found.map(|(_, id)| *id)
    }

    fn record(&self, at: usize) -> Read<Record> {
        let info = word(&self.bytes, at + 4)?;
        Ok(Record {
            kind: info >> 24 & 0x1f,
            count: (info & 0xffff) as usize,
            has_bit_fields: info >> 31 == 1,
            size_or_type: word(&self.bytes, at + 8)?,
        })
    }

    fn place_of(&self, id: u32) -> Read<usize> {
        let nth = (id as usize).checked_sub(1).ok_or("void has no members")?;
        let place = self.records.get(nth).copied();
        place.ok_or_else(|| format!("there is no type {id}"))
    }

    fn name(&self, offset: u32) -> Read<&str> {
        let strings = &self.bytes[self.strings.clone()];
        let from = strings
            .get(offset as usize..)
            .ok_or("a name is outside of the strings")?;
        let end = from.iter().position(|byte| *byte == 0);
        let name = std::str::from_utf8(&from[..end.unwrap_or(from.len())]);
        name.map_err(|error| format!("read a name: {error}"))
    }

    /// The offset in bits and the type of a member of a structure or of its anonymous members. Each
    /// anonymous member is searched once, so that the search ends even if type information refers
    /// to itself.
    fn member(&self, id: u32, name: &str) -> Read<Option<(u32, u32)>> {
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
                    .ok_or("the offset of a field is too large")?;
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
    fn members(&self, id: u32) -> Read<impl Iterator<Item = Read<Member>> + use<'_>> {
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
    fn without_qualifiers(&self, mut id: u32) -> Read<u32> {
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
        Err(format!("type {id} refers to itself"))
    }
}

impl Record {
    /// The number of bytes that follow the record and belong to it.
    fn trailing_bytes(&self) -> Read<usize> {
        Ok(match self.kind {
            kind::INT | kind::VAR | kind::DECL_TAG => 4,
            kind::ARRAY => 12,
            kind::STRUCT | kind::UNION => MEMBER_BYTES * self.count,
            kind::ENUM | kind::FUNC_PROTO => 8 * self.count,
            kind::DATASEC | kind::ENUM64 => 12 * self.count,
            0 | 20.. => {
                return Err(format!(
                    "it has a type of kind {}, which srv does not know",
                    self.kind
                ));
            }
            _ => 0,
        })
    }
}

fn word(bytes: &[u8], at: usize) -> Read<u32> {
    let word = bytes.get(at..at + 4).ok_or("it ends too early")?;
    Ok(u32::from_ne_bytes(
        word.try_into().map_err(|_| "it ends too early")?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let error = btf.offset(path).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
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
