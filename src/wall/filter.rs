//! The filter of system calls: three that reach past namespaces and Landlock.
//!
//! - `ioctl(TIOCSTI)` and `ioctl(TIOCLINUX)` type into the terminal, which is the user's shell's afterwards;
//! - `prlimit64` of another process sets a CPU limit that kills it, through user namespace and signal scope.
//!
//! They are refused with EPERM for native and 32-bit programs; x32 programs, whose numbers are others, are refused altogether. Only the lower half
//! of an argument is looked at, as the kernel itself does: a value with the upper half set would otherwise pass.
//!
//! Where the command has a network of its own, sockets of families that no network holds (vsock leads to the host of a virtual machine) are
//! refused too, and with them the ways to make a socket that the filter cannot look into: `socketcall` and `io_uring`.

use libc::sock_filter;

const LOAD: u16 = code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS);
const JUMP_EQ: u16 = code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
const JUMP_GE: u16 = code(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K);
const RETURN: u16 = code(libc::BPF_RET | libc::BPF_K);

/// An instruction's code, which is less than 2^16.
#[expect(clippy::cast_possible_truncation, reason = "the kernel's field has 16 bits")]
const fn code(parts: u32) -> u16 {
    parts as u16
}

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
/// The lower half of the argument `n`, on little-endian machines.
const fn argument(n: u32) -> u32 {
    16 + 8 * n
}

const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541c;

/// The numbers of one architecture.
struct Numbers {
    architecture: u32,
    ioctl: u32,
    prlimit64: u32,
    socket: u32,
    /// Its arguments lie in memory.
    socketcall: Option<u32>,
    io_uring_setup: u32,
    /// From this number on it is another architecture's call.
    end: Option<u32>,
}

#[cfg(target_arch = "x86_64")]
const KNOWN: [Numbers; 2] = [
    Numbers {
        architecture: 0xc000_003e,
        ioctl: 16,
        prlimit64: 302,
        socket: 41,
        socketcall: None,
        io_uring_setup: 425,
        end: Some(0x4000_0000),
    },
    Numbers { architecture: 0x4000_0003, ioctl: 54, prlimit64: 340, socket: 359, socketcall: Some(102), io_uring_setup: 425, end: None },
];
#[cfg(target_arch = "aarch64")]
const KNOWN: [Numbers; 2] = [
    Numbers { architecture: 0xc000_00b7, ioctl: 29, prlimit64: 261, socket: 198, socketcall: None, io_uring_setup: 425, end: None },
    Numbers { architecture: 0x4000_0028, ioctl: 54, prlimit64: 369, socket: 281, socketcall: None, io_uring_setup: 425, end: None },
];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const KNOWN: [Numbers; 0] = [];

const fn load(offset: u32) -> sock_filter {
    sock_filter { code: LOAD, jt: 0, jf: 0, k: offset }
}

const fn end(k: u32) -> sock_filter {
    sock_filter { code: RETURN, jt: 0, jf: 0, k }
}

/// Goes on after `skip` instructions unless the loaded value is `k`.
const fn unless(k: u32, skip: u8) -> sock_filter {
    sock_filter { code: JUMP_EQ, jt: 0, jf: skip, k }
}

/// Whether this machine's numbers are known.
pub(super) const fn is_known() -> bool {
    !KNOWN.is_empty()
}

/// What a network namespace holds, or leads nowhere: unix, inet, inet6, netlink, packet, alg.
const FAMILIES: [u32; 6] = [1, 2, 10, 16, 17, 38];
const NO_SUCH_FAMILY: u32 = libc::SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT as u32;
const NO_SUCH_CALL: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// Refuses sockets outside of the command's own network. The number is loaded already.
fn sockets(numbers: &Numbers) -> Vec<sock_filter> {
    let mut block = vec![unless(numbers.io_uring_setup, 1), end(NO_SUCH_CALL)];
    if let Some(socketcall) = numbers.socketcall {
        block.extend([unless(socketcall, 1), end(NO_SUCH_CALL)]);
    }
    block.push(unless(numbers.socket, 2 + 2 * u8::try_from(FAMILIES.len()).unwrap_or(u8::MAX)));
    block.push(load(argument(0)));
    block.extend(FAMILIES.iter().flat_map(|family| [unless(*family, 1), end(ALLOW)]));
    block.push(end(NO_SUCH_FAMILY));
    block
}

