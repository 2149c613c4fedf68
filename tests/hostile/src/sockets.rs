//! Attacks over sockets: families that no namespace confines, and listeners outside.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::attack::{Attack, Context, Outcome, answer, refused};
use crate::sys::call;

macro_rules! family {
    ($name:literal, $family:expr, $kind:expr, $protocol:expr, $tries:literal) => {
        Attack {
            name: $name,
            tries: $tries,
            layer: "seccomp (socket families and types)",
            safe_bare: true,
            attempt: |_| {
                answer(
                    call(libc::SYS_socket, &[$family as i64, $kind as i64, $protocol as i64]),
                    "a socket",
                )
            },
        }
    };
}

pub const ATTACKS: &[Attack] = &[
    family!(
        "vsock",
        libc::AF_VSOCK,
        libc::SOCK_STREAM,
        0,
        "AF_VSOCK: reaches the hypervisor, no namespace holds it"
    ),
    family!("packet", libc::AF_PACKET, libc::SOCK_RAW, 0, "AF_PACKET"),
    family!("raw-inet", libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP, "raw IPv4"),
    family!("raw-inet6", libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6, "raw IPv6"),
    family!("ping", libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP, "an ICMP datagram socket"),
    family!("netlink-generic", libc::AF_NETLINK, libc::SOCK_RAW, 16, "generic netlink"),
    family!("netlink-audit", libc::AF_NETLINK, libc::SOCK_RAW, 9, "audit netlink"),
    family!("netlink-netfilter", libc::AF_NETLINK, libc::SOCK_RAW, 12, "netfilter netlink"),
    family!("netlink-uevent", libc::AF_NETLINK, libc::SOCK_RAW, 15, "kernel events"),
    family!("alg", 38, libc::SOCK_SEQPACKET, 0, "AF_ALG"),
    family!("tipc", 30, libc::SOCK_STREAM, 0, "AF_TIPC"),
    family!("bluetooth", 31, libc::SOCK_STREAM, 0, "AF_BLUETOOTH"),
    family!("can", 29, libc::SOCK_RAW, 1, "AF_CAN"),
    family!("rds", 21, libc::SOCK_SEQPACKET, 0, "AF_RDS"),
    family!("smc", 43, libc::SOCK_STREAM, 0, "AF_SMC"),
    family!("xdp", 44, libc::SOCK_RAW, 0, "AF_XDP"),
    family!("sctp", libc::AF_INET, libc::SOCK_STREAM, 132, "SCTP"),
    family!("mptcp", libc::AF_INET, libc::SOCK_STREAM, 262, "MPTCP"),
    Attack {
        name: "tcp-outside",
        tries: "connect to a listener on the host's 127.0.0.1",
        layer: "network namespace",
        safe_bare: true,
        attempt: tcp_outside,
    },
    Attack {
        name: "abstract-outside",
        tries: "connect to an abstract socket of the host",
        layer: "network namespace",
        safe_bare: true,
        attempt: abstract_outside,
    },
    Attack {
        name: "interfaces",
        tries: "look for an interface other than loopback",
        layer: "network namespace",
        safe_bare: true,
        attempt: interfaces,
    },
    Attack {
        name: "door-interfaces",
        tries: "ask fd 3 for an interface other than loopback",
        layer: "network namespace",
        // Only a grain has fd 3.
        safe_bare: false,
        attempt: door_interfaces,
    },
    Attack {
        name: "door-name",
        tries: "give fd 3 an abstract name of the host's",
        layer: "network namespace",
        safe_bare: false,
        attempt: door_name,
    },
    Attack {
        name: "route-out",
        tries: "connect to a public address",
        layer: "network namespace",
        // Outside it would send a packet to somebody else's machine.
        safe_bare: false,
        attempt: |_| {
            let address: SocketAddr = ([192, 0, 2, 1], 80).into();
            match TcpStream::connect_timeout(&address, Duration::from_millis(500)) {
                Ok(_) => Outcome::Succeeded("connected".into()),
                Err(error) if error.raw_os_error() == Some(libc::ENETUNREACH) => {
                    Outcome::Refused(error.to_string())
                }
                // Somebody's answer, or none: there was a way out.
                Err(error) => Outcome::Succeeded(format!("a packet left: {error}")),
            }
        },
    },
    Attack {
        name: "linger",
        tries: "make whoever closes a socket, a kernel's worker say, wait for its other end (SO_LINGER)",
        layer: "seccomp (socket options)",
        safe_bare: true,
        attempt: linger,
    },
    Attack {
        name: "msg-oob",
        tries: "MSG_OOB on a Unix stream (2025-38236)",
        layer: "seccomp (flags of send)",
        safe_bare: true,
        attempt: |_| {
            let mut pair = [0i32; 2];
            let kind = i64::from(libc::SOCK_STREAM);
            if call(libc::SYS_socketpair, &[1, kind, 0, pair.as_mut_ptr() as i64]) == -1 {
                return refused();
            }
            let byte = 1u8;
            answer(
                call(
                    libc::SYS_sendto,
                    &[
                        i64::from(pair[0]),
                        &raw const byte as i64,
                        1,
                        i64::from(libc::MSG_OOB),
                        0,
                        0,
                    ],
                ),
                "an out-of-band byte",
            )
        },
    },
];

