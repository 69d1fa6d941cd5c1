// A certified OpenID provider (npm oidc-provider) for the test suite, on loopback and nowhere else.
//
//   PORT       where to listen; 0 takes a free port (default)
//   KEYS_FILE  where the signing keys are kept, so that a provider started again on the same port
//              is the same issuer with the same keys; without it they live as long as the process
//
// It prints `ready <issuer>` once it serves, and ends when its standard input does: it never outlives
// the test that started it. Whoever logs in is taken at their word, with any password.
//
// What the tests steer and read, beside the protocol itself:
//   POST /control/rotate   a new RS256 key signs from now on; the older ones stay published → {"keys": [kid, …]}
//   POST /control/retire   the older keys are not published any more                        → {"keys": [kid, …]}
//   GET  /control/counts   requests since the start, by path                                → {"/jwks": 1, …}
//   header `x-sign-with: kid` on a token request: sign the access token with that published key
//   header `x-format: opaque` on a token request: an access token that is no JWT
//   header `x-client-cert` on a token request, PEM in base64: the certificate of the client's TLS connection, as what
//              ends TLS before a provider tells it

import fs from 'node:fs';
import http from 'node:http';
import * as jose from 'jose';
import { Provider } from 'oidc-provider';

console.info = console.warn = () => {}; // its warnings about being run as a development provider, as it is

const clients = [
  { client_id: 'batch', client_secret: 'batch-secret', grant_types: ['client_credentials'], redirect_uris: [], response_types: [] },
  { client_id: 'batch-es256', client_secret: 'batch-secret', grant_types: ['client_credentials'], redirect_uris: [], response_types: [] },
  { client_id: 'batch-dpop', client_secret: 'batch-secret', grant_types: ['client_credentials'], redirect_uris: [], response_types: [],
    dpop_bound_access_tokens: true },
  { client_id: 'batch-mtls', client_secret: 'batch-secret', grant_types: ['client_credentials'], redirect_uris: [], response_types: [],
    tls_client_certificate_bound_access_tokens: true },
  { client_id: 'storefront-web', client_secret: 'storefront-secret', redirect_uris: ['http://127.0.0.1/callback'],
    grant_types: ['authorization_code', 'refresh_token'], response_types: ['code'] },
];
const groups = { alice: ['support', 'eng'] }; // of everybody else: none
const accessTokenSeconds = 300;

const keys = await loadKeys();
let serve; // the provider's request handler; replaced when the keys change
let issuer;
const counts = {};

async function newKey(alg) {
  const { privateKey } = await jose.generateKeyPair(alg, { extractable: true });
  const jwk = await jose.exportJWK(privateKey);
  return { ...jwk, alg, use: 'sig', kid: await jose.calculateJwkThumbprint(jwk) };
}

async function loadKeys() {
  const file = process.env.KEYS_FILE;
  if (file && fs.existsSync(file)) return JSON.parse(fs.readFileSync(file));
  const made = [await newKey('RS256'), await newKey('ES256'), await newKey('EdDSA')];
  keepKeys(made);
  return made;
}

function keepKeys(list) {
  if (process.env.KEYS_FILE) fs.writeFileSync(process.env.KEYS_FILE, JSON.stringify(list), { mode: 0o600 });
}

// The provider reads its keys once, so other keys mean another provider; sessions and grants are kept
// by its memory adapter, which all providers of a process share.
function build() {
  const provider = new Provider(issuer, {
    jwks: { keys: structuredClone(keys) },
    clients,
    cookies: { keys: ['for tests only'] },
    pkce: { required: () => true },
    scopes: ['openid', 'offline_access', 'profile'],
    claims: { openid: ['sub', 'groups'], profile: ['name'] },
    findAccount: (_ctx, id) => ({ accountId: id, claims: () => ({ sub: id, name: id, groups: groups[id] ?? [] }) }),
    extraTokenClaims: (_ctx, token) =>
      token.kind === 'ClientCredentials' ? { roles: ['batch'] } : { groups: groups[token.accountId] ?? [] },
    ttl: { AccessToken: accessTokenSeconds, ClientCredentials: accessTokenSeconds },
    features: {
      devInteractions: { enabled: true },
      clientCredentials: { enabled: true },
      dPoP: { enabled: true },
      introspection: { enabled: true, allowedPolicy: () => true },
      mTLS: {
        enabled: true,
        certificateBoundAccessTokens: true,
        getCertificate: (ctx) => Buffer.from(ctx.get('x-client-cert'), 'base64').toString() || undefined,
      },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => 'https://orders.shop.example',
        useGrantedResource: () => true,
        getResourceServerInfo: (ctx, resource, client) => ({
          scope: 'orders:read orders:write',
          audience: resource,
          accessTokenTTL: accessTokenSeconds,
          accessTokenFormat: ctx.get('x-format') || 'jwt',
          jwt: { sign: { alg: client.clientId === 'batch-es256' ? 'ES256' : 'RS256', kid: ctx.get('x-sign-with') || undefined } },
        }),
      },
    },
  });
  for (const event of ['server_error', 'grant.error', 'authorization.error']) {
    provider.on(event, (_ctx, error) => console.error(event, error?.message, error?.error_description ?? ''));
  }
  serve = provider.callback();
}

const control = {
  'POST /control/rotate': async () => {
    keys.unshift(await newKey('RS256'));
    keepKeys(keys);
    build();
    return { keys: keys.map((key) => key.kid) };
  },
  'POST /control/retire': async () => {
    const newest = new Map();
    for (const key of keys) if (!newest.has(key.alg)) newest.set(key.alg, key);
    keys.splice(0, keys.length, ...newest.values());
    keepKeys(keys);
    build();
    return { keys: keys.map((key) => key.kid) };
  },
  'GET /control/counts': async () => counts,
};

const server = http.createServer(async (request, response) => {
  const path = request.url.split('?')[0];
  const answer = control[`${request.method} ${path}`];
  if (!answer) {
    counts[path] = (counts[path] ?? 0) + 1;
    return serve(request, response);
  }
  response.setHeader('content-type', 'application/json');
  return response.end(JSON.stringify(await answer()));
});

server.listen(Number(process.env.PORT ?? 0), '127.0.0.1', () => {
  issuer = `http://127.0.0.1:${server.address().port}`;
  build();
  console.log(`ready ${issuer}`);
});
process.stdin.on('end', () => process.exit(0)).resume();
