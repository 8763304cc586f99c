#!/usr/bin/env bash
# Exchanges an API key for an access token, keeps that until it is about to expire, and sends it with curl.
#
#     COUNTERSIGN_API_KEY=... exchanged.sh URL --server URL --identifier UUID [--method METHOD] [--times N] [-- CURL_OPTION...]
#
# Prints the answer's status on the first line and its body after it; ends with 0 if that was a 2xx. The tokens are kept
# for the next run in $XDG_CACHE_HOME/countersign (~/.cache/countersign), readable by their owner alone.
set -euo pipefail
umask 077

readonly ATTEMPTS=3 LONGEST_WAIT=60
# Seconds: a token that is about to expire may do so on the way.
readonly EXPIRY_MARGIN=30

main() {
    local url=${1:?the URL} server='' identifier='' method=GET times=1 n
    shift
    while [ $# -gt 0 ]; do
        case $1 in
            --server) server=${2%/} && shift 2 ;;
            --identifier) identifier=$2 && shift 2 ;;
            --method) method=$2 && shift 2 ;;
            --times) times=$2 && shift 2 ;;
            --) shift && break ;;
            *) echo "exchanged.sh: $1 is not an option" >&2 && exit 2 ;;
        esac
    done
    : "${server:?--server is missing}" "${identifier:?--identifier is missing}" "${COUNTERSIGN_API_KEY:?}"

    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    # Each service and identifier has tokens of its own.
    kept="${XDG_CACHE_HOME:-$HOME/.cache}/countersign/${server//[^A-Za-z0-9.]/_}-$identifier"
    mkdir -p "${kept%/*}"
    jwt=$(remembered jwt)
    refresh_token=$(remembered refresh_token)

    for ((n = 0; n < times; n++)); do
        is_good || renew
        ask "$@"
        if [ "$status" = 401 ]; then
            # Revoked, or this clock is wrong.
            renew
            ask "$@"
        fi
        [[ $status == 2?? ]] || break
    done
    echo "$status"
    cat "$scratch/body"
    echo
    [[ $status == 2?? ]]
}

# One request to the API. Secrets are in no command line, which everybody on the machine could read.
ask() {
    printf 'Authorization: Bearer %s\n' "$jwt" >"$scratch/authorization"
    send "$url" --request "$method" --header @"$scratch/authorization" "$@"
}

is_good() {
    [ -n "$jwt" ] && [ "$(date +%s)" -lt "$(($(expires_at) - EXPIRY_MARGIN))" ]
}

# Whoever gets a token of the service itself need not verify it.
expires_at() {
    local payload=${jwt#*.}
    payload=$(tr -- '-_' '+/' <<<"${payload%%.*}")
    while ((${#payload} % 4)); do payload+='='; done
    base64 -d <<<"$payload" | member exp
}

renew() {
    status=
    if [ -n "$refresh_token" ]; then
        post /refresh refresh_token "$refresh_token"
    fi
    if [ -z "$status" ] || [ "$status" = 401 ]; then
        post /authenticate key "$COUNTERSIGN_API_KEY"
        refresh_token=$(member refresh_token <"$scratch/body")
    fi
    if [ "$status" != 200 ]; then
        echo "exchanged.sh: $server answered $status" >&2
        exit 1
    fi
    # A refresh brings no new refresh token: the one at hand stays good.
    jwt=$(member jwt <"$scratch/body")
    # In one step, so that nobody reads half of it.
    printf '{"jwt":"%s","refresh_token":"%s"}\n' "$jwt" "$refresh_token" >"$scratch/kept"
    mv "$scratch/kept" "$kept"
}

post() {
    printf '{%s:%s,"identifier":%s}' "$(json "$2")" "$(json "$3")" "$(json "$identifier")" >"$scratch/question"
    send "$server$1" --header 'Content-Type: application/json' --data @"$scratch/question"
}

# Sends a request, and again as long as the server asks for it.
send() {
    local attempt wait
    for ((attempt = 1; ; attempt++)); do
        status=$(curl --silent --show-error --max-time 10 --dump-header "$scratch/head" --output "$scratch/body" \
            --write-out '%{http_code}' "${@:2}" "$1") || exit 1
        wait=$(sed -n 's/^[Rr]etry-[Aa]fter: *\([0-9]\{1,5\}\)[[:space:]]*$/\1/p' "$scratch/head" | tail -n 1)
        [[ $attempt -lt $ATTEMPTS && $status =~ ^(429|503)$ && -n $wait && $wait -le $LONGEST_WAIT ]] || break
        sleep "$wait"
    done
}

remembered() {
    if [ -f "$kept" ]; then member "$1" <"$kept"; fi
}

# The value of one member of a JSON object. Enough for tokens and times, which need no escapes.
member() {
    sed -n 's/.*"'"$1"'" *: *"\{0,1\}\([^",}]*\).*/\1/p'
}

json() {
    local text=${1//\\/\\\\}
    printf '"%s"' "${text//\"/\\\"}"
}

main "$@"
