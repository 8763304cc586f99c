#!/usr/bin/env bash
# A Redis Cluster sends clients that speak TLS to ports that do not, unless `tls-cluster yes`, which is described as something between the nodes.
#
# One would guess: with `tls-port` and `port` both open, CLUSTER SLOTS and CLUSTER SHARDS name the port by whose kind the client came, or both. redis.conf says of
# `tls-cluster`: "By default, the Redis Cluster bus uses a plain TCP connection. To enable TLS for the bus protocol, use the following directive", so on a
# trusted network clients have nothing to do with it.
# What happens (Redis 7.0.15): with `tls-cluster no`, the default, a client over TLS is named the plain port, in CLUSTER SHARDS too, where no
# `tls-port` is. With `tls-cluster yes` SLOTS names the port of the client's own kind, and SHARDS both.
# redis-py 8.1.0, ioredis 6.0.0 and node-redis 6.3.1 with TLS then speak TLS to the plain port. redis-py ends with a timeout, ioredis and
# node-redis have not answered after ten seconds. With `tls-cluster yes` all three work.
# Why it matters: each node by itself answers `redis-cli --tls`, so certificates and keys are looked for first; nothing that is logged names a port.
# With `tls-port`, set `tls-cluster yes`, whatever is between the nodes.
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

clients=()
redis-server --version | grep -q 'v=7\.0\.15 ' || { echo 'needs Redis 7.0.15' >&2; exit 2; }
node --version | grep -q '^v20\.' || { echo 'needs Node.js 20' >&2; exit 2; }
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check redis==8.1.0
npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$tmp" ioredis@6.0.0 redis@6.3.1 >/dev/null
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout "$tmp/key.pem" -out "$tmp/cert.pem" 2>/dev/null

cat >"$tmp/client.py" <<'PYTHON'
import sys

from redis.cluster import RedisCluster

try:
    cluster = RedisCluster(host="127.0.0.1", port=int(sys.argv[1]), ssl=True, ssl_ca_certs=sys.argv[2], socket_timeout=3)
    print("OK" if cluster.set("key", "value") else "not set")
except Exception as error:
    print(type(error).__name__)
PYTHON
cat >"$tmp/client.mjs" <<'JAVASCRIPT'
import { readFileSync } from 'node:fs';
import { Cluster } from 'ioredis';
import { createCluster } from 'redis';

const [name, port, certificate] = process.argv.slice(2);
const ca = readFileSync(certificate);
const clients = {
  ioredis: async () => {
    const cluster = new Cluster([{ host: '127.0.0.1', port: Number(port) }], { redisOptions: { tls: { ca } } });
    cluster.on('error', () => {});
    return cluster.set('key', 'value');
  },
  'node-redis': async () => {
    const rootNodes = [{ url: `rediss://127.0.0.1:${port}` }];
    const cluster = createCluster({ rootNodes, defaults: { socket: { tls: true, ca } } });
    cluster.on('error', () => {});
    await cluster.connect();
    return cluster.set('key', 'value');
  },
};
const patience = new Promise((done) => setTimeout(() => done('no answer'), 10_000));
console.log(await Promise.race([clients[name]().catch((error) => error.constructor.name), patience]));
process.exit();
JAVASCRIPT

# A pair of ports whose cluster bus is free as well.
ports() {
    python3 - <<'PYTHON'
import random
import socket

while True:
    port = random.randrange(20000, 40000)
    sockets = [socket.socket() for _ in range(4)]
    try:
        for each, offset in zip(sockets, (0, 1, 10000, 10001)):
            each.bind(("127.0.0.1", port + offset))
        break
    except OSError:
        pass
    finally:
        for each in sockets:
            each.close()
print(port)
PYTHON
}

for tls_cluster in no yes; do
    plain=$(ports)
    tls=$((plain + 1))
    mkdir "$tmp/$tls_cluster"
    redis-server --port "$plain" --tls-port "$tls" --bind 127.0.0.1 --tls-cert-file "$tmp/cert.pem" --tls-key-file "$tmp/key.pem" \
        --tls-ca-cert-file "$tmp/cert.pem" --tls-auth-clients no --cluster-enabled yes --tls-cluster "$tls_cluster" \
        --cluster-announce-ip 127.0.0.1 --dir "$tmp/$tls_cluster" --save '' >"$tmp/log" 2>&1 &
    pids+=($!)
    over_tls=(redis-cli --tls --cacert "$tmp/cert.pem" -p "$tls")
    for _ in $(seq 100); do
        "${over_tls[@]}" PING >/dev/null 2>&1 && break
        sleep 0.1
    done
    "${over_tls[@]}" CLUSTER ADDSLOTSRANGE 0 16383 >/dev/null
    for _ in $(seq 100); do
        "${over_tls[@]}" CLUSTER INFO | grep -q 'cluster_state:ok' && break
        sleep 0.1
    done
    named() { if [ "$1" = "$plain" ]; then echo plain; elif [ "$1" = "$tls" ]; then echo TLS; else echo "'$1'"; fi; }
    slots=$(named "$("${over_tls[@]}" CLUSTER SLOTS | sed -n 4p)")
    slots_of_plain=$(named "$(redis-cli -p "$plain" CLUSTER SLOTS | sed -n 4p)")
    shards=$("${over_tls[@]}" CLUSTER SHARDS | grep -c -x -e "$tls" || true)
    for client in redis-py ioredis node-redis; do
        if [ "$client" = redis-py ]; then
            timeout 30 "$tmp/venv/bin/python" "$tmp/client.py" "$tls" "$tmp/cert.pem" >"$tmp/$client"
        else
            (cd "$tmp" && timeout 30 node client.mjs "$client" "$tls" cert.pem) >"$tmp/$client"
        fi &
        clients+=($!)
    done
    wait "${clients[@]}"
    clients=()
    if [ "$tls_cluster" = no ]; then
        expected=(plain 0 RedisClusterException 'no answer' 'no answer')
    else
        expected=(TLS 1 OK OK OK)
    fi
    expect "tls-cluster $tls_cluster, CLUSTER SLOTS over TLS" "${expected[0]}" "$slots"
    expect "tls-cluster $tls_cluster, CLUSTER SLOTS without" plain "$slots_of_plain"
    expect "tls-cluster $tls_cluster, TLS ports in CLUSTER SHARDS" "${expected[1]}" "$shards"
    expect "tls-cluster $tls_cluster, redis-py" "${expected[2]}" "$(cat "$tmp/redis-py")"
    expect "tls-cluster $tls_cluster, ioredis" "${expected[3]}" "$(cat "$tmp/ioredis")"
    expect "tls-cluster $tls_cluster, node-redis" "${expected[4]}" "$(cat "$tmp/node-redis")"
done
exit "$changed"
