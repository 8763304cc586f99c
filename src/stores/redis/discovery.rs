//! Asks sentinels or cluster nodes who is master.

use std::{collections::HashMap, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use redis::{RedisError, Value};

use super::{Connection, Purpose, RedisAccess};
use crate::config::redis_url::RedisAddress;

/// How long one query may take.
const TIMEOUT: Duration = Duration::from_millis(500);
/// How long to wait for the rest once more than half have answered: one that hangs must not delay
/// what the others agree on.
const GRACE: Duration = Duration::from_millis(20);
/// Number of slots of a cluster.
pub(crate) const SLOTS: u16 = 16_384;

/// Connections kept for the next query.
pub(crate) type Held = HashMap<RedisAddress, Connection>;

/// The masters according to one sentinel or node.
pub(crate) struct Told {
    /// Of several answers, the one with the highest number is the newest.
    pub(crate) number: u64,
    /// Without a cluster a single one, with a range of all slots.
    pub(crate) masters: Vec<Master>,
}

/// The address of a master, and the ranges of its slots.
pub(crate) type Master = (RedisAddress, Vec<(u16, u16)>);

/// Asks all concurrently, and returns the [`newest`] answer.
pub(crate) async fn ask_all(
    access: &RedisAccess,
    held: &mut Held,
    addresses: Vec<RedisAddress>,
    question: Question<'_>,
) -> Option<Told> {
    let mut asked: Vec<RedisAddress> = Vec::with_capacity(addresses.len());
    for address in addresses {
        if !asked.contains(&address) {
            asked.push(address);
        }
    }
    let most = asked.len() / 2 + 1;
    let mut answers: FuturesUnordered<_> = asked
        .into_iter()
        .map(|address| {
            let kept = held.remove(&address);
            async move { (question.ask(access, &address, kept).await, address) }
        })
        .collect();
    let mut all: Vec<Told> = Vec::new();
    let mut answered = 0;
    let mut deadline = std::pin::pin!(tokio::time::sleep(TIMEOUT));
    loop {
        let (answer, address) = tokio::select! {
            biased;
            answer = answers.next() => match answer {
                Some(answer) => answer,
                None => return newest(all),
            },
            () = &mut deadline => return newest(all),
        };
        match answer {
            Ok((told, connection)) => {
                held.insert(address, connection);
                all.extend(told);
                answered += 1;
                if answered == most {
                    let soon = tokio::time::Instant::now() + GRACE;
                    if soon < deadline.deadline() {
                        deadline.as_mut().reset(soon);
                    }
                }
            }
            Err(error) => {
                tracing::debug!(error = %error, %address, "a sentinel or cluster node does not tell who is master");
            }
        }
    }
}

/// The answer of those that know of the newest election; if they differ, the most frequent one. A
/// master that was replaced while it was paused learns the number of the election first, and for
/// some milliseconds still considers itself the master.
fn newest(mut all: Vec<Told>) -> Option<Told> {
    let number = all.iter().map(|told| told.number).max()?;
    all.retain(|told| told.number == number);
    let votes = |told: &Told| all.iter().filter(|other| other.masters == told.masters).count();
    // The first among equals, since `max_by_key` returns the last and the order is reversed.
    let place = (0..all.len()).rev().max_by_key(|place| votes(&all[*place]))?;
    Some(all.swap_remove(place))
}

/// Whom to ask for the masters.
#[derive(Clone, Copy)]
pub(crate) enum Question<'a> {
    Sentinel { service: &'a str },
    ClusterNode,
}

impl Question<'_> {
    async fn ask(
        self,
        access: &RedisAccess,
        address: &RedisAddress,
        kept: Option<Connection>,
    ) -> Result<(Option<Told>, Connection), RedisError> {
        let purpose = match self {
            Self::Sentinel { .. } => Purpose::Sentinel,
            Self::ClusterNode => Purpose::Anything,
        };
        let mut connection = match kept {
            Some(connection) => connection,
            None => access.connect(address, purpose).await?,
        };
        let told = match self {
            Self::Sentinel { service } => told_by_sentinel(
                redis::cmd("SENTINEL")
                    .arg("MASTER")
                    .arg(service)
                    .query_async(&mut *connection)
                    .await?,
            ),
            Self::ClusterNode => ask_node(&mut connection, address).await?,
        };
        Ok((told, connection))
    }
}

fn told_by_sentinel(reply: Value) -> Option<Told> {
    let fields: Vec<String> = match reply {
        Value::Map(pairs) => pairs
            .into_iter()
            .flat_map(|(name, value)| [text(name), text(value)])
            .collect::<Option<_>>()?,
        Value::Array(values) => values.into_iter().map(text).collect::<Option<_>>()?,
        _ => return None,
    };
    let field = |name: &str| {
        fields.chunks_exact(2).find(|pair| pair[0] == name).map(|pair| pair[1].as_str())
    };
    let address = RedisAddress::Tcp(field("ip")?.to_owned(), field("port")?.parse().ok()?);
    Some(Told {
        number: field("config-epoch")?.parse().ok()?,
        masters: vec![(address, vec![(0, SLOTS - 1)])],
    })
}