fn tcp_outside(context: &Context) -> Outcome {
    let Some(port) = context.tcp else {
        return Outcome::Refused("no listener was named".into());
    };
    let address: SocketAddr = ([127, 0, 0, 1], port).into();
    match TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
        Ok(_) => Outcome::Succeeded("connected".into()),
        Err(error) => Outcome::Refused(error.to_string()),
    }
}

fn abstract_outside(context: &Context) -> Outcome {
    use std::os::linux::net::SocketAddrExt;
    let Some(name) = &context.abstract_name else {
        return Outcome::Refused("no socket was named".into());
    };
    let connected = std::os::unix::net::SocketAddr::from_abstract_name(name)
        .and_then(|address| std::os::unix::net::UnixStream::connect_addr(&address));
    match connected {
        Ok(_) => Outcome::Succeeded("connected".into()),
        Err(error) => Outcome::Refused(error.to_string()),
    }
}

fn linger(_: &Context) -> Outcome {
    let socket = call(libc::SYS_socket, &[2, i64::from(libc::SOCK_STREAM), 0]);
    let mut linger = libc::linger { l_onoff: 1, l_linger: 3600 };
    let option = i64::from(libc::SO_LINGER);
    if socket == -1
        || call(libc::SYS_setsockopt, &[socket, 1, option, &raw const linger as i64, 8]) == -1
    {
        return refused();
    }
    linger.l_onoff = 0;
    let mut length = 8u32;
    let (to, size) = (&raw mut linger as i64, &raw mut length as i64);
    if call(libc::SYS_getsockopt, &[socket, 1, option, to, size]) == -1 {
        return refused();
    }
    match linger.l_onoff {
        0 => Outcome::Refused("without effect".into()),
        _ => Outcome::Succeeded(format!("a close waits {} s", linger.l_linger)),
    }
}

/// A socket belongs to the network that its maker was in, whoever has it now.
const DOOR: i32 = 3;

fn door_interfaces(_: &Context) -> Outcome {
    const LONGEST: usize = 16;
    for number in 1..64i32 {
        // struct ifreq: a name, and here the number asked for.
        let mut request = [0u8; 40];
        request[LONGEST..LONGEST + 4].copy_from_slice(&number.to_ne_bytes());
        // SAFETY: the kernel reads and writes one `struct ifreq`, 40 bytes.
        let done = unsafe { libc::ioctl(DOOR, libc::SIOCGIFNAME as _, request.as_mut_ptr()) };
        let name = request[..LONGEST].split(|b| *b == 0).next().unwrap_or_default();
        if done == 0 && name != b"lo" {
            return Outcome::Succeeded(String::from_utf8_lossy(name).into_owned());
        }
    }
    Outcome::Refused("loopback at most".into())
}

fn door_name(context: &Context) -> Outcome {
    let Some(name) = &context.abstract_name else {
        return Outcome::Refused("no socket was named".into());
    };
    let mut address = vec![libc::AF_UNIX as u8, 0, 0];
    address.extend_from_slice(name.as_bytes());
    let result =
        call(libc::SYS_bind, &[i64::from(DOOR), address.as_ptr() as i64, address.len() as i64]);
    if result == -1 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EADDRINUSE) {
        return Outcome::Succeeded("the host has it: one more would have been taken".into());
    }
    if result == 0 { Outcome::Refused("a name of the grain's own".into()) } else { refused() }
}

fn interfaces(_: &Context) -> Outcome {
    // SAFETY: if_nameindex returns a list that ends with index 0; it is only read here.
    let count = unsafe {
        let list = libc::if_nameindex();
        if list.is_null() {
            return refused();
        }
        (0..).take_while(|i| (*list.add(*i)).if_index != 0).count()
    };
    if count > 1 {
        Outcome::Succeeded(format!("{count} interfaces"))
    } else {
        Outcome::Refused("loopback at most".into())
    }
}
