//! The bisected program against stacked linear filters that seccompiler makes from the same table.

use std::collections::BTreeMap;

use proptest::prelude::*;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::*;
use crate::sandbox::syscalls::ERRNO_ORDER;

#[derive(Debug, Clone, Copy)]
struct Data {
    number: u32,
    arch: u32,
    args: [u64; 6],
}

impl Data {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.arch,
            8 | 12 => 0,
            n => {
                let arg = self.args[((n - 16) / 8) as usize];
                if (n - 16) % 8 == 0 { arg as u32 } else { (arg >> 32) as u32 }
            }
        }
    }
}

/// Classic BPF as the kernel runs it; instructions that our programs and seccompiler's use.
fn run(program: &[(u16, u8, u8, u32)], data: &Data) -> u32 {
    let (mut a, mut at) = (0u32, 0usize);
    for _ in 0..program.len() + 1 {
        let (code, jt, jf, k) = program[at];
        at += 1;
        let mut jump = |yes: bool| at += usize::from(if yes { jt } else { jf });
        match code {
            LOAD => a = data.word(k),
            AND => a &= k,
            JUMP => at += k as usize,
            IF_EQUAL => jump(a == k),
            0x25 => jump(a > k),
            IF_AT_LEAST => jump(a >= k),
            IF_ANY_BIT => jump(a & k != 0),
            RETURN => return k,
            other => panic!("instruction {other:#x}"),
        }
    }
    panic!("no return")
}

fn plain(code: &Code) -> Vec<(u16, u8, u8, u32)> {
    code.reversed[..code.len].iter().rev().map(|i| (i.code, i.jt, i.jf, i.k)).collect()
}

fn ours(arch: Arch) -> Vec<(u16, u8, u8, u32)> {
    plain(&compile(TABLE, arch, Otherwise::Errno(UNKNOWN)))
}

#[test]
fn what_is_installed_is_what_is_tested() {
    for (installed, tested) in
        [(&APP[..], &APP_CODE), (&APP_ADDITION[..], &ADDITION_CODE), (&OUTER[..], &OUTER_CODE)]
    {
        let installed: Vec<_> = installed.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect();
        assert_eq!(installed, plain(tested));
    }
}

#[test]
fn the_outer_program_keeps_to_its_table() {
    for arch in [Arch::X86_64, Arch::Aarch64] {
        let program = plain(&compile(outer::TABLE, arch, Otherwise::Errno(libc::EPERM)));
        for number in (0..1100).chain([0x4000_0000, u32::MAX]) {
            let row = outer::TABLE
                .iter()
                .find(|g| g.calls.iter().any(|c| c.number(arch) == Some(number)));
            let fionbio = [0, libc::FIONBIO, 0, 0, 0, 0];
            for args in [[0; 6], [u64::MAX; 6], fionbio] {
                let expected = match row.map(|g| g.verdict) {
                    None => RET_ERRNO | libc::EPERM as u32,
                    Some(Verdict::Allow) => RET_ALLOW,
                    Some(Verdict::Refuse(errno)) => RET_ERRNO | errno as u32,
                    // Executable memory; any request but FIONBIO.
                    Some(Verdict::RefuseIf(cases)) => {
                        let mask = matches!(cases[0].tests[0].is, Is::AnyBit(_));
                        let refused = if mask { args[2] & 4 != 0 } else { args != fionbio };
                        if refused { RET_ERRNO | libc::EPERM as u32 } else { RET_ALLOW }
                    }
                };
                let data = Data { number, arch: arch.audit(), args };
                assert_eq!(run(&program, &data), expected, "{arch:?} {number}");
            }
        }
    }
}

fn theirs(filter: SeccompFilter) -> Vec<(u16, u8, u8, u32)> {
    BpfProgram::try_from(filter).unwrap().iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect()
}

