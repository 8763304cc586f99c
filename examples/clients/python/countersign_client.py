"""A client of APIs behind Countersign. Copy this file, or run it:

    python countersign_client.py signed    URL --username NAME --key FILE [--bind]
    COUNTERSIGN_API_KEY=... python countersign_client.py exchanged URL --server URL --identifier UUID

It prints the answer's status on the first line and its body after it.
"""

import argparse
import functools
import hashlib
import json
import os
import pathlib
import secrets
import sys
import threading
import time
import urllib.error
import urllib.request

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

TIMEOUT = 10  # seconds, for each request
ATTEMPTS = 3
LONGEST_WAIT = 60  # seconds between two attempts; who has to wait longer is told so
EXPIRY_MARGIN = 30  # seconds; a token that is about to expire may do so on the way


class Signer:
    """Signs a token of its own for every request. The private key stays here."""

    def __init__(self, username, private_key_pem):
        self._username = username
        self._key = load_pem_private_key(private_key_pem, password=None)
        if isinstance(self._key, Ed25519PrivateKey):
            self._algorithm = "EdDSA"
        elif isinstance(self._key, RSAPrivateKey):
            self._algorithm = "RS512"
        else:
            raise ValueError("neither an Ed25519 nor an RSA key")
        public_pem = self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self._kid = hashlib.sha256(public_pem).hexdigest()

    def authorization(self, method=None, url=None):
        """A new value for `Authorization`: it passes once. With a method and a URL, for no other request."""
        claims = {"username": self._username, "time": int(time.time()), "nonce": secrets.token_urlsafe(16)}
        if method:
            claims["htm"] = method
        if url:
            claims["htu"] = url.split("#")[0].split("?")[0]
        return "JWT " + jwt.encode(claims, self._key, algorithm=self._algorithm, headers={"kid": self._kid})

    def request(self, method, url, body=None, headers=None, bind=False):
        """Sends one request: status, headers, body."""
        binding = (method, url) if bind else ()
        return send(method, url, body, headers, lambda: self.authorization(*binding))


class Session:
    """Exchanges an API key for access tokens, and uses each until it is about to expire."""

    def __init__(self, server, identifier, api_key):
        self._server = server.rstrip("/")
        self._identifier = identifier
        self._api_key = api_key
        self._jwt = self._refresh_token = None
        self._expires_at = 0
        # Of many threads that find the token expired, one fetches the next.
        self._lock = threading.Lock()

    def request(self, method, url, body=None, headers=None):
        """Sends one request: status, headers, body."""
        token = self.token()
        answer = send(method, url, body, headers, lambda: "Bearer " + token)
        if answer[0] == 401:
            # Revoked, or this clock is wrong.
            token = self.token(instead_of=token)
            answer = send(method, url, body, headers, lambda: "Bearer " + token)
        return answer

    def token(self, instead_of=None):
        """An access token that is good for a while, and another than `instead_of`."""
        with self._lock:
            if self._jwt in (None, instead_of) or time.time() >= self._expires_at - EXPIRY_MARGIN:
                self._renew()
            return self._jwt

    def _renew(self):
        answer = None
        if self._refresh_token:
            answer = self._ask("/refresh", {"refresh_token": self._refresh_token})
        if answer is None:
            answer = self._ask("/authenticate", {"key": self._api_key})
        if answer is None:
            raise PermissionError(f"{self._server} does not take the API key for {self._identifier}")
        # A refresh brings no new refresh token: the one at hand stays good.
        self._refresh_token = answer.get("refresh_token", self._refresh_token)
        self._jwt = answer["jwt"]
        # Whoever gets a token of the service itself need not verify it.
        self._expires_at = jwt.decode(self._jwt, options={"verify_signature": False})["exp"]

    def _ask(self, path, members):
        body = json.dumps({**members, "identifier": self._identifier}).encode()
        status, _, answer = send("POST", self._server + path, body, {"Content-Type": "application/json"})
        if status == 401:
            return None
        if status != 200:
            raise OSError(f"{self._server}{path} answered {status}")
        return json.loads(answer)


def send(method, url, body=None, headers=None, authorization=None):
    """Sends a request, later again if the server says when, and each time with a new authorization."""
    for attempt in range(1, ATTEMPTS + 1):
        request = urllib.request.Request(url, body, headers or {}, method=method)
        if authorization:
            request.add_unredirected_header("Authorization", authorization())
        try:
            answer = _opener.open(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            result = answer.status, answer.headers, answer.read()
        wait = answer.headers.get("Retry-After", "")
        may_try_again = answer.status in (429, 503) and wait.isdecimal() and int(wait) <= LONGEST_WAIT
        if attempt == ATTEMPTS or not may_try_again:
            return result
        time.sleep(int(wait))


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would send a spent token, or a good one to somebody else."""

    def redirect_request(self, *_):
        return None


_opener = urllib.request.build_opener(_NoRedirects)


def main():
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("url")
    common.add_argument("--method", default="GET")
    common.add_argument("--times", type=int, default=1, help="ask again and again, until something is refused")
    parser = argparse.ArgumentParser()
    modes = parser.add_subparsers(dest="mode", required=True)
    signed = modes.add_parser("signed", parents=[common])
    signed.add_argument("--username", required=True)
    signed.add_argument("--key", required=True, type=pathlib.Path, help="a private key, PEM")
    signed.add_argument("--bind", action="store_true", help="make tokens for this method and URL alone")
    exchanged = modes.add_parser("exchanged", parents=[common])
    exchanged.add_argument("--server", required=True, help="Countersign's URL")
    exchanged.add_argument("--identifier", required=True, help="the UUID that the API key was issued for")
    options = parser.parse_args()

    if options.mode == "signed":
        signer = Signer(options.username, options.key.read_bytes())
        ask = functools.partial(signer.request, options.method, options.url, bind=options.bind)
    else:
        session = Session(options.server, options.identifier, os.environ["COUNTERSIGN_API_KEY"])
        ask = functools.partial(session.request, options.method, options.url)

    for _ in range(options.times):
        status, _, body = ask()
        if not 200 <= status < 300:
            break
    print(status)
    print(body.decode(errors="replace"))
    return 0 if 200 <= status < 300 else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OSError as error:
        sys.exit(f"countersign_client: {error}")
