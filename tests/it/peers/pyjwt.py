"""A client that signs with PyJWT alone, and publishes its keys as PyJWT writes them.

    pyjwt.py jwks [KID ALGORITHM PRIVATE_KEY_FILE]...        the key set of the public halves
    pyjwt.py sign USERNAME KID ALGORITHM PRIVATE_KEY_FILE    a token
    pyjwt.py verify JWKS_URL ISSUER AUDIENCE TOKEN           the claims, by PyJWKClient
"""

import json
import pathlib
import secrets
import sys
import time

import jwt
from cryptography.hazmat.primitives.serialization import load_pem_private_key


def main(command, *arguments):
    print({"jwks": jwks, "sign": sign, "verify": verify}[command](*arguments))


def jwks(*arguments):
    keys = []
    for kid, algorithm, file in zip(*[iter(arguments)] * 3, strict=True):
        jwk = jwt.get_algorithm_by_name(algorithm).to_jwk(private_key(file).public_key(), as_dict=True)
        keys.append({**jwk, "kid": kid, "alg": algorithm, "use": "sig"})
    return json.dumps({"keys": keys})


def sign(username, kid, algorithm, file):
    claims = {"username": username, "time": int(time.time()), "nonce": secrets.token_hex(16)}
    return jwt.encode(claims, private_key(file), algorithm=algorithm, headers={"kid": kid})


def verify(jwks_url, issuer, audience, token):
    key = jwt.PyJWKClient(jwks_url).get_signing_key_from_jwt(token)
    options = {"require": ["iss", "sub", "aud", "iat", "nbf", "exp", "jti"]}
    return json.dumps(jwt.decode(token, key, algorithms=[key.algorithm_name], issuer=issuer, audience=audience, options=options))


def private_key(file):
    return load_pem_private_key(pathlib.Path(file).read_bytes(), password=None)


if __name__ == "__main__":
    main(*sys.argv[1:])