fn conditions(test: &Test) -> Vec<Vec<SeccompCondition>> {
    let cond = |op, value: u32| {
        SeccompCondition::new(test.arg, SeccompCmpArgLen::Dword, op, u64::from(value)).unwrap()
    };
    // A disjunction of conjunctions.
    match test.is {
        Is::Equal(v) => vec![vec![cond(SeccompCmpOp::Eq, v)]],
        Is::NotEqual(v) => vec![vec![cond(SeccompCmpOp::Ne, v)]],
        Is::Masked(mask, v) => vec![vec![cond(SeccompCmpOp::MaskedEq(u64::from(mask)), v)]],
        Is::HighNotZero => vec![vec![
            SeccompCondition::new(
                test.arg,
                SeccompCmpArgLen::Qword,
                SeccompCmpOp::Gt,
                u64::from(u32::MAX),
            )
            .unwrap(),
        ]],
        Is::AnyBit(bits) => (0..32)
            .map(|n| 1u32 << n)
            .filter(|bit| bits & bit != 0)
            .map(|bit| vec![cond(SeccompCmpOp::MaskedEq(u64::from(bit)), bit)])
            .collect(),
        Is::MaskedNot(mask, values) => (0..=mask)
            .filter(|v| v & mask == *v && !values.contains(v))
            .map(|v| vec![cond(SeccompCmpOp::MaskedEq(u64::from(mask)), v)])
            .collect(),
    }
}

fn rules(case: &Case) -> Vec<SeccompRule> {
    let mut all: Vec<Vec<SeccompCondition>> = vec![vec![]];
    for test in case.tests {
        let choices = conditions(test);
        all = all
            .iter()
            .flat_map(|done| {
                choices
                    .iter()
                    .map(move |choice| done.iter().chain(choice).cloned().collect::<Vec<_>>())
            })
            .collect();
    }
    all.into_iter().map(|c| SeccompRule::new(c).unwrap()).collect()
}

/// The reference: one allow-list and one list of refusals for each errno, in install order.
fn reference(arch: Arch) -> Vec<Vec<(u16, u8, u8, u32)>> {
    let target = match arch {
        Arch::X86_64 => TargetArch::x86_64,
        Arch::Aarch64 => TargetArch::aarch64,
    };
    let rows: Vec<(i64, Verdict)> = TABLE
        .iter()
        .flat_map(|g| g.calls.iter().map(move |c| (c, g.verdict)))
        .filter_map(|(c, v)| Some((i64::from(c.number(arch)?), v)))
        .collect();
    let allow = rows.iter().map(|(n, _)| (*n, vec![])).collect();
    let mut stack = vec![theirs(
        SeccompFilter::new(
            allow,
            SeccompAction::Errno(UNKNOWN as u32),
            SeccompAction::Allow,
            target,
        )
        .unwrap(),
    )];
    // The newest filter's errno wins, so the strongest comes last.
    for errno in ERRNO_ORDER.iter().rev() {
        let mut refusals: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        for (n, verdict) in &rows {
            match verdict {
                Verdict::Refuse(e) if e == errno => {
                    refusals.insert(*n, vec![]);
                }
                Verdict::RefuseIf(cases) => {
                    let mine: Vec<_> =
                        cases.iter().filter(|c| c.errno == *errno).flat_map(rules).collect();
                    if !mine.is_empty() {
                        refusals.insert(*n, mine);
                    }
                }
                _ => {}
            }
        }
        if !refusals.is_empty() {
            stack.push(theirs(
                SeccompFilter::new(
                    refusals,
                    SeccompAction::Allow,
                    SeccompAction::Errno(*errno as u32),
                    target,
                )
                .unwrap(),
            ));
        }
    }
    stack
}

/// The kernel's rule: the most restrictive action wins; of equals, the newest filter's.
fn run_stack(stack: &[Vec<(u16, u8, u8, u32)>], data: &Data) -> u32 {
    let rank = |action: u32| (action & 0xFFFF_0000) as i32;
    let mut result = RET_ALLOW;
    for program in stack.iter().rev() {
        let answer = run(program, data);
        if rank(answer) < rank(result) {
            result = answer;
        }
    }
    result
}

