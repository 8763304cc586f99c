#!/usr/bin/env bash
# Authlib drops leading zeros from JWKs of elliptic curves: three of four ES512 key sets are not what RFC 7518 says, and PyJWT refuses them.
#
# One would guess: x, y and d of a JWK have the curve's full length (RFC 7518, 6.2.1.2 and 6.2.2.1), and each library writes
# and reads them so.
# What happens: Authlib 1.9.10 (authlib.jose) writes the numbers as short as they are. For P-521, whose numbers have 521 bits in 66 bytes, each
# of x, y and d starts with a zero byte half of the time, so a public JWK is short in three of four cases. joserfc 1.8.0 writes all 66 bytes.
# Readers differ: PyJWT 2.15.1 refuses a short one ("Coords should be 66 bytes"); Node.js 20, jose 6.2.18, jwcrypto 1.6.1 and joserfc take it, and joserfc
# computes another thumbprint of the same key (RFC 7638) than from the full form.
# Why it matters: a client's key works or not by the luck of its numbers and the library on the other side, and two parties that name keys by
# thumbprint do not agree on the name. Read both, compare keys by their numbers.
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
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check cryptography==50.0.2 authlib==1.9.10 joserfc==1.8.0 jwcrypto==1.6.1 pyjwt==2.15.1
npm install --silent --no-audit --no-fund --prefix "$tmp" jose@6.2.18 >/dev/null

cat >"$tmp/export.py" <<'PYTHON'
import json
import subprocess
import sys
import warnings

warnings.simplefilter("ignore")
import authlib.jose
import joserfc.jwk
import jwcrypto.jwk
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def pem(public_key):
    return public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def with_authlib(public_key):
    key = authlib.jose.ECKey.import_key(pem(public_key)).as_dict()
    return {name: key[name] for name in ["kty", "crv", "x", "y"]}


def with_joserfc(public_key):
    key = joserfc.jwk.ECKey.import_key(pem(public_key)).as_dict()
    return {name: key[name] for name in ["kty", "crv", "x", "y"]}


def short(key):
    return len(key["x"]) < 88 or len(key["y"]) < 88


def run(program, key):
    subprocess.run(["node", "-e", program, json.dumps(key)], cwd=sys.argv[1], check=True, capture_output=True, timeout=20)


keys = [ec.derive_private_key(scalar, ec.SECP521R1()).public_key() for scalar in range(1000, 1400)]
print("authlib short:", sum(short(with_authlib(key)) for key in keys), "of 400")
print("joserfc short:", sum(short(with_joserfc(key)) for key in keys), "of 400")

one = next(key for key in keys if short(with_authlib(key)))
READERS = {
    "PyJWT": lambda key: jwt.PyJWK(key, algorithm="ES512"),
    "joserfc": joserfc.jwk.ECKey.import_key,
    "jwcrypto": lambda key: jwcrypto.jwk.JWK(**key).export_to_pem(),
    "Node.js": lambda key: run("crypto.createPublicKey({ key: JSON.parse(process.argv[1]), format: 'jwk' })", key),
    "jose": lambda key: run("import('jose').then((jose) => jose.importJWK(JSON.parse(process.argv[1]), 'ES512'))", key),
}
for name, read in READERS.items():
    try:
        read(with_authlib(one))
        print(f"{name}: reads it")
    except Exception as error:
        print(f"{name}: {error}")
thumbprints = {joserfc.jwk.ECKey.import_key(key).thumbprint() for key in [with_authlib(one), with_joserfc(one)]}
print("thumbprints:", len(thumbprints))
PYTHON
timeout 55 "$tmp/venv/bin/python" "$tmp/export.py" "$tmp" >"$tmp/seen" 2>/dev/null
seen() { sed -n "s/^$1: //p" "$tmp/seen"; }
expect 'Authlib, public P-521 keys exported short' '299 of 400' "$(seen 'authlib short')"
expect 'joserfc, public P-521 keys exported short' '0 of 400' "$(seen 'joserfc short')"
expect 'PyJWT, a short one' 'Coords should be 66 bytes for curve P-521' "$(seen PyJWT)"
for reader in joserfc jwcrypto Node.js jose; do
    expect "$reader, a short one" 'reads it' "$(seen "$reader")"
done
expect 'thumbprints of one key, short and full' 2 "$(seen thumbprints)"
exit "$changed"
