#!/usr/bin/env bash
# An Ed25519 private key that carries its public key (PKCS#8 version 2, RFC 5958 and RFC 8410) is unreadable to most of what signs tokens.
#
# One would guess: everybody reads it; RFC 8410 shows one such key as an example (section 10.3), and some libraries write this form by default.
# What happens: OpenSSL 3.0.19, Node.js 20.20.2 (createPrivateKey), jose 6.2.18, fast-jwt 6.3.6, cryptography 50.0.2 and so PyJWT 2.15.1, joserfc 1.8.0 and
# jwcrypto 1.6.1 refuse it, with errors that speak of a wrong format or an unsupported key, not of the version. PyCryptodome 4.4.0 reads it.
# The same key as version 1 is read by all.
# Why it matters: a key made by one program cannot be used by the next one, and the cure (leave the public key out: version 1) is not in any
# of the messages. A service that takes keys from others should read both and say which it met.
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

openssl version | grep -q '^OpenSSL 3\.0\.' || { echo 'needs OpenSSL 3.0' >&2; exit 2; }
node --version | grep -q '^v20\.' || { echo 'needs Node.js 20' >&2; exit 2; }
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check \
    cryptography==50.0.2 pyjwt==2.15.1 joserfc==1.8.0 jwcrypto==1.6.1 pycryptodome==4.4.0
npm install --silent --no-audit --no-fund --prefix "$tmp" jose@6.2.18 fast-jwt@6.3.6 >/dev/null

cat >"$tmp/read.py" <<'PYTHON'
import base64
import subprocess
import sys

import joserfc.jwk
import jwcrypto.jwk
import jwt
from Crypto.PublicKey import ECC
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

key = Ed25519PrivateKey.generate()
ALGORITHM = bytes.fromhex("300506032b6570")
SCALAR = bytes.fromhex("04220420") + key.private_bytes_raw()
PUBLIC = bytes.fromhex("812100") + key.public_key().public_bytes_raw()


def pem(version, *parts):
    body = bytes([2, 1, version]) + b"".join(parts)
    text = base64.encodebytes(bytes([0x30, len(body)]) + body).decode()
    return f"-----BEGIN PRIVATE KEY-----\n{text}-----END PRIVATE KEY-----\n"


def run(*command):
    def read(text):
        subprocess.run(command, input=text, text=True, capture_output=True, check=True, cwd=sys.argv[1], timeout=20)

    return read


STDIN = "require('fs').readFileSync(0, 'utf8')"
READERS = {
    "cryptography": lambda text: load_pem_private_key(text.encode(), None),
    "PyJWT": lambda text: jwt.encode({}, text, algorithm="EdDSA"),
    "joserfc": lambda text: joserfc.jwk.OKPKey.import_key(text),
    "jwcrypto": lambda text: jwcrypto.jwk.JWK.from_pem(text.encode()),
    "PyCryptodome": ECC.import_key,
    "OpenSSL": run("openssl", "pkey", "-noout"),
    "Node.js": run("node", "-e", f"require('crypto').createPrivateKey({STDIN})"),
    "jose": run("node", "-e", f"import('jose').then((jose) => jose.importPKCS8({STDIN}, 'EdDSA'))"),
    "fast-jwt": run("node", "-e", f"require('fast-jwt').createSigner({{ key: {STDIN} }})({{}})"),
}
for name, read in READERS.items():
    answers = []
    for text in [pem(0, ALGORITHM, SCALAR), pem(1, ALGORITHM, SCALAR, PUBLIC)]:
        try:
            read(text)
            answers.append("read")
        except (ValueError, jwt.PyJWTError, subprocess.CalledProcessError):
            answers.append("refused")
    print(f"{name}: {' '.join(answers)}")
PYTHON
timeout 55 "$tmp/venv/bin/python" "$tmp/read.py" "$tmp" >"$tmp/seen"
seen() { sed -n "s/^$1: //p" "$tmp/seen"; }
for reader in cryptography PyJWT joserfc jwcrypto OpenSSL Node.js jose fast-jwt; do
    expect "$reader, version 1 and version 2" 'read refused' "$(seen "$reader")"
done
expect 'PyCryptodome, version 1 and version 2' 'read read' "$(seen PyCryptodome)"
exit "$changed"
