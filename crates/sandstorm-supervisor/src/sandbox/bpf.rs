//! From rules to the program that the kernel runs: a binary tree over ranges of call numbers.
//!
//! At install the kernel translates a filter and runs it once for every call number, so a linear
//! list costs hundreds of microseconds of every start. Here other architectures are refused first,
//! equal neighbours are merged, the rest is bisected, and equal answers near each other are one
//! instruction. All of that happens when this program is compiled: what a start installs is a
//! constant. The tests run the program in an interpreter and compare it with stacked linear filters
//! over every number and argument case.
#![forbid(unsafe_code)]

use super::outer;
use super::syscalls::{APP_ONLY, Arch, Case, Group, Is, TABLE, Test, UNKNOWN, Verdict};

/// One instruction, laid out as the kernel's `struct sock_filter`.
pub type Instruction = libc::sock_filter;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const IF_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const IF_ANY_BIT: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

const RET_ALLOW: u32 = 0x7FFF_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_KILL_PROCESS: u32 = 0x8000_0000;

/// Offsets in `struct seccomp_data`: number, architecture, low half of argument 0.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// More is a mistake in a table: no program of ours is near the kernel's 4096.
const MAX_INSTRUCTIONS: usize = 512;
/// Calls and gaps between them.
const MAX_LEAVES: usize = 512;
/// How far back an answer is looked for. A conditional jump reaches 255 instructions; the rest of
/// one call's conditions must fit between.
const REUSE: usize = 180;

