// A client of APIs behind Countersign, for Node.js 18 or later, without dependencies. Copy this file, or run it:
//
//     node countersign-client.mjs signed    URL --username NAME --key FILE [--bind]
//     COUNTERSIGN_API_KEY=... node countersign-client.mjs exchanged URL --server URL --identifier UUID
//
// It prints the answer's status on the first line and its body after it.

import { createHash, createPrivateKey, createPublicKey, randomBytes, sign } from 'node:crypto';
import { readFileSync, realpathSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const TIMEOUT_MS = 10_000; // for each request
const ATTEMPTS = 3;
const LONGEST_WAIT_S = 60; // between two attempts; who has to wait longer is told so
const EXPIRY_MARGIN_S = 30; // a token that is about to expire may do so on the way

/** Signs a token of its own for every request. The private key stays here. */
export class Signer {
  #username;
  #key;
  #header;

  constructor(username, privateKeyPem) {
    this.#username = username;
    this.#key = createPrivateKey(privateKeyPem);
    const alg = { ed25519: 'EdDSA', rsa: 'RS512' }[this.#key.asymmetricKeyType];
    if (!alg) throw new Error('neither an Ed25519 nor an RSA key');
    const publicPem = createPublicKey(this.#key).export({ type: 'spki', format: 'pem' });
    const kid = createHash('sha256').update(publicPem).digest('hex');
    this.#header = { alg, typ: 'JWT', kid };
  }

  /** A new value for `Authorization`: it passes once. With a method and a URL, for no other request. */
  authorization(method, url) {
    const claims = {
      username: this.#username,
      time: Math.floor(Date.now() / 1000),
      nonce: randomBytes(16).toString('base64url'),
      htm: method, // JSON leaves out what is undefined
      htu: url && String(url).split(/[?#]/)[0],
    };
    const signed = [this.#header, claims].map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.');
    // Ed25519 brings its own hash.
    const hash = this.#header.alg === 'RS512' ? 'sha512' : null;
    return `JWT ${signed}.${sign(hash, Buffer.from(signed), this.#key).toString('base64url')}`;
  }

  /** `fetch`, with a new token for every attempt. */
  fetch(url, { bind = false, ...init } = {}) {
    return send(url, init, () => (bind ? this.authorization(init.method ?? 'GET', url) : this.authorization()));
  }
}

/** Exchanges an API key for access tokens, and uses each until it is about to expire. */
export class Session {
  #server;
  #identifier;
  #apiKey;
  #jwt;
  #expiresAt = 0;
  #refreshToken;
  #renewal;

  constructor(server, identifier, apiKey) {
    this.#server = server.replace(/\/+$/, '');
    this.#identifier = identifier;
    this.#apiKey = apiKey;
  }

  /** `fetch`, with an access token. */
  async fetch(url, init = {}) {
    let token = await this.token();
    const response = await send(url, init, () => `Bearer ${token}`);
    if (response.status !== 401) return response;
    // Revoked, or this clock is wrong.
    await response.body?.cancel();
    token = await this.token(token);
    return send(url, init, () => `Bearer ${token}`);
  }

  /** An access token that is good for a while, and another than `insteadOf`. */
  async token(insteadOf) {
    const isGood = this.#jwt && this.#jwt !== insteadOf && Date.now() / 1000 < this.#expiresAt - EXPIRY_MARGIN_S;
    if (!isGood) {
      // Of many requests that find the token expired, one fetches the next.
      this.#renewal ??= this.#renew().finally(() => (this.#renewal = undefined));
      await this.#renewal;
    }
    return this.#jwt;
  }

  async #renew() {
    const answer =
      (this.#refreshToken && (await this.#ask('/refresh', { refresh_token: this.#refreshToken }))) ||
      (await this.#ask('/authenticate', { key: this.#apiKey }));
    if (!answer) throw new Error(`${this.#server} does not take the API key for ${this.#identifier}`);
    // A refresh brings no new refresh token: the one at hand stays good.
    this.#refreshToken = answer.refresh_token ?? this.#refreshToken;
    this.#jwt = answer.jwt;
    // Whoever gets a token of the service itself need not verify it.
    this.#expiresAt = JSON.parse(Buffer.from(answer.jwt.split('.')[1], 'base64url')).exp;
  }

  async #ask(path, members) {
    const body = JSON.stringify({ ...members, identifier: this.#identifier });
    const response = await send(this.#server + path, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body });
    if (response.status === 401) return undefined;
    if (response.status !== 200) throw new Error(`${this.#server}${path} answered ${response.status}`);
    return response.json();
  }
}

/** Sends a request, later again if the server says when, and each time with a new authorization. */
async function send(url, init, authorization) {
  for (let attempt = 1; ; attempt++) {
    const headers = new Headers(init.headers);
    if (authorization) headers.set('Authorization', authorization());
    // A redirect would send a spent token, or a good one to somebody else.
    const response = await fetch(url, { signal: AbortSignal.timeout(TIMEOUT_MS), ...init, headers, redirect: 'manual' });
    const wait = response.headers.get('Retry-After') ?? '';
    const mayTryAgain = [429, 503].includes(response.status) && /^\d+$/.test(wait) && Number(wait) <= LONGEST_WAIT_S;
    if (attempt === ATTEMPTS || !mayTryAgain) return response;
    await response.body?.cancel();
    await sleep(Number(wait) * 1000);
  }
}

async function main() {
  const { positionals, values: options } = parseArgs({
    allowPositionals: true,
    options: {
      username: { type: 'string' },
      key: { type: 'string' }, // a private key, PEM
      bind: { type: 'boolean', default: false }, // make tokens for this method and URL alone
      server: { type: 'string' }, // Countersign's URL
      identifier: { type: 'string' }, // the UUID that the API key was issued for
      method: { type: 'string', default: 'GET' },
      times: { type: 'string', default: '1' }, // ask again and again, until something is refused
    },
  });
  const [mode, url] = positionals;
  const { method, bind } = options;
  let ask;
  if (mode === 'signed' && url && options.username && options.key) {
    const signer = new Signer(options.username, readFileSync(options.key));
    ask = () => signer.fetch(url, { method, bind });
  } else if (mode === 'exchanged' && url && options.server && options.identifier && process.env.COUNTERSIGN_API_KEY) {
    const session = new Session(options.server, options.identifier, process.env.COUNTERSIGN_API_KEY);
    ask = () => session.fetch(url, { method });
  } else {
    console.error('how to run it stands at the top of the file');
    return 2;
  }

  let response;
  let body;
  for (let time = 0; time < Number(options.times); time++) {
    response = await ask();
    body = await response.text();
    if (!response.ok) break;
  }
  console.log(`${response.status}\n${body}`);
  return response.ok ? 0 : 1;
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  try {
    process.exitCode = await main();
  } catch (error) {
    console.error(`countersign-client: ${error.cause?.message || error.message}`);
    process.exitCode = 1;
  }
}
