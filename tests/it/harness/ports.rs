//! Ports for servers that cannot choose and report one themselves.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::net::TcpListener;
use std::sync::{LazyLock, Mutex};

/// Below Linux's range for outgoing connections, so that no client takes the port before the server
/// does.
const FIRST: u16 = 10_000;
const COUNT: u16 = 22_000;

/// A port on which nothing listens. Each is returned once per process, and chosen at random,
/// because other test processes choose at the same time.
pub fn free_port() -> u16 {
    static TAKEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);
    for attempt in 0..1_000_u32 {
        let random = RandomState::new().hash_one((std::process::id(), attempt));
        let offset = u16::try_from(random % u64::from(COUNT)).unwrap();
        let port = FIRST + offset;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && TAKEN.lock().unwrap().insert(port) {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}

/// The local ports of the established connections to `port` on this machine, from the kernel's
/// list.
pub fn established_to(port: u16) -> Vec<u16> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port_of =
        |address: &str| u16::from_str_radix(address.rsplit(':').next().unwrap(), 16).unwrap();
    table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields[3] == "01" && port_of(fields[2]) == port)
        .map(|fields| port_of(fields[1]))
        .collect()
}
