//! How much memory nonces use in Redis.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use countersign::domain::algorithm::Algorithm;

use super::{Target, seed::Registry, thousands};
use crate::{
    server::{Placement, Server},
    table::Section,
    tokens::Signer,
};

/// Long enough that no nonce expires during the measurement.
const TOLERANCE: &str = "10m";

/// Growth of Redis in bytes per nonce of an allowed decision.
pub(super) async fn measure(nonces: usize) -> Section {
    let registry = Registry::new(1, 1, Algorithm::EdDsa, 1).await;
    let redis = Server::redis(Placement { is_pinned: false }, registry.dir());
    let url = format!("redis://{}", redis.address);
    let settings = [("COUNTERSIGN_SELF_SIGNED__TOLERANCE", TOLERANCE)];
    let server =
        Server::countersign_with(Placement { is_pinned: false }, registry.dir(), &url, &settings);
    let mut target = Target::of(server).await;
    let signers: Vec<Signer> = (0..nonces).map(|_| registry.signer(0)).collect();
    // Do not count memory for connections and buffers as memory for nonces.
    target.ask_each(&signers[..nonces / 20]).await;
    let [before, now] = [Held::by(redis.address), {
        target.ask_each(&signers).await;
        Held::by(redis.address)
    }];
    let (count, bytes) = (now.keys - before.keys, now.bytes - before.bytes);
    let each = bytes as f64 / count as f64;
    println!("redis: {count} nonces, {each:.0} bytes each");
    Section {
        notes: vec![format!(
            "Redis: a live nonce takes {each:.0} bytes (`used_memory` over {}, which includes Redis's own tables).",
            thousands(count)
        )],
        ..Section::default()
    }
}

/// The memory and keys that a Redis reports.
struct Held {
    keys: usize,
    bytes: usize,
}

impl Held {
    fn by(redis: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(redis).unwrap();
        stream.write_all(b"INFO\r\nQUIT\r\n").unwrap();
        let mut info = String::new();
        stream.read_to_string(&mut info).unwrap();
        let number = |name: &str, end: char| -> usize {
            let rest =
                &info[info.find(name).unwrap_or_else(|| panic!("Redis says nothing of {name}"))
                    + name.len()..];
            rest.split(end).next().unwrap().trim().parse().unwrap()
        };
        Self { keys: number("db0:keys=", ','), bytes: number("\nused_memory:", '\r') }
    }
}
