//! What old kernels demand of the programs that the binary carries, seen without an old kernel.
//! Knows BPF instructions, and nothing of what the programs do. Whether an old kernel really
//! takes them is what `cargo xtask test-kernels` tells.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use object::elf::EM_BPF;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SymbolKind};
use srv_steer::SelectProgram;
use srv_tests::server;

use crate::gate;

/// Instructions that the verifier goes through at most. The kernel's own limit is a million.
const VERIFIED_MAX: u32 = 100_000;

/// Each version of the kernel counts differently; each that runs this test has to stay below.
#[test]
fn the_verifier_is_far_from_its_limit() {
    gate::needs!(steer);
    let mut steering = SelectProgram::load().expect("it was loaded a moment ago");
    let select = steering.program("select").expect("the object has it");
    let verified = select
        .info()
        .expect("it is loaded")
        .verified_instruction_count();
    // Linux 5.16 and newer tell.
    assert!(
        verified.is_none_or(|verified| verified < VERIFIED_MAX),
        "{verified:?}"
    );
}

/// Before Linux 6.4 the verifier finds no end of a loop that ends only if one register reaches
/// another one: see `up_to` in `srv-common/src/branchless.rs`.
#[test]
fn each_loop_has_an_end_that_old_kernels_find() {
    let binary = server::binary().and_then(|binary| Ok(fs::read(binary)?));
    let binary = binary.expect("the binary that is tested can be read");
    let objects = objects(&binary);
    let carried = (objects.len() == 2)
        .then_some(())
        .ok_or(format!("the binary carries {} objects of 2", objects.len()));
    gate::needs!("read the programs that the binary carries": &carried);
    let functions: Vec<Function> = objects.into_iter().flat_map(functions).collect();
    let loops: usize = functions
        .iter()
        .map(|function| function.loops().len())
        .sum();
    assert!(
        loops > 4,
        "there are only {loops} loops: the reader misses some"
    );
    for function in functions {
        let endless = function
            .loops()
            .into_iter()
            .find(|of| !function.ends_by_a_constant(of));
        if let Some(of) = endless {
            panic!(
                "{}: no end of the loop at {:?} is a constant",
                function.name,
                of.first()
            );
        }
    }
}

#[test]
fn a_loop_up_to_a_register_is_found() {
    // w5 < w0, as the compiler made of two bounds; then w5 < 16.
    let instructions = |compare| {
        vec![
            [0xb4, 5, 0, 0, 0, 0, 0, 0],
            [7, 5, 0, 0, 1, 0, 0, 0],
            compare,
            EXIT,
        ]
    };
    for (compare, is_found) in [
        ([0xae, 0x05, 0xfe, 0xff, 0, 0, 0, 0], false),
        ([0xa6, 0x05, 0xfe, 0xff, 16, 0, 0, 0], true),
    ] {
        let function = Function {
            name: "posed".into(),
            instructions: instructions(compare),
        };
        let loops = function.loops();
        assert_eq!(loops, [BTreeSet::from([1, 2])]);
        assert_eq!(function.ends_by_a_constant(&loops[0]), is_found);
    }
}

type Instruction = [u8; 8];
const EXIT: Instruction = [0x95, 0, 0, 0, 0, 0, 0, 0];

/// One function of a program.
struct Function {
    name: String,
    instructions: Vec<Instruction>,
}

impl Function {
    /// The loops, each by its instructions: what leads to a jump back without passing its target.
    fn loops(&self) -> Vec<BTreeSet<usize>> {
        let mut before: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for at in 0..self.instructions.len() {
            for next in self.after(at) {
                before.entry(next).or_default().push(at);
            }
        }
        let inside = |(from, to): (usize, usize)| {
            let mut inside = BTreeSet::from([to]);
            let mut left = vec![from];
            while let Some(at) = left.pop() {
                if inside.insert(at) {
                    left.extend(before.get(&at).into_iter().flatten());
                }
            }
            inside
        };
        self.jumps_back().into_iter().map(inside).collect()
    }

