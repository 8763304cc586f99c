"""Signs tokens the way each library's documentation begins.

sign.py LIBRARY, with an array of {"algorithm", "pem", "claims"} on standard input, prints an array of tokens; null for an algorithm that the
library does not know.
"""

import json
import sys
import warnings

warnings.simplefilter("ignore")


def kind(algorithm):
    return "RSA" if algorithm[0] in "RP" else "EC" if algorithm.startswith("ES") else "OKP"


def pyjwt(claims, algorithm, pem):
    import jwt

    return jwt.encode(claims, pem, algorithm=algorithm)


def python_jose(claims, algorithm, pem):
    from jose import jwt

    return jwt.encode(claims, pem, algorithm=algorithm)


def joserfc(claims, algorithm, pem):
    from joserfc import jwk, jwt

    return jwt.encode({"alg": algorithm}, claims, jwk.import_key(pem, kind(algorithm)), algorithms=[algorithm])


def authlib(claims, algorithm, pem):
    from authlib.jose import JsonWebToken

    return JsonWebToken([algorithm]).encode({"alg": algorithm}, claims, pem).decode()


def jwcrypto(claims, algorithm, pem):
    from jwcrypto import jwk, jwt

    token = jwt.JWT(header={"alg": algorithm}, claims=claims)
    token.make_signed_token(jwk.JWK.from_pem(pem))
    return token.serialize()


def cryptojwt(claims, algorithm, pem):
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptojwt.jwk.ec import ECKey
    from cryptojwt.jwk.okp import OKPKey
    from cryptojwt.jwk.rsa import RSAKey
    from cryptojwt.jwt import JWT
    from cryptojwt.key_bundle import KeyBundle
    from cryptojwt.key_jar import KeyJar

    key = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}[kind(algorithm)](use="sig")
    key.load_key(load_pem_private_key(pem, None))
    bundle = KeyBundle()
    bundle.append(key)
    jar = KeyJar()
    jar.add_kb("", bundle)
    return JWT(key_jar=jar, iss="", sign_alg=algorithm).pack(claims)


def jwskate(claims, algorithm, pem):
    from jwskate import Jwk, Jwt

    return str(Jwt.sign(claims, Jwk.from_pem(pem), alg=algorithm))


def google_auth(claims, algorithm, pem):
    from google.auth import crypt, jwt

    signer = {"RS256": crypt.RSASigner, "ES256": crypt.ES256Signer, "ES384": crypt.EsSigner}.get(algorithm)
    if signer is None:
        raise NotImplementedError(algorithm)
    return jwt.encode(signer.from_string(pem), claims).decode()


LIBRARIES = {
    "PyJWT": pyjwt,
    "python-jose": python_jose,
    "joserfc": joserfc,
    "Authlib": authlib,
    "jwcrypto": jwcrypto,
    "cryptojwt": cryptojwt,
    "jwskate": jwskate,
    "google-auth": google_auth,
}


def sign(wanted):
    try:
        return LIBRARIES[sys.argv[1]](wanted["claims"], wanted["algorithm"], wanted["pem"].encode())
    except Exception as error:  # Each library has an error of its own for this.
        print(f"{wanted['algorithm']}: {type(error).__name__}: {error}", file=sys.stderr)
        return None


print(json.dumps([sign(wanted) for wanted in json.load(sys.stdin)]))
