#!/usr/bin/env bash
# Two entries of one `kid` in a key set: none of six libraries verifies a good token in every case, and with five the order of entries decides.
#
# One would guess: a reader takes the entry that fits. RFC 7517 (4.5) allows one `kid` for keys of different types that stand for one another, identity
# providers publish a key once for `sig` and once for `enc` under its one name, and a merged set may hold an entry twice.
# What happens, with an RS256 token by the first entry:
#   one key for sig and for enc: with `enc` first, Authlib 1.9.10 refuses its use, and jwcrypto 1.6.1 has kept one of the two and misses the key;
#   an RSA and an EC key: with EC first, PyJWT 2.15.1, joserfc 1.8.0, Authlib and python-jose 3.5.0 try the EC key and end with four different errors;
#   the same entry twice: jose 6.2.18 refuses the token because two keys match.
# Why it matters: a set passes its publisher's own test and fails at others, or fails the day its entries change places. Publish one entry for each
# `kid`; as a reader, leave out what does not fit the token before choosing by name.
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
from cryptography.hazmat.primitives.asymmetric import ec, rsa


def number(value, length=None):
    return base64.urlsafe_b64encode(value.to_bytes(length or (value.bit_length() + 7) // 8, "big")).rstrip(b"=").decode()


private = rsa.generate_private_key(65537, 2048)
numbers = private.public_key().public_numbers()
RSA = {"kty": "RSA", "kid": "k1", "n": number(numbers.n), "e": number(numbers.e)}
point = ec.generate_private_key(ec.SECP256R1()).public_key().public_numbers()
EC = {"kty": "EC", "kid": "k1", "crv": "P-256", "x": number(point.x, 32), "y": number(point.y, 32)}

SETS = {
    "the key for sig and for enc": [RSA | {"use": "sig"}, RSA | {"use": "enc"}],
    "an RSA and an EC key": [RSA, EC],
    "the same entry twice": [RSA, RSA],
}


def with_pyjwt(keys, token):
    keys = pyjwt.PyJWKSet.from_dict({"keys": keys})
    return pyjwt.decode(token, keys["k1"], algorithms=["RS256"])


def with_joserfc(keys, token):
    from joserfc import jwt
    from joserfc.jwk import KeySet

    return jwt.decode(token, KeySet.import_key_set({"keys": keys}), algorithms=["RS256"])


def with_authlib(keys, token):
    from authlib.jose import JsonWebKey, JsonWebToken

    return JsonWebToken(["RS256"]).decode(token, JsonWebKey.import_key_set({"keys": keys}))


def with_jwcrypto(keys, token):
    from jwcrypto import jwk, jwt

    return jwt.JWT(jwt=token, key=jwk.JWKSet.from_json(json.dumps({"keys": keys})), algs=["RS256"])


def with_python_jose(keys, token):
    from jose import jwt

    return jwt.decode(token, {"keys": keys}, algorithms=["RS256"])


def attempt(read, keys, token):
    try:
        read(keys, token)
        return "ok"
    except Exception as error:
        return type(error).__name__


TOKEN = pyjwt.encode({"sub": "alice", "iat": int(time.time())}, private, algorithm="RS256", headers={"kid": "k1"})
for name, keys in SETS.items():
    for library, read in [
        ("PyJWT", with_pyjwt),
        ("joserfc", with_joserfc),
        ("Authlib", with_authlib),
        ("jwcrypto", with_jwcrypto),
        ("python-jose", with_python_jose),
    ]:
        both = [attempt(read, order, TOKEN) for order in (keys, keys[::-1])]
        print(f"{library}, {name}: {', '.join(both)}")
with open(sys.argv[1], "w") as file:
    json.dump([[name, TOKEN, keys] for name, keys in SETS.items()], file)
PYTHON
cat >"$tmp/keysets.mjs" <<'JAVASCRIPT'
import { readFileSync } from 'node:fs';
import { createLocalJWKSet, jwtVerify } from 'jose';
for (const [name, token, keys] of JSON.parse(readFileSync(process.argv[2], 'utf8'))) {
  const both = [];
  for (const order of [keys, [...keys].reverse()]) {
    both.push(await jwtVerify(token, createLocalJWKSet({ keys: order })).then(() => 'ok', (error) => error.code));
  }
  console.log(`jose, ${name}: ${both.join(', ')}`);
}
JAVASCRIPT
seen=$("$tmp/venv/bin/python" "$tmp/keysets.py" "$tmp/sets.json" 2>/dev/null; cd "$tmp" && node keysets.mjs sets.json)
expect 'PyJWT, the key for sig and for enc' 'ok, ok' "$(sed -n 's/^PyJWT, the key for sig and for enc: //p' <<<"$seen")"
expect 'joserfc, the key for sig and for enc' 'ok, ok' "$(sed -n 's/^joserfc, the key for sig and for enc: //p' <<<"$seen")"
expect 'Authlib, the key for sig and for enc' 'ok, InvalidUseError' "$(sed -n 's/^Authlib, the key for sig and for enc: //p' <<<"$seen")"
expect 'jwcrypto, the key for sig and for enc' 'ok, JWTMissingKey' "$(sed -n 's/^jwcrypto, the key for sig and for enc: //p' <<<"$seen")"
expect 'python-jose, the key for sig and for enc' 'ok, ok' "$(sed -n 's/^python-jose, the key for sig and for enc: //p' <<<"$seen")"
expect 'jose, the key for sig and for enc' 'ok, ok' "$(sed -n 's/^jose, the key for sig and for enc: //p' <<<"$seen")"
expect 'PyJWT, an RSA and an EC key' 'ok, InvalidAlgorithmError' "$(sed -n 's/^PyJWT, an RSA and an EC key: //p' <<<"$seen")"
expect 'joserfc, an RSA and an EC key' 'ok, InvalidKeyTypeError' "$(sed -n 's/^joserfc, an RSA and an EC key: //p' <<<"$seen")"
expect 'Authlib, an RSA and an EC key' 'ok, KeyError' "$(sed -n 's/^Authlib, an RSA and an EC key: //p' <<<"$seen")"
expect 'jwcrypto, an RSA and an EC key' 'ok, ok' "$(sed -n 's/^jwcrypto, an RSA and an EC key: //p' <<<"$seen")"
expect 'python-jose, an RSA and an EC key' 'ok, JWKError' "$(sed -n 's/^python-jose, an RSA and an EC key: //p' <<<"$seen")"
expect 'jose, an RSA and an EC key' 'ok, ok' "$(sed -n 's/^jose, an RSA and an EC key: //p' <<<"$seen")"
expect 'PyJWT, the same entry twice' 'ok, ok' "$(sed -n 's/^PyJWT, the same entry twice: //p' <<<"$seen")"
expect 'joserfc, the same entry twice' 'ok, ok' "$(sed -n 's/^joserfc, the same entry twice: //p' <<<"$seen")"
expect 'Authlib, the same entry twice' 'ok, ok' "$(sed -n 's/^Authlib, the same entry twice: //p' <<<"$seen")"
expect 'jwcrypto, the same entry twice' 'ok, ok' "$(sed -n 's/^jwcrypto, the same entry twice: //p' <<<"$seen")"
expect 'python-jose, the same entry twice' 'ok, ok' "$(sed -n 's/^python-jose, the same entry twice: //p' <<<"$seen")"
expect 'jose, the same entry twice' 'ERR_JWKS_MULTIPLE_MATCHING_KEYS, ERR_JWKS_MULTIPLE_MATCHING_KEYS' "$(sed -n 's/^jose, the same entry twice: //p' <<<"$seen")"
exit "$changed"