    /// Jumps to what leads to them, by a search in depth.
    fn jumps_back(&self) -> Vec<(usize, usize)> {
        let mut jumps = Vec::new();
        let mut is_seen = vec![false; self.instructions.len()];
        let mut path: Vec<(usize, Vec<usize>)> = vec![(0, self.after(0))];
        while let Some((at, left)) = path.last_mut() {
            let at = *at;
            is_seen[at] = true;
            match left.pop() {
                None => drop(path.pop()),
                Some(next) if path.iter().any(|(on_path, _)| *on_path == next) => {
                    jumps.push((at, next));
                }
                Some(next) if is_seen[next] => {}
                Some(next) => path.push((next, self.after(next))),
            }
        }
        jumps
    }

    /// What may run after the instruction: the target of its jump, and what follows it.
    fn after(&self, at: usize) -> Vec<usize> {
        let [code, _, low, high, ..] = self.instructions[at];
        let target = at.wrapping_add_signed(i16::from_le_bytes([low, high]).into()) + 1;
        let follows = at + 1 + usize::from(code == LOAD_OF_64_BITS);
        match (code & CLASS, code & OPERATION) {
            (JUMP | JUMP_32, EXITS) => vec![],
            (JUMP, ALWAYS) => vec![target],
            (JUMP | JUMP_32, CALLS) => vec![follows],
            (JUMP | JUMP_32, _) => vec![target, follows],
            _ => vec![follows],
        }
    }

    /// Whether the loop can be left by a comparison with a constant.
    fn ends_by_a_constant(&self, inside: &BTreeSet<usize>) -> bool {
        inside.iter().any(|at| {
            let is_with_constant = self.instructions[*at][0] & BY_REGISTER == 0;
            let after = self.after(*at);
            after.len() == 2 && is_with_constant && after.iter().any(|at| !inside.contains(at))
        })
    }
}

// Documentation/bpf/standardization/instruction-set.rst, "Instruction encoding".
const CLASS: u8 = 0x07;
const JUMP: u8 = 0x05;
const JUMP_32: u8 = 0x06;
const BY_REGISTER: u8 = 0x08;
const OPERATION: u8 = 0xf0;
const ALWAYS: u8 = 0x00;
const CALLS: u8 = 0x80;
const EXITS: u8 = 0x90;
const LOAD_OF_64_BITS: u8 = 0x18;

/// The BPF objects inside a file.
fn objects(file: &[u8]) -> Vec<object::File<'_>> {
    const ELF_OF_64_BITS: [u8; 5] = *b"\x7fELF\x02";
    // aya::include_bytes_aligned puts them there.
    let places = (0..file.len()).step_by(32);
    let starts = places.filter(|at| file[*at..].starts_with(&ELF_OF_64_BITS));
    let parsed = starts.filter_map(|at| {
        let is_bpf = file.get(at + 18..at + 20)? == EM_BPF.to_le_bytes();
        // What follows the object does not matter: its tables say where everything is.
        is_bpf
            .then(|| object::File::parse(&file[at..]).ok())
            .flatten()
    });
    parsed.collect()
}

/// The functions of an object, but for those of the compiler's library: no program calls them.
fn functions(object: object::File<'_>) -> Vec<Function> {
    let of_library = ["memcpy", "memmove", "memset", "memcmp", "bcmp"];
    let function = |symbol: object::Symbol| {
        let name = symbol.name().ok()?.to_owned();
        let section = object.section_by_index(symbol.section_index()?).ok()?;
        let data = section.data_range(symbol.address(), symbol.size()).ok()??;
        let (instructions, _) = data.as_chunks::<8>();
        (!of_library.contains(&&*name)).then(|| Function {
            name,
            instructions: instructions.to_vec(),
        })
    };
    let symbols = object
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text);
    let sized = symbols.filter(|symbol| symbol.size() > 0);
    sized.filter_map(function).collect()
}
