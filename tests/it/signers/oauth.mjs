// Obtains an access token the way each OAuth library's documentation begins, with nothing but the issuer's URL to start from.
//
// oauth.mjs LIBRARY ISSUER CLIENT_ID, with an Ed25519 private key (PKCS#8 PEM) on standard input, prints the token endpoint's answer.
// Libraries come from the folder that OAUTH_CLIENTS names.

import { webcrypto } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const required = createRequire(pathToFileURL(`${process.env.OAUTH_CLIENTS}/`));
const imported = (name) => import(pathToFileURL(required.resolve(name)));

const libraries = {
  oauth4webapi: async (issuer, clientId, key) => {
    const oauth = await imported('oauth4webapi');
    const server = await oauth.processDiscoveryResponse(issuer, await oauth.discoveryRequest(issuer, { algorithm: 'oauth2' }));
    const client = { client_id: clientId };
    const parameters = new URLSearchParams({ scope: 'read' });
    const response = await oauth.clientCredentialsGrantRequest(server, client, oauth.PrivateKeyJwt(key), parameters);
    return oauth.processClientCredentialsResponse(server, client, response);
  },
  'openid-client': async (issuer, clientId, key) => {
    const client = await imported('openid-client');
    const server = await client.discovery(issuer, clientId, undefined, client.PrivateKeyJwt(key), { algorithm: 'oauth2' });
    return client.clientCredentialsGrant(server, { scope: 'read' });
  },
};

const [library, issuer, clientId] = process.argv.slice(2);
const der = Buffer.from(readFileSync(0, 'utf8').replace(/-----.*-----/g, ''), 'base64');
const key = await webcrypto.subtle.importKey('pkcs8', der, { name: 'Ed25519' }, false, ['sign']);
console.log(JSON.stringify(await libraries[library](new URL(issuer), clientId, key)));
