//! A Redis cluster of three masters with a replica each, which fails over quickly.

use std::time::Duration;

use super::nonces::cli;
use super::{Redis, eventually, free_port};

/// Timeout for the nodes to find each other, and for a failover.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long a node must not answer before the others consider it down.
const NODE_TIMEOUT_MS: &str = "1000";
const SLOTS: [(&str, &str); 3] = [("0", "5460"), ("5461", "10922"), ("10923", "16383")];

pub struct ReplicatedCluster {
    pub masters: Vec<Redis>,
    /// The replica at each index belongs to the master at the same index.
    pub replicas: Vec<Redis>,
}

impl ReplicatedCluster {
    pub fn start() -> Self {
        let bus_ports: Vec<String> = (0..6).map(|_| free_port().to_string()).collect();
        let mut nodes: Vec<Redis> = bus_ports.iter().map(|bus_port| node(bus_port)).collect();
        for (node, (first, last)) in nodes.iter().zip(SLOTS) {
            assert_eq!(node.command(&["CLUSTER", "ADDSLOTSRANGE", first, last]), "OK");
        }
        for (node, bus_port) in nodes.iter().zip(&bus_ports).skip(1) {
            let (host, port) = (node.address.ip().to_string(), node.address.port().to_string());
            assert_eq!(nodes[0].command(&["CLUSTER", "MEET", &host, &port, bus_port]), "OK");
        }
        for node in &nodes {
            eventually("the nodes know each other", PATIENCE, || {
                let known = node.command(&["CLUSTER", "NODES"]);
                (known.lines().count() == 6 && !known.contains("handshake")).then_some(())
            });
        }
        let replicas = nodes.split_off(3);
        for (master, replica) in nodes.iter().zip(&replicas) {
            let id = master.command(&["CLUSTER", "MYID"]);
            eventually("a replica knows its master", PATIENCE, || {
                (cli(replica.address, &["CLUSTER", "REPLICATE", &id]) == "OK").then_some(())
            });
            replica.is_in_sync();
        }
        let cluster = Self { masters: nodes, replicas };
        for node in cluster.masters.iter().chain(&cluster.replicas) {
            eventually("every node sees every slot and every role", PATIENCE, || {
                let is_ok = node.command(&["CLUSTER", "INFO"]).contains("cluster_state:ok");
                let roles = node.command(&["CLUSTER", "NODES"]);
                let replicas = roles.lines().filter(|line| {
                    line.split(' ').nth(2).is_some_and(|flags| flags.contains("slave"))
                });
                (is_ok && replicas.count() == 3).then_some(())
            });
        }
        cluster
    }

    pub fn url(&self) -> String {
        let masters: Vec<String> =
            self.masters.iter().map(|node| node.address.to_string()).collect();
        format!("redis+cluster://{}", masters.join(","))
    }

    /// Waits until the replica at that index is a master, and the cluster accepts claims.
    pub fn has_failed_over(&self, number: usize) {
        let promoted = &self.replicas[number];
        eventually("the replica takes over", PATIENCE, || {
            let is_master = promoted.info("replication").contains("role:master");
            (is_master && promoted.command(&["CLUSTER", "INFO"]).contains("cluster_state:ok"))
                .then_some(())
        });
    }
}

fn node(bus_port: &str) -> Redis {
    // The default bus port, the port plus 10,000, may be above 65535.
    Redis::start_with(&[
        "--cluster-enabled",
        "yes",
        "--cluster-port",
        bus_port,
        "--cluster-node-timeout",
        NODE_TIMEOUT_MS,
    ])
}
