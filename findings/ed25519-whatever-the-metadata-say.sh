#!/usr/bin/env bash
# OAuth clients in JavaScript sign with `alg: Ed25519` even if the server's metadata, and the client's own registration, say `EdDSA`.
#
# One would guess: `token_endpoint_auth_signing_alg_values_supported` of the metadata (RFC 8414) and the client's `token_endpoint_auth_signing_alg` (RFC 7591)
# are what they are for: a client takes a name that both sides know, or says that there is none.
# What happens: oauth4webapi 3.8.8 and openid-client 6.9.0 read the metadata and write `Ed25519` (RFC 9864) into the assertion all the same, with an
# Ed25519 key whatever the metadata says. There is no setting for it but to rewrite the header (`modifyAssertion`).
# Servers that verify with PyJWT 2.15.1 or Authlib 1.9.10 cannot take such an assertion even if they want to: the name is unknown there, and only the name.
# joserfc 1.8.0, jose 6.2.18, fast-jwt 6.3.6 and jwcrypto 1.6.1 refuse it if they were told `EdDSA`, and take it if they were told both.
# Why it matters: the same key, signature and bytes; the token endpoint answers `invalid_client`, and neither side's documentation names the cause. Servers should
# take both names; a client of one that does not has to rewrite the header.
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
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check cryptography==50.0.2 pyjwt==2.15.1 joserfc==1.8.0 authlib==1.9.10 jwcrypto==1.6.1
npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$tmp" oauth4webapi@3.8.8 openid-client@6.9.0 jose@6.2.18 fast-jwt@6.3.6 >/dev/null

# A token endpoint that keeps what it is sent, and metadata that know EdDSA alone.
cat >"$tmp/clients.mjs" <<'JAVASCRIPT'
import { KeyObject, webcrypto } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import * as oauth from 'oauth4webapi';
import * as openid from 'openid-client';

const { privateKey, publicKey } = await webcrypto.subtle.generateKey({ name: 'Ed25519' }, true, ['sign', 'verify']);
const assertions = [];
const server = createServer(async (request, response) => {
  let body = '';
  for await (const piece of request) body += piece;
  response.setHeader('content-type', 'application/json');
  if (request.url !== '/token') {
    response.end(JSON.stringify({
      issuer,
      token_endpoint: `${issuer}/token`,
      token_endpoint_auth_methods_supported: ['private_key_jwt'],
      token_endpoint_auth_signing_alg_values_supported: ['EdDSA'],
    }));
    return;
  }
  assertions.push(new URLSearchParams(body).get('client_assertion'));
  response.end(JSON.stringify({ access_token: 'x', token_type: 'bearer' }));
});
await new Promise((done) => server.listen(0, '127.0.0.1', done));
const issuer = `http://127.0.0.1:${server.address().port}`;

const registered = { client_id: 'alice', token_endpoint_auth_method: 'private_key_jwt', token_endpoint_auth_signing_alg: 'EdDSA' };
const insecure = { [oauth.allowInsecureRequests]: true };
const found = await oauth.discoveryRequest(new URL(issuer), { algorithm: 'oauth2', ...insecure });
const metadata = await oauth.processDiscoveryResponse(new URL(issuer), found);
await oauth.clientCredentialsGrantRequest(metadata, registered, oauth.PrivateKeyJwt(privateKey), {}, insecure);
const options = { algorithm: 'oauth2', execute: [openid.allowInsecureRequests] };
const configured = await openid.discovery(new URL(issuer), 'alice', registered, openid.PrivateKeyJwt(privateKey), options);
await openid.clientCredentialsGrant(configured);
const rewrite = { [oauth.modifyAssertion]: (header) => { header.alg = 'EdDSA'; } };
await oauth.clientCredentialsGrantRequest(metadata, registered, oauth.PrivateKeyJwt(privateKey, rewrite), {}, insecure);
server.close();

