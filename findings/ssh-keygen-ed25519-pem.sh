#!/usr/bin/env bash
# ssh-keygen keeps Ed25519 keys in its own format whatever format is asked for, and says that all went well.
#
# One would guess: `-m PKCS8` does for Ed25519 what it does for RSA and ECDSA: PEM out of a new key (`-t`), out of a key that is there (`-p`), out of
# a public key (`-e`), and a PEM public key in (`-i`).
# What happens (OpenSSH 9.2p1): a new key and a converted key are written as BEGIN OPENSSH PRIVATE KEY, exit code 0, no warning. For RSA and
# ECDSA the same commands write BEGIN PRIVATE KEY. The public key's export and import do fail, with a message, and a PKCS#8 private key as
# openssl writes it is "invalid format".
# Why it matters: the usual recipe to make an SSH key usable for signing tokens does nothing at all for the one key type that people are told to
# use, and does it silently; the next program in line then complains of the file. Who takes Ed25519 keys from users has to read OpenSSH's format.
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

ssh -V 2>&1 | grep -q '^OpenSSH_9\.2p1' || { echo 'needs OpenSSH 9.2p1' >&2; exit 2; }

for type in rsa ecdsa ed25519; do
    ssh-keygen -q -t "$type" -m PKCS8 -N '' -f "$tmp/new-$type" && new=$?
    ssh-keygen -q -t "$type" -N '' -f "$tmp/old-$type"
    ssh-keygen -q -p -m PKCS8 -P '' -N '' -f "$tmp/old-$type" >/dev/null && converted=$?
    ssh-keygen -e -m PKCS8 -f "$tmp/old-$type.pub" >"$tmp/$type.pem" 2>/dev/null && exported=yes || exported=no
    case $type in
        ed25519) format='-----BEGIN OPENSSH PRIVATE KEY-----' public=no ;;
        *) format='-----BEGIN PRIVATE KEY-----' public=yes ;;
    esac
    expect "$type, new key" "$format, exit 0" "$(head -n 1 "$tmp/new-$type"), exit $new"
    expect "$type, converted key" "$format, exit 0" "$(head -n 1 "$tmp/old-$type"), exit $converted"
    expect "$type, public key exported" "$public" "$exported"
done

openssl genpkey -algorithm ed25519 -out "$tmp/pkcs8" 2>/dev/null
openssl pkey -in "$tmp/pkcs8" -pubout -out "$tmp/spki"
chmod 600 "$tmp/pkcs8"
ssh-keygen -y -f "$tmp/pkcs8" >/dev/null 2>"$tmp/error" && read=yes || read=no
expect 'ed25519, private key of openssl' 'no, invalid format' "$read, $(grep -o 'invalid format' "$tmp/error")"
ssh-keygen -i -m PKCS8 -f "$tmp/spki" >/dev/null 2>&1 && read=yes || read=no
expect 'ed25519, public key of openssl' no "$read"
exit "$changed"
