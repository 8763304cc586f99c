#!/usr/bin/env bash
# Signs a single-use token per request with openssl (3.0 or later), and sends it with curl.
#
#     signed.sh URL --username NAME --key FILE [--bind] [--method METHOD] [--times N] [-- CURL_OPTION...]
#
# Prints the answer's status on the first line and its body after it; ends with 0 if that was a 2xx.
set -euo pipefail

readonly ATTEMPTS=3 LONGEST_WAIT=60

main() {
    local url=${1:?the URL} username='' key='' bind='' method=GET times=1 n attempt
    shift
    while [ $# -gt 0 ]; do
        case $1 in
            --username) username=$2 && shift 2 ;;
            --key) key=$2 && shift 2 ;;
            --bind) bind=yes && shift ;;
            --method) method=$2 && shift 2 ;;
            --times) times=$2 && shift 2 ;;
            --) shift && break ;;
            *) echo "signed.sh: $1 is not an option" >&2 && exit 2 ;;
        esac
    done
    : "${username:?--username is missing}" "${key:?--key is missing}"

    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    for ((n = 0; n < times; n++)); do
        for ((attempt = 1; ; attempt++)); do
            sign_token
            send "$@"
            { [ "$attempt" -lt "$ATTEMPTS" ] && may_try_again; } || break
        done
        [[ $status == 2?? ]] || break
    done
    echo "$status"
    cat "$scratch/body"
    echo
    [[ $status == 2?? ]]
}

# A new token: it passes once. With --bind, for no other request.
sign_token() {
    local algorithm kid header claims
    openssl pkey -in "$key" -pubout -out "$scratch/public.pem"
    case $(openssl pkey -pubin -in "$scratch/public.pem" -noout -text) in
        ED25519*) algorithm=EdDSA ;;
        *Modulus:*) algorithm=RS512 ;;
        *) echo "signed.sh: $key is neither an Ed25519 nor an RSA key" >&2 && exit 1 ;;
    esac
    kid=$(openssl dgst -sha256 -r "$scratch/public.pem" | cut -d ' ' -f 1)
    header="{\"alg\":\"$algorithm\",\"typ\":\"JWT\",\"kid\":\"$kid\"}"
    claims="{\"username\":$(json "$username"),\"time\":$(date +%s),\"nonce\":\"$(openssl rand -hex 16)\""
    if [ -n "$bind" ]; then
        claims+=",\"htm\":$(json "$method"),\"htu\":$(json "${url%%[?#]*}")"
    fi
    # In a file, because openssl wants to know the length before it signs with Ed25519.
    printf '%s.%s' "$(printf %s "$header" | base64url)" "$(printf %s "$claims}" | base64url)" >"$scratch/signed"
    case $algorithm in
        EdDSA) openssl pkeyutl -sign -rawin -inkey "$key" -in "$scratch/signed" -out "$scratch/signature" ;;
        RS512) openssl dgst -sha512 -sign "$key" -out "$scratch/signature" "$scratch/signed" ;;
    esac
    printf 'Authorization: JWT %s.%s\n' "$(cat "$scratch/signed")" "$(base64url <"$scratch/signature")" >"$scratch/authorization"
}

# The token is in no command line, which everybody on the machine could read.
send() {
    status=$(curl --silent --show-error --max-time 10 --header @"$scratch/authorization" --request "$method" \
        --dump-header "$scratch/head" --output "$scratch/body" --write-out '%{http_code}' "$@" "$url") || exit 1
}

# Waits as long as the server asks for. curl's own --retry would send the spent token again.
may_try_again() {
    local wait
    wait=$(sed -n 's/^[Rr]etry-[Aa]fter: *\([0-9]\{1,5\}\)[[:space:]]*$/\1/p' "$scratch/head" | tail -n 1)
    [[ $status =~ ^(429|503)$ && -n $wait && $wait -le $LONGEST_WAIT ]] && sleep "$wait"
}

json() {
    local text=${1//\\/\\\\}
    printf '"%s"' "${text//\"/\\\"}"
}

base64url() {
    openssl base64 -A | tr '+/' '-_' | tr -d '='
}

main "$@"
