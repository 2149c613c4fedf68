//! From rules to the program that the kernel runs: a binary tree over ranges of call numbers.
//!
//! At install the kernel runs a filter once for every call number, so a linear list costs
//! hundreds of microseconds of every start. Here other architectures are refused first, equal
//! neighbours are merged and the rest is bisected. The tests run the program in an interpreter and
//! compare it with stacked linear filters over every number and argument case.
#![forbid(unsafe_code)]

use super::syscalls::{Arch, Case, Group, Is, UNKNOWN, Verdict};

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
const MAX_INSTRUCTIONS: usize = 2048;

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

/// Compiles a table for one architecture.
///
/// # Errors
/// `None` when the table is so large that a jump or the whole program does not fit.
pub fn compile(table: &[Group], arch: Arch, otherwise: Otherwise) -> Option<Vec<Instruction>> {
    let mut rows: Vec<(u32, Verdict)> = table
        .iter()
        .flat_map(|g| g.calls.iter().map(move |c| (c, g.verdict)))
        .filter_map(|(c, v)| Some((c.number(arch)?, v)))
        .collect();
    rows.sort_by_key(|(n, _)| *n);

    // Leaves: (first number, code). Equal neighbours become one.
    let mut leaves: Vec<(u32, Vec<Instruction>)> = Vec::new();
    let mut push = |first: u32, code: Vec<Instruction>| {
        let same = |a: &[Instruction], b: &[Instruction]| {
            a.len() == b.len()
                && a.iter()
                    .zip(b)
                    .all(|(x, y)| (x.code, x.jt, x.jf, x.k) == (y.code, y.jt, y.jf, y.k))
        };
        if leaves.last().is_none_or(|(_, last)| !same(last, &code)) {
            leaves.push((first, code));
        }
    };
    let otherwise = || {
        vec![match otherwise {
            Otherwise::Errno(errno) => op(RETURN, RET_ERRNO | errno as u32),
            Otherwise::Allow => op(RETURN, RET_ALLOW),
        }]
    };
    let mut next = 0;
    for (number, verdict) in rows {
        if number > next {
            push(next, otherwise());
        }
        push(number, leaf(verdict)?);
        next = number + 1;
    }
    // Everything above, x32's numbers (bit 30) included.
    push(next, otherwise());

    let mut program = vec![
        op(LOAD, ARCHITECTURE),
        branch(IF_EQUAL, arch.audit(), 1, 0),
        op(RETURN, RET_KILL_PROCESS),
        op(LOAD, NUMBER),
    ];
    tree(&leaves, &mut program);
    (program.len() <= MAX_INSTRUCTIONS).then_some(program)
}

/// The program of init and, inherited, of the app on this machine.
///
/// # Errors
/// `None` never, as the tests show; the caller refuses to start if it should happen. The same goes
/// for the app's addition.
pub fn app_program() -> Option<Vec<Instruction>> {
    compile(super::syscalls::TABLE, Arch::own(), Otherwise::Errno(UNKNOWN))
}

/// What the app gets on top; a few instructions, since every one costs at each start.
pub fn app_addition() -> Option<Vec<Instruction>> {
    compile(super::syscalls::APP_ONLY, Arch::own(), Otherwise::Allow)
}

fn tree(leaves: &[(u32, Vec<Instruction>)], out: &mut Vec<Instruction>) {
    if let [(_, code)] = leaves {
        out.extend_from_slice(code);
        return;
    }
    let (low, high) = leaves.split_at(leaves.len() / 2);
    let at = out.len();
    let first_high = high[0].0;
    // Placeholders: a conditional jump reaches 255 instructions, a plain one any distance.
    out.push(op(JUMP, 0));
    out.push(op(JUMP, 0));
    tree(low, out);
    let skip = out.len() - at - 2;
    out[at] = branch(IF_AT_LEAST, first_high, 0, 1);
    out[at + 1] = op(JUMP, skip as u32);
    if let Ok(short) = u8::try_from(skip) {
        out[at] = branch(IF_AT_LEAST, first_high, short, 0);
        out.remove(at + 1);
    }
    tree(high, out);
}

fn leaf(verdict: Verdict) -> Option<Vec<Instruction>> {
    Some(match verdict {
        Verdict::Allow => vec![op(RETURN, RET_ALLOW)],
        Verdict::Refuse(errno) => vec![op(RETURN, RET_ERRNO | errno as u32)],
        Verdict::RefuseIf(cases) => {
            let mut code = Vec::new();
            for case in cases {
                code.extend(one_case(case)?);
            }
            code.push(op(RETURN, RET_ALLOW));
            code
        }
    })
}

/// Falls through to what follows when a test fails.
fn one_case(case: &Case) -> Option<Vec<Instruction>> {
    let mut code = Vec::new();
    // Positions of jumps that leave the case, and whether by their true or false branch.
    let mut exits: Vec<(usize, bool)> = Vec::new();
    let mut loaded = None;
    for test in case.tests {
        let low = ARGUMENTS + 8 * u32::from(test.arg);
        let load = op(LOAD, low);
        if loaded != Some(test.arg) {
            code.push(load);
            loaded = Some(test.arg);
        }
        let mut jump = |code: &mut Vec<Instruction>, kind, k, leave_if_true| {
            exits.push((code.len(), leave_if_true));
            code.push(op(kind, k));
        };
        match test.is {
            Is::Equal(v) => jump(&mut code, IF_EQUAL, v, false),
            Is::NotEqual(v) => jump(&mut code, IF_EQUAL, v, true),
            Is::AnyBit(bits) => jump(&mut code, IF_ANY_BIT, bits, false),
            Is::Masked(mask, v) => {
                code.push(op(AND, mask));
                loaded = None;
                jump(&mut code, IF_EQUAL, v, false);
            }
            Is::HighNotZero => {
                code.push(op(LOAD, low + 4));
                loaded = None;
                jump(&mut code, IF_EQUAL, 0, true);
            }
            Is::MaskedNot(mask, values) => {
                code.push(op(AND, mask));
                loaded = None;
                for v in values {
                    jump(&mut code, IF_EQUAL, *v, true);
                }
            }
        }
    }
    code.push(op(RETURN, RET_ERRNO | case.errno as u32));
    let end = code.len();
    for (at, leave_if_true) in exits {
        let distance = u8::try_from(end - at - 1).ok()?;
        if leave_if_true {
            code[at].jt = distance;
        } else {
            code[at].jf = distance;
        }
    }
    Some(code)
}

#[cfg(test)]
#[path = "bpf_tests.rs"]
mod tests;