/// Values of each argument that some test could tell apart.
fn interesting(number: u32, arch: Arch) -> Vec<Vec<u64>> {
    let mut values: Vec<Vec<u64>> = vec![vec![0]; 6];
    for group in TABLE {
        let Verdict::RefuseIf(cases) = group.verdict else {
            continue;
        };
        if !group.calls.iter().any(|c| c.number(arch) == Some(number)) {
            continue;
        }
        for test in cases.iter().flat_map(|c| c.tests) {
            let list = &mut values[usize::from(test.arg)];
            let add = |list: &mut Vec<u64>, v: u32| {
                for near in [v.wrapping_sub(1), v, v.wrapping_add(1)] {
                    list.push(u64::from(near));
                    // High bits that the kernel does not read must change nothing.
                    list.push(u64::from(near) | 0xFFFF_FFFF_0000_0000);
                }
            };
            match test.is {
                Is::Equal(v) | Is::NotEqual(v) => add(list, v),
                Is::Masked(mask, v) => {
                    add(list, v);
                    add(list, v | !mask);
                }
                Is::AnyBit(bits) => {
                    for n in 0..32 {
                        list.push(1 << n);
                    }
                    add(list, bits);
                    add(list, !bits);
                }
                Is::HighNotZero => list.extend([0, 1 << 32, u64::MAX]),
                Is::MaskedNot(mask, _) => {
                    for v in 0..=mask {
                        list.push(u64::from(v));
                        list.push(u64::from(v | 0x8_0000));
                    }
                }
            }
        }
    }
    for list in &mut values {
        list.sort_unstable();
        list.dedup();
    }
    values
}

fn compare(arch: Arch) {
    let program = ours(arch);
    let stack = reference(arch);
    assert!(program.len() < 400, "{} instructions", program.len());
    let mut compared = 0u64;
    let numbers = (0..1100).chain([
        0x4000_0000,
        0x4000_0001,
        0x4000_0200,
        0x7FFF_FFFF,
        u32::MAX - 1,
        u32::MAX,
    ]);
    for number in numbers {
        let lists = interesting(number, arch);
        let mut data = Data { number, arch: arch.audit(), args: [0; 6] };
        // Every combination of the arguments that matter.
        let total: usize = lists.iter().map(Vec::len).product();
        for mut n in 0..total {
            for (arg, list) in data.args.iter_mut().zip(&lists) {
                *arg = list[n % list.len()];
                n /= list.len();
            }
            assert_eq!(run(&program, &data), run_stack(&stack, &data), "{arch:?} {data:x?}");
            compared += 1;
        }
    }
    assert!(compared > 5_000);
}

#[test]
fn bisected_equals_linear_on_x86_64() {
    compare(Arch::X86_64);
}

#[test]
fn bisected_equals_linear_on_aarch64() {
    compare(Arch::Aarch64);
}

#[test]
fn foreign_architectures_are_killed() {
    for arch in [Arch::X86_64, Arch::Aarch64] {
        let program = ours(arch);
        for foreign in [0x4000_0003, 0x4000_0028, 0, u32::MAX] {
            let data = Data { number: 1, arch: foreign, args: [0; 6] };
            assert_eq!(run(&program, &data), RET_KILL_PROCESS);
        }
    }
}

