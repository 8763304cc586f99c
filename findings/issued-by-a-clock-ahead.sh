#!/usr/bin/env bash
# A token from a clock that is two seconds ahead is refused by five of thirteen libraries, whatever else it says: they check `iat`.
#
# One would guess: `iat` tells the age of a token and refuses none: RFC 7519 (4.1.6) gives no rule, while `nbf` (4.1.5), which has one, is not there,
# and clocks that differ by seconds are usual.
# What happens: PyJWT 2.15.1, joserfc 1.8.0, Authlib 1.9.10, google-auth 2.63.0 and jsrsasign 11.1.5 refuse a token whose `iat` is two
# seconds ahead of their clock, by default. jwcrypto 1.6.1, python-jose 3.5.0, cryptojwt 1.11.0, jwskate 0.12.2, jose 6.2.18, jsonwebtoken 9.0.3,
# fast-jwt 6.3.6 and njwt 2.0.1 take it. jose refuses it too as soon as a `maxTokenAge` is given.
# Why it matters: jsonwebtoken, fast-jwt, jose's `setIssuedAt` and cryptojwt add `iat` by themselves, so whether a client with a fast clock, or one
# that rounds the time up, gets in depends on the language of the server. As a client, round down; as a server, give `iat` the leeway of `nbf`.
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

node --version | grep -q '^v20\.' || { echo 'needs Node.js 20' >&2; exit 2; }
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check cryptography==50.0.2 pyjwt==2.15.1 joserfc==1.8.0 authlib==1.9.10 jwcrypto==1.6.1 \
    python-jose==3.5.0 cryptojwt==1.11.0 jwskate==0.12.2 google-auth==2.63.0
npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$tmp" jose@6.2.18 jsonwebtoken@9.0.3 fast-jwt@6.3.6 njwt@2.0.1 jsrsasign@11.1.5 >/dev/null

cat >"$tmp/read.py" <<'PYTHON'
"""Prints what each library makes of a token of now, and of one two seconds ahead."""

import sys
import time
import warnings

warnings.simplefilter("ignore")
import jwt as pyjwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

private = rsa.generate_private_key(65537, 2048)
public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def with_pyjwt(token):
    pyjwt.decode(token, public, algorithms=["RS256"])


def with_joserfc(token):
    from joserfc import jwk, jwt

    jwt.JWTClaimsRegistry().validate(jwt.decode(token, jwk.RSAKey.import_key(public), algorithms=["RS256"]).claims)


def with_authlib(token):
    from authlib.jose import JsonWebToken

    JsonWebToken(["RS256"]).decode(token, public).validate()


def with_jwcrypto(token):
    from jwcrypto import jwk, jwt

    jwt.JWT(jwt=token, key=jwk.JWK.from_pem(public), algs=["RS256"])


def with_python_jose(token):
    from jose import jwt

    jwt.decode(token, public.decode(), algorithms=["RS256"])


def with_cryptojwt(token):
    from cryptojwt.jwk.rsa import RSAKey
    from cryptojwt.jwt import JWT
    from cryptojwt.key_bundle import KeyBundle
    from cryptojwt.key_jar import KeyJar

    key, bundle, jar = RSAKey(use="sig"), KeyBundle(), KeyJar()
    key.load_key(private.public_key())
    bundle.append(key)
    jar.add_kb("", bundle)
    JWT(key_jar=jar, iss="", allowed_sign_algs=["RS256"]).unpack(token)


def with_jwskate(token):
    from jwskate import Jwk, SignedJwt

    SignedJwt(token).validate(Jwk.from_pem(public), alg="RS256")


def with_google_auth(token):
    from google.auth import jwt

    jwt.decode(token, certs=public)


def attempt(read, token):
    try:
        read(token)
        return "ok"
    except Exception as error:
        return type(error).__name__


