//! A relay in front of a real Redis that replaces its replies to claims, which are commands of the
//! form `SET ... NX ...`, with those that the test sets. Everything else passes unchanged.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

pub struct ScriptedRedis {
    pub address: SocketAddr,
    script: Arc<Mutex<Script>>,
}

#[derive(Clone, Default)]
enum Script {
    /// Claims pass unchanged.
    #[default]
    Pass,
    /// Claims do not reach Redis, and are answered with these bytes.
    Reply(Vec<u8>),
    /// Like `Reply`, and then the connection is closed.
    ReplyAndClose(Vec<u8>),
}

impl ScriptedRedis {
    pub async fn before(redis: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::new(Mutex::new(Script::default()));
        let shared = Arc::clone(&script);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(relay(client, redis, Arc::clone(&shared)));
            }
        });
        Self { address, script }
    }

    /// From now on claims are answered with `reply`, in wire format.
    pub fn reply(&self, reply: &str) {
        *self.script.lock().unwrap() = Script::Reply(reply.as_bytes().to_vec());
    }

    /// From now on claims are answered with `reply`, and the connection is closed.
    pub fn reply_and_close(&self, reply: &str) {
        *self.script.lock().unwrap() = Script::ReplyAndClose(reply.as_bytes().to_vec());
    }

    /// From now on claims reach Redis.
    pub fn pass(&self) {
        *self.script.lock().unwrap() = Script::Pass;
    }
}

async fn relay(client: TcpStream, redis: SocketAddr, script: Arc<Mutex<Script>>) {
    let Ok(redis) = TcpStream::connect(redis).await else { return };
    let (from_client, mut to_client) = client.into_split();
    let (from_redis, mut to_redis) = redis.into_split();
    let (mut from_client, mut from_redis) =
        (BufReader::new(from_client), BufReader::new(from_redis));
    // One command after the other: the commands of a pipeline are answered in order.
    while let Some(command) = read_value(&mut from_client).await {
        let script = if is_claim(&command) { script.lock().unwrap().clone() } else { Script::Pass };
        match script {
            Script::Pass => {
                if !pass(&command, &mut to_redis, &mut from_redis, &mut to_client).await {
                    return;
                }
            }
            Script::Reply(reply) => {
                if to_client.write_all(&reply).await.is_err() {
                    return;
                }
            }
            Script::ReplyAndClose(reply) => {
                let _ = to_client.write_all(&reply).await;
                return;
            }
        }
    }
}

async fn pass(
    command: &[u8],
    to_redis: &mut OwnedWriteHalf,
    from_redis: &mut BufReader<OwnedReadHalf>,
    to_client: &mut OwnedWriteHalf,
) -> bool {
    if to_redis.write_all(command).await.is_err() {
        return false;
    }
    let Some(reply) = read_value(from_redis).await else { return false };
    to_client.write_all(&reply).await.is_ok()
}

fn is_claim(command: &[u8]) -> bool {
    let has = |word: &[u8]| command.windows(word.len()).any(|window| window == word);
    has(b"\r\nSET\r\n") && has(b"\r\nNX\r\n")
}

/// One value of the protocol, RESP2 or RESP3, as received.
async fn read_value(from: &mut BufReader<OwnedReadHalf>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut values_left = 1_usize;
    while values_left > 0 {
        values_left -= 1;
        let start = bytes.len();
        if from.read_until(b'\n', &mut bytes).await.ok()? == 0 {
            return None;
        }
        let (kind, length) = (bytes[start], &bytes[start + 1..bytes.len() - 2]);
        let length: usize =
            std::str::from_utf8(length).ok().and_then(|length| length.parse().ok()).unwrap_or(0);
        match kind {
            b'$' | b'=' if !bytes[start..].starts_with(b"$-1") => {
                let end = bytes.len();
                bytes.resize(end + length + 2, 0);
                from.read_exact(&mut bytes[end..]).await.ok()?;
            }
            b'*' | b'~' | b'>' => values_left += length,
            b'%' => values_left += 2 * length,
            _ => {}
        }
    }
    Some(bytes)
}
