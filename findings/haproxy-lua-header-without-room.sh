#!/usr/bin/env bash
# A header that a Lua action of HAProxy sets and that has no room any more is left out, and the request goes on.
#
# One would guess: `txn.http:req_set_header()` sets the header or fails, as `http-request set-header` does, which has HAProxy answer 500 if the
# header does not fit.
# What happens (HAProxy 2.6): headers have room for `tune.bufsize` less what came, with `tune.maxrewrite` (1 KiB by default) kept free at least. A
# value of 2,000 characters behind 15,000 of the client's is left out by Lua: no error, no return value, nothing logged. The next and shorter
# header is set, so that the back end gets some of them. With `http-request set-header` the same request is a 500.
# Why it matters: an action that tells the back end who is asking, by a list of groups or a token, tells it for most requests, and not for those
# with many cookies. Read the header back after setting it, and keep `tune.maxrewrite` above the longest value.
set -euo pipefail

haproxy=$(command -v haproxy || echo /usr/sbin/haproxy)
[ -x "$haproxy" ] || { echo 'needs HAProxy 2.6 (Debian: haproxy)' >&2; exit 2; }
[[ $("$haproxy" -v) == *'version 2.6.'* ]] || { echo 'needs HAProxy 2.6' >&2; exit 2; }

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

backend=$(free_port)
cat >"$tmp/backend.py" <<'PYTHON'
import http.server
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        """Answers with what there is of two headers."""
        body = " ".join(name for name in ("x-groups", "x-user") if name in self.headers).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
PYTHON
python3 "$tmp/backend.py" "$backend" 2>"$tmp/backend.log" &
pids+=($!)

cat >"$tmp/identity.lua" <<'LUA'
core.register_action("identity", { "http-req" }, function(txn)
    txn.http:req_set_header("x-groups", string.rep("g", 2000))
    txn.http:req_set_header("x-user", "alice")
end, 0)
LUA
gateway=$(free_port)
cat >"$tmp/haproxy.cfg" <<CONFIG
global
    lua-load $tmp/identity.lua
defaults
    mode http
    timeout connect 1s
    timeout client 5s
    timeout server 5s
frontend gateway
    bind 127.0.0.1:$gateway
    http-request lua.identity if { path /lua }
    http-request set-header x-groups $(printf '%02000d' 0) if { path /rule }
    http-request set-header x-user alice if { path /rule }
    default_backend application
backend application
    server application 127.0.0.1:$backend
CONFIG
"$haproxy" -db -f "$tmp/haproxy.cfg" >"$tmp/log" 2>&1 &
pids+=($!)

# The status, and which headers the back end got.
reached() {
    local status
    status=$(curl -s --max-time 5 -o "$tmp/body" -w '%{http_code}' \
        -H "Cookie: $(printf "%0$2d" 0)" "http://127.0.0.1:$gateway/$1")
    if [ "$status" = 200 ]; then
        echo "200 $(cat "$tmp/body")"
    else
        echo "$status"
    fi
}

curl -s --retry 20 --retry-all-errors --retry-delay 1 --max-time 5 -o "$tmp/body" "http://127.0.0.1:$gateway/"
expect 'Lua, 12,000 characters of the client' '200 x-groups x-user' "$(reached lua 12000)"
expect 'Lua, 15,000' '200 x-user' "$(reached lua 15000)"
expect 'http-request set-header, 12,000' '200 x-groups x-user' "$(reached rule 12000)"
expect 'http-request set-header, 15,000' '500' "$(reached rule 15000)"
exit "$changed"