for (const [index, name] of ['oauth4webapi', 'openid-client', 'rewritten'].entries()) {
  console.log(`${name}: ${JSON.parse(Buffer.from(assertions[index].split('.')[0], 'base64url')).alg}`);
}
const key = KeyObject.from(publicKey).export({ type: 'spki', format: 'pem' });
writeFileSync(process.argv[2], JSON.stringify({ key, assertions: [assertions[0], assertions[2]] }));
JAVASCRIPT
cat >"$tmp/read.py" <<'PYTHON'
"""Prints what each library, told EdDSA and told both names, makes of the assertion; and of the rewritten one."""

import json
import sys
import warnings

warnings.simplefilter("ignore")


def with_pyjwt(token, names):
    import jwt

    jwt.decode(token, key, algorithms=names, options={"verify_aud": False})


def with_joserfc(token, names):
    from joserfc import jwk, jwt

    jwt.decode(token, jwk.OKPKey.import_key(key), algorithms=names)


def with_authlib(token, names):
    from authlib.jose import JsonWebToken

    JsonWebToken(names).decode(token, key)


def with_jwcrypto(token, names):
    from jwcrypto import jwk, jwt

    jwt.JWT(jwt=token, key=jwk.JWK.from_pem(key.encode()), algs=names)


given = json.load(open(sys.argv[1]))
key, (signed, rewritten) = given["key"], given["assertions"]
for name, read in {"PyJWT": with_pyjwt, "joserfc": with_joserfc, "Authlib": with_authlib, "jwcrypto": with_jwcrypto}.items():
    answers = []
    for token, names in [(signed, ["EdDSA"]), (signed, ["EdDSA", "Ed25519"]), (rewritten, ["EdDSA"])]:
        try:
            read(token, names)
            answers.append("ok")
        except Exception as error:
            answers.append(type(error).__name__)
    print(f"{name}: {', '.join(answers)}")
PYTHON
cat >"$tmp/read.mjs" <<'JAVASCRIPT'
import { createPublicKey } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { jwtVerify } from 'jose';
import { createVerifier } from 'fast-jwt';

const { key, assertions: [signed, rewritten] } = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const readers = {
  jose: async (token, algorithms) => jwtVerify(token, createPublicKey(key), { algorithms }),
  'fast-jwt': async (token, algorithms) => createVerifier({ key, algorithms })(token),
};
for (const [name, read] of Object.entries(readers)) {
  const answers = [];
  for (const [token, names] of [[signed, ['EdDSA']], [signed, ['EdDSA', 'Ed25519']], [rewritten, ['EdDSA']]]) {
    answers.push(await read(token, names).then(() => 'ok', (error) => error.code));
  }
  console.log(`${name}: ${answers.join(', ')}`);
}
JAVASCRIPT
(
    cd "$tmp"
    timeout 30 node clients.mjs assertions.json
    timeout 30 "$tmp/venv/bin/python" read.py assertions.json 2>/dev/null
    timeout 30 node read.mjs assertions.json
) >"$tmp/seen"
seen() { sed -n "s/^$1: //p" "$tmp/seen"; }
expect 'oauth4webapi, alg' Ed25519 "$(seen oauth4webapi)"
expect 'openid-client, alg' Ed25519 "$(seen openid-client)"
expect 'oauth4webapi with modifyAssertion, alg' EdDSA "$(seen rewritten)"
told='told EdDSA, told both, told EdDSA with the header rewritten'
expect "PyJWT, $told" 'InvalidAlgorithmError, InvalidAlgorithmError, ok' "$(seen PyJWT)"
expect "Authlib, $told" 'UnsupportedAlgorithmError, UnsupportedAlgorithmError, ok' "$(seen Authlib)"
expect "joserfc, $told" 'UnsupportedAlgorithmError, ok, ok' "$(seen joserfc)"
expect "jwcrypto, $told" 'InvalidJWSSignature, ok, ok' "$(seen jwcrypto)"
expect "jose, $told" 'ERR_JOSE_ALG_NOT_ALLOWED, ok, ok' "$(seen jose)"
expect "fast-jwt, $told" 'FAST_JWT_INVALID_ALGORITHM, ok, ok' "$(seen fast-jwt)"
exit "$changed"