READERS = {
    "PyJWT": with_pyjwt,
    "joserfc": with_joserfc,
    "Authlib": with_authlib,
    "jwcrypto": with_jwcrypto,
    "python-jose": with_python_jose,
    "cryptojwt": with_cryptojwt,
    "jwskate": with_jwskate,
    "google-auth": with_google_auth,
}
for read in READERS.values():
    # They take a moment to load, which a token would lose.
    attempt(read, "")
tokens = []
for ahead in [-1, 2]:
    issued = int(time.time()) + ahead
    token = pyjwt.encode({"sub": "alice", "iat": issued, "exp": issued + 600}, private, algorithm="RS256")
    tokens.append({name: attempt(read, token) for name, read in READERS.items()})
for name in READERS:
    print(f"{name}: {tokens[0][name]}, {tokens[1][name]}")
print(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(), file=open(sys.argv[1], "w"))
PYTHON
cat >"$tmp/read.mjs" <<'JAVASCRIPT'
import { createPublicKey } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { jwtVerify } from 'jose';
import jsonwebtoken from 'jsonwebtoken';
import { createVerifier } from 'fast-jwt';
import njwt from 'njwt';
import jsrsasign from 'jsrsasign';

const pem = readFileSync(process.argv[2], 'utf8');
const key = createPublicKey(pem).export({ type: 'spki', format: 'pem' });
const { KJUR, KEYUTIL } = jsrsasign;
const readers = {
  jose: async (token) => jwtVerify(token, createPublicKey(key)),
  'jose, with a maxTokenAge': async (token) => jwtVerify(token, createPublicKey(key), { maxTokenAge: '1h' }),
  jsonwebtoken: async (token) => jsonwebtoken.verify(token, key, { algorithms: ['RS256'] }),
  'fast-jwt': async (token) => createVerifier({ key, algorithms: ['RS256'] })(token),
  njwt: async (token) => njwt.verify(token, key, 'RS256'),
  jsrsasign: async (token) => {
    if (!KJUR.jws.JWS.verifyJWT(token, KEYUTIL.getKey(key), { alg: ['RS256'] })) throw new Error('false');
  },
};
const now = Math.floor(Date.now() / 1000);
const tokens = [-1, 2].map((ahead) => jsonwebtoken.sign({ sub: 'alice', iat: now + ahead, exp: now + 600 }, pem, { algorithm: 'RS256' }));
for (const [name, read] of Object.entries(readers)) {
  const answers = [];
  for (const token of tokens) answers.push(await read(token).then(() => 'ok', (error) => error.code ?? error.message));
  console.log(`${name}: ${answers.join(', ')}`);
}
JAVASCRIPT
"$tmp/venv/bin/python" "$tmp/read.py" "$tmp/private.pem" >"$tmp/seen" 2>/dev/null
(cd "$tmp" && node read.mjs private.pem) >>"$tmp/seen"
seen() { sed -n "s/^$1: //p" "$tmp/seen"; }
expect 'PyJWT, a token of now and one from ahead' 'ok, ImmatureSignatureError' "$(seen PyJWT)"
expect 'joserfc, a token of now and one from ahead' 'ok, InvalidClaimError' "$(seen joserfc)"
expect 'Authlib, a token of now and one from ahead' 'ok, InvalidTokenError' "$(seen Authlib)"
expect 'google-auth, a token of now and one from ahead' 'ok, InvalidValue' "$(seen google-auth)"
expect 'jsrsasign, a token of now and one from ahead' 'ok, false' "$(seen jsrsasign)"
expect 'jose with a maxTokenAge, a token of now and one from ahead' 'ok, ERR_JWT_CLAIM_VALIDATION_FAILED' "$(seen 'jose, with a maxTokenAge')"
for library in jwcrypto python-jose cryptojwt jwskate jose jsonwebtoken fast-jwt njwt; do
    expect "$library, a token of now and one from ahead" 'ok, ok' "$(seen "$library")"
done
exit "$changed"