async fn ask_node(
    connection: &mut Connection,
    asked: &RedisAddress,
) -> Result<Option<Told>, RedisError> {
    let mut pipeline = redis::pipe();
    pipeline.cmd("CLUSTER").arg("INFO").cmd("CLUSTER").arg("SLOTS");
    let (info, slots): (String, Value) = pipeline.query_async(&mut **connection).await?;
    let number = info
        .lines()
        .find_map(|line| line.strip_prefix("cluster_current_epoch:")?.trim().parse().ok());
    Ok(number.and_then(|number| Some(Told { number, masters: masters(slots, asked)? })))
}

/// Parses the reply to `CLUSTER SLOTS`: `[first, last, [host, port, ...], replicas...]` for each
/// range. A node that does not know its own host leaves it empty: then it is the one that was
/// `asked`.
fn masters(slots: Value, asked: &RedisAddress) -> Option<Vec<Master>> {
    let Value::Array(ranges) = slots else { return None };
    let mut masters: Vec<Master> = Vec::new();
    for range in ranges {
        let Value::Array(range) = range else { return None };
        let [first, last, Value::Array(master), ..] = &*range else { return None };
        let (host, port) = (master.first()?, master.get(1)?);
        let number = |value: &Value| {
            if let Value::Int(number) = value { u16::try_from(*number).ok() } else { None }
        };
        let told = text(host.clone()).filter(|host| !host.is_empty() && host != "?");
        let host = match (told, asked) {
            (Some(host), _) => host,
            (None, RedisAddress::Tcp(asked, _)) => asked.clone(),
            (None, RedisAddress::Unix(_)) => return None,
        };
        let address = RedisAddress::Tcp(host, number(port)?);
        let slots = (number(first)?, number(last)?);
        match masters.iter_mut().find(|(known, _)| *known == address) {
            Some((_, ranges)) => ranges.push(slots),
            None => masters.push((address, vec![slots])),
        }
    }
    // Nodes list the same ranges in different orders.
    for (_, ranges) in &mut masters {
        ranges.sort_unstable();
    }
    masters.sort_by(|(_, one), (_, other)| one.cmp(other));
    Some(masters)
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use redis::parse_redis_value;

    use super::*;

    #[test]
    fn most_count_if_the_newest_election_is_told_in_two_ways() {
        let told = |number, port| {
            let address = RedisAddress::Tcp("redis.example".to_owned(), port);
            Told { number, masters: vec![(address, vec![(0, SLOTS - 1)])] }
        };
        // 1 was replaced by 2, and resumes.
        for all in [
            [(5, 1), (5, 2), (5, 2)],
            [(5, 2), (5, 1), (5, 2)],
            [(5, 2), (5, 2), (5, 1)],
            [(4, 1), (4, 1), (5, 2)],
        ] {
            let chosen = newest(all.map(|(number, port)| told(number, port)).into()).unwrap();
            assert_eq!(chosen.masters, told(5, 2).masters, "{all:?}");
        }
        assert!(newest(Vec::new()).is_none());
    }

    #[test]
    fn a_sentinel_names_the_master_and_how_new_that_is() {
        let wire = "*6\r\n$2\r\nip\r\n$9\r\n127.0.0.1\r\n$4\r\nport\r\n$4\r\n7001\r\n$12\r\nconfig-epoch\r\n$1\r\n3\r\n";
        let told = told_by_sentinel(parse_redis_value(wire.as_bytes()).unwrap()).unwrap();
        assert_eq!(
            (told.number, &told.masters[0].0),
            (3, &RedisAddress::Tcp("127.0.0.1".to_owned(), 7001))
        );
        for wire in [
            "*0\r\n",
            "$-1\r\n",
            "-ERR No such master with that name\r\n",
            "*2\r\n$2\r\nip\r\n$1\r\nx\r\n",
        ] {
            assert!(
                told_by_sentinel(parse_redis_value(wire.as_bytes()).unwrap()).is_none(),
                "{wire:?}"
            );
        }
    }

    #[test]
    fn the_masters_of_a_cluster_have_their_ranges() {
        let range = |first: i64, last: i64, host: &str, port: i64| {
            let node = vec![
                Value::BulkString(host.into()),
                Value::Int(port),
                Value::BulkString(b"id".to_vec()),
            ];
            Value::Array(vec![
                Value::Int(first),
                Value::Int(last),
                Value::Array(node.clone()),
                Value::Array(node),
            ])
        };
        let slots = Value::Array(vec![
            range(0, 99, "10.0.0.1", 1),
            range(100, 199, "", 2),
            range(200, 299, "10.0.0.1", 1),
        ]);
        let named = |host: &str, port| RedisAddress::Tcp(host.to_owned(), port);
        let found = masters(slots, &named("10.0.0.9", 1)).unwrap();
        assert_eq!(
            found,
            [
                (named("10.0.0.1", 1), vec![(0, 99), (200, 299)]),
                (named("10.0.0.9", 2), vec![(100, 199)])
            ]
        );
        let unknown = Value::Array(vec![Value::Array(vec![
            Value::Int(0),
            Value::Int(99),
            Value::Array(vec![Value::Nil, Value::Int(3), Value::BulkString(b"id".to_vec())]),
        ])]);
        let found = masters(unknown, &named("redis.example", 1)).unwrap();
        assert_eq!(
            found[0].0,
            named("redis.example", 3),
            "`cluster-preferred-endpoint-type unknown-endpoint`"
        );
        assert!(
            masters(Value::Array(vec![range(0, 70_000, "10.0.0.1", 1)]), &named("", 1)).is_none()
        );
        assert!(masters(Value::Nil, &named("", 1)).is_none());
    }
}
