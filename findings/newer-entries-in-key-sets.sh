#!/usr/bin/env bash
# A key set with an entry that is newer than its reader: a post-quantum key beside the old one, or a key labelled Ed25519 rather than EdDSA.
#
# One would guess: what a reader does not know is ignored (RFC 7517 section 5), so that a publisher can add keys of new kinds beside those in use, and
# relabel `EdDSA` as `Ed25519`, which RFC 9864 made the name of the same algorithm.
# What happens: with an ML-DSA key (`kty` AKP) in the set, Authlib 1.9.10 refuses the whole set with a KeyError, and python-jose 3.5.0 does
# so if that entry comes first; PyJWT 2.15.1, joserfc 1.8.0, jwcrypto 1.6.1 and jose 6.2.18 ignore it. With `"alg": "Ed25519"` on the key, a token that
# says EdDSA passes with Authlib and jwcrypto; PyJWT finds no usable key in the set, joserfc none of that kid, and jose no matching one.
# Why it matters: a publisher that starts with post-quantum keys, or with the new name, takes the old keys away from some of its readers. Try a set with
# the libraries of those who read it; serve new kinds from another URL at first.
set -euo pipefail

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

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

python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check cryptography==50.0.2 pyjwt==2.15.1 joserfc==1.8.0 authlib==1.9.10 jwcrypto==1.6.1 \
    python-jose==3.5.0
npm install --silent --no-audit --no-fund --prefix "$tmp" jose@6.2.18 >/dev/null

cat >"$tmp/keysets.py" <<'PYTHON'
"""Prints, for each kind of key set, what each library makes of a good token: with the entries in this order and in the other."""

import base64
import json
import sys
import time
import warnings

warnings.simplefilter("ignore")
import jwt as pyjwt
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa


