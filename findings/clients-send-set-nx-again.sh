#!/usr/bin/env bash
# The answer to `SET NX` is lost with the connection: two of three client libraries send the command again and get nil.
#
# One would guess: a client library raises a connection error, because SET NX must not be sent twice, and the caller decides.
# What happens with their defaults, if the server executed the command and the connection ends before the reply:
#   redis-py 8.1.0: connects again, sends SET NX again, returns None: "held by somebody else", who is the caller itself. asyncio likewise,
#     and a pipeline without a transaction is sent again whole.
#   ioredis 6.0.0: the same, null.
#   valkey-py 6.2.0, a fork of redis-py: ConnectionError, and the command was sent once.
# Why it matters: a claim (nonce, lock, idempotency key) taken with SET NX then refuses its rightful owner after a failover or a dropped
# connection, with no error in any log. A claim needs a value of its own to be recognised by, or retries turned off.
set -euo pipefail

tmp=$(mktemp -d)
pids=()
finish() {
    local pid
    for pid in "${pids[@]}"; do
        kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    rm -rf "$tmp"
}
trap finish EXIT

changed=0
# What was asked, the answer on record, the answer of this run.
expect() {
    if [ "$2" = "$3" ]; then
        echo "as recorded: $1: $3"
    else
        echo "CHANGED: $1: recorded '$2', now '$3'"
        changed=1
    fi
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# Starts a server on a free port and leaves the port in `port`, the process in `pid`.
start() {
    local program=$1
    shift
    port=$(free_port)
    mkdir -p "$tmp/$port"
    "$program" --bind 127.0.0.1 --port "$port" --dir "$tmp/$port" --save '' --appendonly no "$@" >"$tmp/$port/log" 2>&1 &
    pid=$!
    pids+=("$pid")
    for _ in $(seq 100); do
        [ "$(redis-cli -p "$port" ping 2>/dev/null)" = PONG ] && return
        sleep 0.1
    done
    echo "$program did not start" >&2
    exit 2
}

redis=$(command -v redis-server)
"$redis" --version | grep -q 'v=7\.0\.15 ' || { echo 'needs Redis 7.0.15' >&2; exit 2; }

python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check 'redis==8.1.0' 'valkey==6.2.0'
(cd "$tmp" && npm install --silent --no-audit --no-fund --prefix "$tmp" ioredis@6.0.0 >/dev/null)
start "$redis"

cat >"$tmp/lose.py" <<'PYTHON'
"""A proxy in front of the server that ends the connection instead of handing on the reply to one SET."""
import asyncio
import subprocess
import sys

import redis
import valkey

server_port = int(sys.argv[1])
to_lose = 0


async def connection(reader, writer):
    global to_lose
    server_reader, server_writer = await asyncio.open_connection("127.0.0.1", server_port)
    try:
        while request := await reader.read(65536):
            server_writer.write(request)
            reply = await server_reader.read(65536)
            if b"claim" in request and to_lose:
                to_lose -= 1
                return
            writer.write(reply)
    except ConnectionError:
        pass
    finally:
        writer.close()
        server_writer.close()


def redis_py(port):
    client = redis.Redis(port=port)
    client.ping()
    return client.set("claim", "mine", nx=True, ex=60)


def redis_py_pipeline(port):
    client = redis.Redis(port=port)
    client.ping()
    return client.pipeline(transaction=False).set("claim", "mine", nx=True, ex=60).execute()[0]


def redis_py_asyncio(port):
    async def claim():
        async with redis.asyncio.Redis(port=port) as client:
            await client.ping()
            return await client.set("claim", "mine", nx=True, ex=60)

    return asyncio.run(claim())


def valkey_py(port):
    client = valkey.Valkey(port=port)
    client.ping()
    return client.set("claim", "mine", nx=True, ex=60)


def ioredis(port):
    program = """
        const ioredis = require('ioredis');
        const client = new (ioredis.Redis ?? ioredis)({ port: Number(process.argv[1]), host: '127.0.0.1' });
        client.on('error', () => {});
        client.ping()
            .then(() => client.set('claim', 'mine', 'EX', 60, 'NX'))
            .then(String, (error) => error.name)
            .then((answer) => { console.log(answer); client.disconnect(); });
    """
    answer = subprocess.run(["node", "-e", program, str(port)], capture_output=True, text=True, timeout=30).stdout.strip()
    return None if answer == "null" else answer


async def main():
    global to_lose
    proxy = await asyncio.start_server(connection, "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    direct = redis.Redis(port=server_port)
    for client in [redis_py, redis_py_pipeline, redis_py_asyncio, valkey_py, ioredis]:
        direct.flushall()
        direct.config_resetstat()
        to_lose = 1
        try:
            answer = await asyncio.to_thread(client, port)
        except (redis.ConnectionError, valkey.ConnectionError):
            answer = "ConnectionError"
        sent = direct.info("commandstats")["cmdstat_set"]["calls"]
        print(f"{client.__name__}: {answer}, sent {sent}, stored {direct.get('claim').decode()}")


asyncio.run(main())
PYTHON
cd "$tmp"
timeout 55 "$tmp/venv/bin/python" "$tmp/lose.py" "$port" >"$tmp/seen"
seen() { sed -n "s/^$1: //p" "$tmp/seen"; }
expect redis-py 'None, sent 2, stored mine' "$(seen redis_py)"
expect 'redis-py, pipeline' 'None, sent 2, stored mine' "$(seen redis_py_pipeline)"
expect 'redis-py, asyncio' 'None, sent 2, stored mine' "$(seen redis_py_asyncio)"
expect valkey-py 'ConnectionError, sent 1, stored mine' "$(seen valkey_py)"
expect ioredis 'None, sent 2, stored mine' "$(seen ioredis)"
exit "$changed"