/// The program. Every block ends in a return, so that no jump leaves its block.
pub(super) fn program(own_network: bool) -> Vec<sock_filter> {
    let mut program = Vec::new();
    for numbers in KNOWN {
        let mut block = vec![load(NUMBER)];
        if let Some(first_foreign) = numbers.end {
            block.push(sock_filter { code: JUMP_GE, jt: 0, jf: 1, k: first_foreign });
            block.push(end(REFUSE));
        }
        if own_network {
            block.append(&mut sockets(&numbers));
        }
        block.push(unless(numbers.ioctl, 6));
        block.extend([load(argument(1)), unless(TIOCSTI, 1), end(REFUSE), unless(TIOCLINUX, 1), end(REFUSE), end(ALLOW)]);
        block.push(unless(numbers.prlimit64, 4));
        // 0 is the caller itself.
        block.extend([load(argument(0)), sock_filter { code: JUMP_EQ, jt: 0, jf: 1, k: 0 }, end(ALLOW), end(REFUSE)]);
        block.push(end(ALLOW));
        program.push(load(ARCHITECTURE));
        program.push(unless(numbers.architecture, u8::try_from(block.len()).unwrap_or(u8::MAX)));
        program.append(&mut block);
    }
    // No architecture that this kernel runs.
    program.push(end(REFUSE));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would answer; every path is walked, so an offset that is wrong shows.
    fn run(program: &[sock_filter], architecture: u32, number: u32, args: [u64; 2]) -> u32 {
        let (mut at, mut loaded) = (0, 0);
        loop {
            let step = program[at];
            at += 1;
            match step.code {
                LOAD => {
                    loaded = match step.k {
                        NUMBER => number,
                        ARCHITECTURE => architecture,
                        k if k == argument(0) => u32::try_from(args[0] & 0xffff_ffff).unwrap(),
                        k if k == argument(1) => u32::try_from(args[1] & 0xffff_ffff).unwrap(),
                        other => panic!("loads {other}"),
                    }
                }
                JUMP_EQ => at += usize::from(if loaded == step.k { step.jt } else { step.jf }),
                JUMP_GE => at += usize::from(if loaded >= step.k { step.jt } else { step.jf }),
                RETURN => return step.k,
                other => panic!("code {other}"),
            }
        }
    }

    #[test]
    fn the_three_calls_are_refused_in_every_disguise_and_nothing_else() {
        let program = program(false);
        for numbers in KNOWN {
            let call = |number, args| run(&program, numbers.architecture, number, args);
            for command in [TIOCSTI, TIOCLINUX] {
                assert_eq!(call(numbers.ioctl, [0, command.into()]), REFUSE);
                assert_eq!(call(numbers.ioctl, [0, u64::from(command) | 0xdead_0000_0000]), REFUSE);
            }
            assert_eq!(call(numbers.ioctl, [0, 0x5401]), ALLOW);
            assert_eq!(call(numbers.prlimit64, [0, 7]), ALLOW);
            assert_eq!(call(numbers.prlimit64, [0xdead_0000_0000, 7]), ALLOW, "the kernel takes it for 0 too");
            assert_eq!(call(numbers.prlimit64, [4711, u64::from(TIOCSTI)]), REFUSE);
            for number in (0..500).filter(|number| ![numbers.ioctl, numbers.prlimit64].contains(number)) {
                assert_eq!(call(number, [1, TIOCSTI.into()]), ALLOW, "{number}");
            }
            if let Some(first) = numbers.end {
                assert_eq!(call(first + 1, [0, 0]), REFUSE);
            }
        }
        assert_eq!(run(&program, 0xdead_beef, 1, [0, 0]), REFUSE);
    }

    #[test]
    fn in_a_network_of_its_own_only_sockets_of_that_network_are_made_and_all_else_stays() {
        let (own, open) = (program(true), program(false));
        for numbers in KNOWN {
            let of = |program: &[sock_filter], number, argument: u64| run(program, numbers.architecture, number, [argument, 0x5401]);
            for family in 0..64 {
                let expected = if FAMILIES.contains(&family) { ALLOW } else { NO_SUCH_FAMILY };
                assert_eq!(of(&own, numbers.socket, family.into()), expected, "{family}");
                assert_eq!(of(&own, numbers.socket, u64::from(family) | 0xdead_0000_0000), expected, "{family}");
            }
            assert_eq!(of(&open, numbers.socket, 40), ALLOW);
            let refused = [Some(numbers.io_uring_setup), numbers.socketcall];
            refused.into_iter().flatten().for_each(|number| assert_eq!(of(&own, number, 0), NO_SUCH_CALL));
            for number in (0..500).filter(|number| *number != numbers.socket && !refused.contains(&Some(*number))) {
                assert_eq!(of(&own, number, 7), of(&open, number, 7), "{number}");
            }
        }
    }
}
