#!/usr/bin/env bash
# An RSA key that is marked for PSS only is refused for PS256 by the JavaScript libraries, and signs RS256 in the Python ones.
#
# One would guess: a key of type RSASSA-PSS (OID 1.2.840.113549.1.1.10, `openssl genpkey -algorithm RSA-PSS`) is the key made for PS256, so whoever
# knows PS256 takes it, and nobody signs RS256 with it.
# What happens:
#   jose 6.2.18 (importPKCS8, importSPKI) and fast-jwt 6.3.6 refuse it for PS256: they take plain rsaEncryption keys only.
#   jsonwebtoken 9.0.3 refuses it for PS256, unless its parameters name SHA-256 and a salt of 32 bytes; without parameters, which RFC 4055 reads as
#     "no restriction", it is refused.
#   PyJWT 2.15.1, joserfc 1.8.0 and jwcrypto 1.6.1 drop the mark on loading (cryptography 50.0.2 does): PS256, and RS256, although the key says PSS only.
# Why it matters: an operator who picks the stricter key type locks out most clients in JavaScript and restricts nothing in Python. A
# registry of keys has to record the algorithm itself. The key's type does not survive the libraries.
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
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check cryptography==50.0.2 pyjwt==2.15.1 joserfc==1.8.0 jwcrypto==1.6.1
npm install --silent --no-audit --no-fund --prefix "$tmp" jose@6.2.18 fast-jwt@6.3.6 jsonwebtoken@9.0.3 >/dev/null

pss=(openssl genpkey -algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048)
"${pss[@]}" -out "$tmp/unrestricted.pem" 2>/dev/null
"${pss[@]}" -pkeyopt rsa_pss_keygen_md:sha256 -pkeyopt rsa_pss_keygen_mgf1_md:sha256 -pkeyopt rsa_pss_keygen_saltlen:32 \
    -out "$tmp/sha256.pem" 2>/dev/null

cat >"$tmp/sign.py" <<'PYTHON'
import sys

import joserfc.jwk
import joserfc.jwt
import jwcrypto.jwk
import jwcrypto.jwt
import jwt


def with_joserfc(key, algorithm):
    return joserfc.jwt.encode({"alg": algorithm}, {}, joserfc.jwk.RSAKey.import_key(key), algorithms=[algorithm])


def with_jwcrypto(key, algorithm):
    token = jwcrypto.jwt.JWT(header={"alg": algorithm}, claims={}, algs=[algorithm])
    token.make_signed_token(jwcrypto.jwk.JWK.from_pem(key.encode()))


def with_pyjwt(key, algorithm):
    return jwt.encode({}, key, algorithm=algorithm)


file, algorithm = sys.argv[1:]
key = open(file).read()
for name, sign in {"PyJWT": with_pyjwt, "joserfc": with_joserfc, "jwcrypto": with_jwcrypto}.items():
    try:
        sign(key, algorithm)
        print(name, "signs")
    except Exception:
        print(name, "refuses")
PYTHON
cat >"$tmp/sign.mjs" <<'JAVASCRIPT'
import { readFileSync } from 'node:fs';
import { createPrivateKey, createPublicKey } from 'node:crypto';
import { SignJWT, importPKCS8, importSPKI } from 'jose';
import jsonwebtoken from 'jsonwebtoken';
import { createSigner } from 'fast-jwt';

const [file, algorithm] = process.argv.slice(2);
const key = readFileSync(file, 'utf8');
const spki = createPublicKey(createPrivateKey(key)).export({ type: 'spki', format: 'pem' });
const libraries = {
    jose: async () => new SignJWT({}).setProtectedHeader({ alg: algorithm }).sign(await importPKCS8(key, algorithm)),
    'jose-public': async () => importSPKI(spki, algorithm),
    jsonwebtoken: async () => jsonwebtoken.sign({}, key, { algorithm }),
    'fast-jwt': async () => createSigner({ key, algorithm })({}),
};
for (const [name, sign] of Object.entries(libraries)) {
    console.log(name, await sign().then(() => 'signs', () => 'refuses'));
}
JAVASCRIPT
for key in unrestricted sha256; do
    for algorithm in PS256 RS256; do
        {
            timeout 20 "$tmp/venv/bin/python" "$tmp/sign.py" "$tmp/$key.pem" "$algorithm"
            timeout 20 node "$tmp/sign.mjs" "$tmp/$key.pem" "$algorithm"
        } >"$tmp/seen"
        for library in PyJWT joserfc jwcrypto; do
            expect "$library, $key, $algorithm" signs "$(sed -n "s/^$library //p" "$tmp/seen")"
        done
        for library in jose jose-public fast-jwt; do
            expect "$library, $key, $algorithm" refuses "$(sed -n "s/^$library //p" "$tmp/seen")"
        done
        answer=refuses
        [ "$key $algorithm" = 'sha256 PS256' ] && answer=signs
        expect "jsonwebtoken, $key, $algorithm" "$answer" "$(sed -n 's/^jsonwebtoken //p' "$tmp/seen")"
    done
done
exit "$changed"