const fn op(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

const fn branch(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

/// The answer to calls that a table has no row for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Otherwise {
    Errno(i32),
    Allow,
}

/// What the program does with a range of numbers.
#[derive(Clone, Copy)]
enum Leaf {
    Return(u32),
    /// Conditions, and the group that they stand in: those of one group are the same.
    Cases(&'static [Case], usize),
}

impl Leaf {
    const fn of(verdict: Verdict, group: usize) -> Leaf {
        match verdict {
            Verdict::Allow => Leaf::Return(RET_ALLOW),
            Verdict::Refuse(errno) => Leaf::Return(RET_ERRNO | errno as u32),
            Verdict::RefuseIf(cases) => Leaf::Cases(cases, group),
        }
    }

    const fn same(self, other: Leaf) -> bool {
        match (self, other) {
            (Leaf::Return(a), Leaf::Return(b)) => a == b,
            (Leaf::Cases(_, a), Leaf::Cases(_, b)) => a == b,
            _ => false,
        }
    }
}

/// Ranges in ascending order, each from its first number to the next one's.
struct Leaves {
    first: [u32; MAX_LEAVES],
    leaf: [Leaf; MAX_LEAVES],
    len: usize,
}

impl Leaves {
    const fn push(&mut self, first: u32, leaf: Leaf) {
        if self.len > 0 && self.leaf[self.len - 1].same(leaf) {
            return;
        }
        self.first[self.len] = first;
        self.leaf[self.len] = leaf;
        self.len += 1;
    }

    const fn of(table: &[Group], arch: Arch, otherwise: Otherwise) -> Leaves {
        let otherwise = Leaf::Return(match otherwise {
            Otherwise::Errno(errno) => RET_ERRNO | errno as u32,
            Otherwise::Allow => RET_ALLOW,
        });
        let mut rows = ([0; MAX_LEAVES], [otherwise; MAX_LEAVES], 0);
        let mut group = 0;
        while group < table.len() {
            let leaf = Leaf::of(table[group].verdict, group);
            let mut n = 0;
            while n < table[group].calls.len() {
                if let Some(number) = table[group].calls[n].number(arch) {
                    // Insertion sort: larger ones move up.
                    let mut at = rows.2;
                    while at > 0 && rows.0[at - 1] > number {
                        rows.0[at] = rows.0[at - 1];
                        rows.1[at] = rows.1[at - 1];
                        at -= 1;
                    }
                    rows.0[at] = number;
                    rows.1[at] = leaf;
                    rows.2 += 1;
                }
                n += 1;
            }
            group += 1;
        }
        let mut leaves = Leaves { first: [0; MAX_LEAVES], leaf: [otherwise; MAX_LEAVES], len: 0 };
        let (mut next, mut n) = (0, 0);
        while n < rows.2 {
            if rows.0[n] > next {
                leaves.push(next, otherwise);
            }
            leaves.push(rows.0[n], rows.1[n]);
            next = rows.0[n] + 1;
            n += 1;
        }
        // Everything above, x32's numbers (bit 30) included.
        leaves.push(next, otherwise);
        leaves
    }
}

/// A program in the making, from its end to its start: so each jump's target is there before the
/// jump is.
pub struct Code {
    reversed: [Instruction; MAX_INSTRUCTIONS],
    len: usize,
    /// Answers that were written, and where; the newest of each.
    answers: [(Leaf, usize); MAX_LEAVES],
    known: usize,
}

impl Code {
    const fn push(&mut self, instruction: Instruction) -> usize {
        self.reversed[self.len] = instruction;
        self.len += 1;
        self.len - 1
    }

    /// How far a jump that is written next has to go; too far does not compile.
    const fn to(&self, target: usize) -> u8 {
        let distance = self.len - target - 1;
        assert!(distance <= u8::MAX as usize, "a jump is too long");
        distance as u8
    }

    /// The target, or a plain jump to it where it is too far away for a condition's.
    const fn near(&mut self, target: usize) -> usize {
        let distance = self.len - target - 1;
        // Another such jump may come between.
        if distance < u8::MAX as usize { target } else { self.push(op(JUMP, distance as u32)) }
    }

    /// Where this answer stands, near by.
    const fn answer(&mut self, leaf: Leaf) -> usize {
        let mut n = 0;
        while n < self.known && !self.answers[n].0.same(leaf) {
            n += 1;
        }
        if n < self.known && self.len - self.answers[n].1 <= REUSE {
            return self.answers[n].1;
        }
        let at = match leaf {
            Leaf::Return(value) => self.push(op(RETURN, value)),
            Leaf::Cases(cases, _) => self.cases(cases),
        };
        // Conditions write answers too.
        let mut n = 0;
        while n < self.known && !self.answers[n].0.same(leaf) {
            n += 1;
        }
        self.answers[n] = (leaf, at);
        if n == self.known {
            self.known += 1;
        }
        at
    }

    const fn tree(&mut self, leaves: &Leaves, from: usize, to: usize) -> usize {
        if to - from == 1 {
            return self.answer(leaves.leaf[from]);
        }
        let middle = from + (to - from) / 2;
        let high = self.tree(leaves, middle, to);
        let low = self.tree(leaves, from, middle);
        let high = self.near(high);
        let low = self.near(low);
        let node = branch(IF_AT_LEAST, leaves.first[middle], self.to(high), self.to(low));
        self.push(node)
    }

    const fn cases(&mut self, cases: &[Case]) -> usize {
        let mut otherwise = self.answer(Leaf::Return(RET_ALLOW));
        let mut n = cases.len();
        while n > 0 {
            n -= 1;
            let mut next = self.answer(Leaf::Return(RET_ERRNO | cases[n].errno as u32));
            let tests = cases[n].tests;
            let mut t = tests.len();
            while t > 0 {
                t -= 1;
                let loaded = t > 0 && tests[t - 1].arg == tests[t].arg && tests[t - 1].is.keeps();
                next = self.test(&tests[t], loaded, next, otherwise);
            }
            otherwise = next;
        }
        otherwise
    }

    /// One test: on to `yes` when it holds, else to `no`. `loaded`: the argument's low half is at
    /// hand.
    const fn test(&mut self, test: &Test, loaded: bool, yes: usize, no: usize) -> usize {
        let low = ARGUMENTS + 8 * test.arg as u32;
        let mut load = Some(low);
        if loaded {
            load = None;
        }
        let mut at = match test.is {
            Is::Equal(v) => self.push(branch(IF_EQUAL, v, self.to(yes), self.to(no))),
            Is::NotEqual(v) => self.push(branch(IF_EQUAL, v, self.to(no), self.to(yes))),
            Is::AnyBit(bits) => self.push(branch(IF_ANY_BIT, bits, self.to(yes), self.to(no))),
            Is::Masked(mask, v) => {
                self.push(branch(IF_EQUAL, v, self.to(yes), self.to(no)));
                self.push(op(AND, mask))
            }
            Is::HighNotZero => {
                load = Some(low + 4);
                self.push(branch(IF_EQUAL, 0, self.to(no), self.to(yes)))
            }
            Is::MaskedNot(mask, values) => {
                let (mut yes, mut n) = (yes, values.len());
                while n > 0 {
                    n -= 1;
                    yes = self.push(branch(IF_EQUAL, values[n], self.to(no), self.to(yes)));
                }
                self.push(op(AND, mask))
            }
        };
        if let Some(offset) = load {
            at = self.push(op(LOAD, offset));
        }
        at
    }

    /// In the order in which the kernel runs it. `N` is `len`.
    const fn in_order<const N: usize>(&self) -> [Instruction; N] {
        assert!(N == self.len);
        let mut code = [op(RETURN, RET_KILL_PROCESS); N];
        let mut n = 0;
        while n < N {
            code[n] = self.reversed[N - 1 - n];
            n += 1;
        }
        code
    }
}

/// Compiles a table for one architecture. A table that is too large does not compile.
pub const fn compile(table: &[Group], arch: Arch, otherwise: Otherwise) -> Code {
    let leaves = Leaves::of(table, arch, otherwise);
    let mut code = Code {
        reversed: [op(RETURN, RET_KILL_PROCESS); MAX_INSTRUCTIONS],
        len: 0,
        answers: [(Leaf::Return(0), 0); MAX_LEAVES],
        known: 0,
    };
    let entry = code.tree(&leaves, 0, leaves.len);
    assert!(entry == code.len - 1, "the tree's top comes last");
    code.push(op(LOAD, NUMBER));
    code.push(op(RETURN, RET_KILL_PROCESS));
    code.push(branch(IF_EQUAL, arch.audit(), 1, 0));
    code.push(op(LOAD, ARCHITECTURE));
    code
}

const APP_CODE: Code = compile(TABLE, Arch::own(), Otherwise::Errno(UNKNOWN));
const ADDITION_CODE: Code = compile(APP_ONLY, Arch::own(), Otherwise::Allow);
const OUTER_CODE: Code = compile(outer::TABLE, Arch::own(), Otherwise::Errno(libc::EPERM));

/// The program of init and, inherited, of the app on this machine.
pub static APP: [Instruction; APP_CODE.len] = APP_CODE.in_order();
/// What the app gets on top; a few instructions, since every one costs at each start.
pub static APP_ADDITION: [Instruction; ADDITION_CODE.len] = ADDITION_CODE.in_order();
/// The program of the serving supervisor.
pub static OUTER: [Instruction; OUTER_CODE.len] = OUTER_CODE.in_order();

#[cfg(test)]
#[path = "bpf_tests.rs"]
mod tests;