def number(value):
    return base64.urlsafe_b64encode(value.to_bytes((value.bit_length() + 7) // 8, "big")).rstrip(b"=").decode()


private = rsa.generate_private_key(65537, 2048)
numbers = private.public_key().public_numbers()
RSA = {"kty": "RSA", "kid": "k1", "n": number(numbers.n), "e": number(numbers.e)}
private_ed = ed25519.Ed25519PrivateKey.generate()
raw = private_ed.public_key().public_bytes_raw()
OKP = {"kty": "OKP", "kid": "k1", "crv": "Ed25519", "x": base64.urlsafe_b64encode(raw).rstrip(b"=").decode()}
AKP = {"kty": "AKP", "kid": "k9", "alg": "ML-DSA-44", "pub": "AA"}

SETS = {
    "a key of an unknown kty beside it": [RSA, AKP],
    "alg Ed25519 (RFC 9864)": [OKP | {"alg": "Ed25519"}],
}


def with_pyjwt(keys, token):
    keys = pyjwt.PyJWKSet.from_dict({"keys": keys})
    return pyjwt.decode(token, keys["k1"], algorithms=["RS256", "EdDSA"])


def with_joserfc(keys, token):
    from joserfc import jwt
    from joserfc.jwk import KeySet

    return jwt.decode(token, KeySet.import_key_set({"keys": keys}), algorithms=["RS256", "EdDSA"])


def with_authlib(keys, token):
    from authlib.jose import JsonWebKey, JsonWebToken

    return JsonWebToken(["RS256", "EdDSA"]).decode(token, JsonWebKey.import_key_set({"keys": keys}))


def with_jwcrypto(keys, token):
    from jwcrypto import jwk, jwt

    return jwt.JWT(jwt=token, key=jwk.JWKSet.from_json(json.dumps({"keys": keys})), algs=["RS256", "EdDSA"])


def with_python_jose(keys, token):
    from jose import jwt

    return jwt.decode(token, {"keys": keys}, algorithms=["RS256"])


def attempt(read, keys, token):
    try:
        read(keys, token)
        return "ok"
    except Exception as error:
        return type(error).__name__


TOKENS = {
    key: pyjwt.encode({"sub": "alice", "iat": int(time.time())}, key, algorithm=algorithm, headers={"kid": "k1"})
    for key, algorithm in [(private, "RS256"), (private_ed, "EdDSA")]
}
for name, keys in SETS.items():
    key = private_ed if "Ed25519" in name else private
    for library, read in [
        ("PyJWT", with_pyjwt),
        ("joserfc", with_joserfc),
        ("Authlib", with_authlib),
        ("jwcrypto", with_jwcrypto),
        ("python-jose", with_python_jose),
    ]:
        if key is private_ed and library == "python-jose":
            continue
        both = [attempt(read, order, TOKENS[key]) for order in ([keys, keys[::-1]] if len(keys) > 1 else [keys])]
        print(f"{library}, {name}: {', '.join(both)}")
with open(sys.argv[1], "w") as file:
    json.dump([[name, TOKENS[private_ed if "Ed25519" in name else private], keys] for name, keys in SETS.items()], file)
PYTHON
cat >"$tmp/keysets.mjs" <<'JAVASCRIPT'
import { readFileSync } from 'node:fs';
import { createLocalJWKSet, jwtVerify } from 'jose';
for (const [name, token, keys] of JSON.parse(readFileSync(process.argv[2], 'utf8'))) {
  const both = [];
  for (const order of keys.length > 1 ? [keys, [...keys].reverse()] : [keys]) {
    both.push(await jwtVerify(token, createLocalJWKSet({ keys: order })).then(() => 'ok', (error) => error.code));
  }
  console.log(`jose, ${name}: ${both.join(', ')}`);
}
JAVASCRIPT
seen=$("$tmp/venv/bin/python" "$tmp/keysets.py" "$tmp/sets.json" 2>/dev/null; cd "$tmp" && node keysets.mjs sets.json)
expect 'PyJWT, a key of an unknown kty beside it' 'ok, ok' "$(sed -n 's/^PyJWT, a key of an unknown kty beside it: //p' <<<"$seen")"
expect 'joserfc, a key of an unknown kty beside it' 'ok, ok' "$(sed -n 's/^joserfc, a key of an unknown kty beside it: //p' <<<"$seen")"
expect 'Authlib, a key of an unknown kty beside it' 'KeyError, KeyError' "$(sed -n 's/^Authlib, a key of an unknown kty beside it: //p' <<<"$seen")"
expect 'jwcrypto, a key of an unknown kty beside it' 'ok, ok' "$(sed -n 's/^jwcrypto, a key of an unknown kty beside it: //p' <<<"$seen")"
expect 'python-jose, a key of an unknown kty beside it' 'ok, JWKError' "$(sed -n 's/^python-jose, a key of an unknown kty beside it: //p' <<<"$seen")"
expect 'jose, a key of an unknown kty beside it' 'ok, ok' "$(sed -n 's/^jose, a key of an unknown kty beside it: //p' <<<"$seen")"
expect 'PyJWT, alg Ed25519 (RFC 9864)' 'PyJWKSetError' "$(sed -n 's/^PyJWT, alg Ed25519 (RFC 9864): //p' <<<"$seen")"
expect 'joserfc, alg Ed25519 (RFC 9864)' 'InvalidKeyIdError' "$(sed -n 's/^joserfc, alg Ed25519 (RFC 9864): //p' <<<"$seen")"
expect 'Authlib, alg Ed25519 (RFC 9864)' 'ok' "$(sed -n 's/^Authlib, alg Ed25519 (RFC 9864): //p' <<<"$seen")"
expect 'jwcrypto, alg Ed25519 (RFC 9864)' 'ok' "$(sed -n 's/^jwcrypto, alg Ed25519 (RFC 9864): //p' <<<"$seen")"
expect 'jose, alg Ed25519 (RFC 9864)' 'ERR_JWKS_NO_MATCHING_KEY' "$(sed -n 's/^jose, alg Ed25519 (RFC 9864): //p' <<<"$seen")"
exit "$changed"
