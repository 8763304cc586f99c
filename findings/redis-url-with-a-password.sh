#!/usr/bin/env bash
# A Redis URL with only a password means two opposite things: redis-cli and the client libraries cannot share one.
#
# One would guess: `redis://:secret@host` logs in with the password `secret`, for redis-cli as for the libraries that document this form.
# What happens, at a server with `requirepass secret`: redis-cli 7.0.15 takes `:secret@` for an empty user name, is refused (WRONGPASS) and goes on
# without a login; it wants `redis://secret@host`. redis-py 8.1.0, ioredis 6.0.0 and node-redis 6.3.1 log in with `:secret@` and take `secret@` for a user name
# without a password. Only `redis://default:secret@host` works with all four. With a database as well, redis-py prefers `?db=2` to the path `/1`; the others
# use the path.
# Why it matters: a URL that was tried with redis-cli fails in the service, and the other way round, and the error speaks of a wrong password.
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

redis-server --version | grep -q 'v=7\.0\.15 ' || { echo 'needs Redis 7.0.15' >&2; exit 2; }
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check redis==8.1.0
npm install --silent --no-audit --no-fund --prefix "$tmp" ioredis@6.0.0 redis@6.3.1 >/dev/null

port=$(free_port)
redis-server --bind 127.0.0.1 --port "$port" --dir "$tmp" --save '' --requirepass secret >"$tmp/log" 2>&1 &
pids+=("$!")
for _ in $(seq 100); do
    redis-cli -p "$port" ping >/dev/null 2>&1 && break
    sleep 0.1
done
for database in 1 2; do
    redis-cli -u "redis://default:secret@127.0.0.1:$port/$database" SET where "$database" >/dev/null 2>&1
done

cat >"$tmp/ask.py" <<'PYTHON'
import sys

import redis

try:
    print((redis.Redis.from_url(sys.argv[1], decode_responses=True).get("where")) or "nothing")
except redis.exceptions.RedisError:
    print("refused")
PYTHON
cat >"$tmp/ask.mjs" <<'JAVASCRIPT'
import Redis from 'ioredis';
import { createClient } from 'redis';
const [library, url] = process.argv.slice(2);
const clients = {
  ioredis: () => {
    const client = new Redis(url, { lazyConnect: true, retryStrategy: null });
    client.on('error', () => {});
    return client;
  },
  'node-redis': () => createClient({ url, socket: { reconnectStrategy: false } }).on('error', () => {}),
};
try {
  const client = clients[library]();
  await client.connect();
  console.log((await client.get('where')) ?? 'nothing');
} catch {
  console.log('refused');
}
process.exit(0);
JAVASCRIPT

# What each client reads by way of a URL: the redis-cli of the server, redis-py, ioredis, node-redis.
ask() {
    local cli
    cli=$(redis-cli --no-auth-warning -u "$1" GET where 2>&1)
    case $cli in
    *NOAUTH*) cli=refused ;;
    esac
    echo "$cli $("$tmp/venv/bin/python" "$tmp/ask.py" "$1") $(cd "$tmp" && node ask.mjs ioredis "$1") $(cd "$tmp" && node ask.mjs node-redis "$1")"
}
expect 'redis://:secret@host/1' 'refused 1 1 1' "$(ask "redis://:secret@127.0.0.1:$port/1")"
expect 'redis://secret@host/1' '1 refused refused refused' "$(ask "redis://secret@127.0.0.1:$port/1")"
expect 'redis://default:secret@host/1' '1 1 1 1' "$(ask "redis://default:secret@127.0.0.1:$port/1")"
expect 'redis://default:secret@host/1?db=2' '1 2 1 1' "$(ask "redis://default:secret@127.0.0.1:$port/1?db=2")"
exit "$changed"