#[test]
fn what_must_be_refused_is_refused() {
    let program = ours(Arch::X86_64);
    let answer = |name: &str, args: [u64; 6]| {
        let number =
            TABLE.iter().flat_map(|g| g.calls).find(|c| c.name == name).unwrap().x86_64.unwrap();
        run(&program, &Data { number, arch: Arch::X86_64.audit(), args })
    };
    let refused = |errno: i32| RET_ERRNO | errno as u32;
    for name in [
        "mount",
        "unshare",
        "setns",
        "ptrace",
        "bpf",
        "chroot",
        "pivot_root",
        "userfaultfd",
        "process_vm_readv",
        "kexec_load",
        "init_module",
        "open_by_handle_at",
        "pidfd_getfd",
    ] {
        assert_eq!(answer(name, [0; 6]), refused(libc::EPERM), "{name}");
    }
    for name in ["clone3", "io_uring_setup", "keyctl", "openat2"] {
        assert_eq!(answer(name, [0; 6]), refused(libc::ENOSYS), "{name}");
    }
    let with = |arg: usize, value: u64| {
        let mut args = [0; 6];
        args[arg] = value;
        args
    };
    assert_eq!(answer("clone", with(0, 17)), RET_ALLOW);
    assert_eq!(answer("clone", with(0, 0x3D_0F00)), RET_ALLOW, "a thread");
    for bit in
        [0x2_0000u64, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000]
    {
        assert_eq!(answer("clone", with(0, bit | 17)), refused(libc::EPERM));
    }
    assert_eq!(answer("ioctl", with(1, 0x5412)), refused(libc::ENOTTY), "TIOCSTI");
    assert_eq!(answer("socket", [2, 1, 6, 0, 0, 0]), RET_ALLOW);
    assert_eq!(answer("socket", [16, 3 | 0x8_0000, 0, 0, 0, 0]), RET_ALLOW, "getifaddrs");
    for family in [17, 38, 40, 44] {
        assert_eq!(answer("socket", [family, 1, 0, 0, 0, 0]), refused(libc::EAFNOSUPPORT));
    }
    assert_eq!(answer("socket", [2, 3, 0, 0, 0, 0]), refused(libc::EPERM), "raw");
    assert_eq!(answer("socket", [2, 2, 1, 0, 0, 0]), refused(libc::EPROTONOSUPPORT), "ping");
    assert_eq!(answer("futex", with(1, 11 | 128)), refused(libc::ENOSYS));
    assert_eq!(answer("sendmsg", with(2, 1)), refused(libc::EOPNOTSUPP));
    assert_eq!(answer("chmod", with(1, 0o4755)), refused(libc::EPERM));
    assert_eq!(answer("open", [0, 0o100, 0o4755, 0, 0, 0]), refused(libc::EPERM));
    assert_eq!(answer("open", [0, 0, 0o4755, 0, 0, 0]), RET_ALLOW, "no mode without O_CREAT");
}

proptest! {
    #[test]
    fn any_call_gets_the_same_answer(number in 0u32..520, args: [u64; 6]) {
        for arch in [Arch::X86_64, Arch::Aarch64] {
            let data = Data { number, arch: arch.audit(), args };
            prop_assert_eq!(run(&ours(arch), &data), run_stack(&reference(arch), &data));
        }
    }
}

#[test]
fn the_app_cannot_lift_its_file_size_limit() {
    for arch in [Arch::X86_64, Arch::Aarch64] {
        let program = plain(&compile(APP_ONLY, arch, Otherwise::Allow));
        assert!(program.len() < 32);
        let answer = |name: &str, args: [u64; 6]| {
            let call = TABLE.iter().flat_map(|g| g.calls).find(|c| c.name == name).unwrap();
            let number = call.number(arch).unwrap();
            run(&program, &Data { number, arch: arch.audit(), args })
        };
        let refused = RET_ERRNO | libc::EPERM as u32;
        assert_eq!(answer("setrlimit", [1, 0x7fff_0000, 0, 0, 0, 0]), refused);
        assert_eq!(answer("setrlimit", [7, 0x7fff_0000, 0, 0, 0, 0]), RET_ALLOW);
        assert_eq!(answer("prlimit64", [0, 1, 0x7fff_0000, 0, 0, 0]), refused);
        assert_eq!(answer("prlimit64", [55, 1, 0x7fff_0000, 0, 0, 0]), refused);
        assert_eq!(answer("prlimit64", [0, 1, 1 << 32, 0, 0, 0]), refused, "a page at 4 GiB");
        assert_eq!(answer("prlimit64", [0, 1, 0, 0x7fff_0000, 0, 0]), RET_ALLOW, "asking");
        assert_eq!(answer("prlimit64", [0, 7, 0x7fff_0000, 0, 0, 0]), RET_ALLOW);
        assert_eq!(answer("seccomp", [1, 0, 0, 0, 0, 0]), RET_ERRNO | libc::ENOSYS as u32);
        assert_eq!(answer("read", [0; 6]), RET_ALLOW);
        assert_eq!(answer("mount", [0; 6]), RET_ALLOW, "left to the table");
    }
}
