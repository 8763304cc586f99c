// Signs tokens the way each library's documentation begins.
//
// sign.mjs LIBRARY, with an array of {algorithm, pem, claims} on standard input, prints an array of tokens; null for an algorithm that the
// library does not know. Libraries come from the folder that SIGNERS names.

import { createPrivateKey, webcrypto } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const required = createRequire(pathToFileURL(`${process.env.SIGNERS}/`));
const imported = (name) => import(pathToFileURL(required.resolve(name)));

// As browsers and OAuth clients hold keys.
const cryptoKey = (algorithm, pem) => {
  const parameters = {
    E: algorithm.startsWith('Ed') ? { name: 'Ed25519' } : { name: 'ECDSA', namedCurve: algorithm === 'ES256' ? 'P-256' : 'P-384' },
    R: { name: 'RSASSA-PKCS1-v1_5', hash: `SHA-${algorithm.slice(2)}` },
    P: { name: 'RSA-PSS', hash: `SHA-${algorithm.slice(2)}` },
  }[algorithm[0]];
  const der = createPrivateKey(pem).export({ type: 'pkcs8', format: 'der' });
  return webcrypto.subtle.importKey('pkcs8', der, parameters, true, ['sign']);
};

const libraries = {
  jose: async (claims, algorithm, pem) => {
    const { SignJWT } = await imported('jose');
    return new SignJWT(claims).setProtectedHeader({ alg: algorithm }).setIssuedAt().sign(createPrivateKey(pem));
  },
  jsonwebtoken: async (claims, algorithm, pem) => required('jsonwebtoken').sign(claims, pem, { algorithm }),
  'fast-jwt': async (claims, algorithm, pem) => required('fast-jwt').createSigner({ key: pem, algorithm })(claims),
  'node-jose': async (claims, algorithm, pem) => {
    const { JWK, JWS } = required('node-jose');
    const key = await JWK.asKey(pem, 'pem');
    return JWS.createSign({ format: 'compact', fields: { alg: algorithm } }, key).update(JSON.stringify(claims)).final();
  },
  jsrsasign: async (claims, algorithm, pem) => required('jsrsasign').KJUR.jws.JWS.sign(algorithm, { alg: algorithm }, claims, pem),
  jws: async (claims, algorithm, pem) => required('jws').sign({ header: { alg: algorithm }, payload: claims, privateKey: pem }),
  njwt: async (claims, algorithm, pem) => required('njwt').create(claims, pem, algorithm).compact(),
  // Makes the claims itself: a client assertion (RFC 7523) whose audience is the issuer.
  oauth4webapi: async (claims, algorithm, pem) => {
    const { PrivateKeyJwt } = await imported('oauth4webapi');
    const body = new URLSearchParams();
    const server = { issuer: 'https://countersign.test' };
    await PrivateKeyJwt(await cryptoKey(algorithm, pem))(server, { client_id: claims.username }, body, new Headers());
    return body.get('client_assertion');
  },
};

const tokens = [];
for (const { algorithm, pem, claims } of JSON.parse(readFileSync(0, 'utf8'))) {
  try {
    tokens.push(await libraries[process.argv[2]](claims, algorithm, pem));
  } catch (error) {
    console.error(`${algorithm}: ${error}`);
    tokens.push(null);
  }
}
console.log(JSON.stringify(tokens));
