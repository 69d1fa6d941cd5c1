// A certified OpenID provider (npm oidc-provider) for the test suite, on loopback and nowhere else.
//
//   PORT       where to listen; 0 takes a free port (default)
//   KEYS_FILE  where the signing keys are kept, so that a provider started again on the same port
//              is the same issuer with the same keys; without it they live as long as the process
//   CLIENT_JWKS_FILE  the keys that the client `orders-jwt` signs its assertions with; without the file
//              there is no such client
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
import { Provider, errors } from 'oidc-provider';

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
const exchangeGrant = 'urn:ietf:params:oauth:grant-type:token-exchange';
clients.push({ client_id: 'orders', client_secret: 'batch-secret', grant_types: ['client_credentials', exchangeGrant],
  redirect_uris: [], response_types: [] });
if (process.env.CLIENT_JWKS_FILE && fs.existsSync(process.env.CLIENT_JWKS_FILE)) {
  clients.push({ client_id: 'orders-jwt', grant_types: ['client_credentials'], redirect_uris: [], response_types: [],
    token_endpoint_auth_method: 'private_key_jwt', token_endpoint_auth_signing_alg: 'ES256',
    jwks: JSON.parse(fs.readFileSync(process.env.CLIENT_JWKS_FILE)) });
}
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
  const parameters = ['subject_token', 'subject_token_type', 'requested_token_type', 'actor_token', 'actor_token_type',
    'audience', 'resource', 'scope'];
  provider.registerGrantType(exchangeGrant, exchangeToken, parameters, ['audience', 'resource']);
  for (const event of ['server_error', 'grant.error', 'authorization.error']) {
    provider.on(event, (_ctx, error) => console.error(event, error?.message, error?.error_description ?? ''));
  }
  serve = provider.callback();
}

// RFC 8693, which the provider does not have: for the same subject, another audience, and `act` with the client
// of the actor's token. Nobody gets a token for an audience with `forbidden` in its name.
async function exchangeToken(ctx) {
  const { params, client } = ctx.oidc;
  const ours = jose.createLocalJWKSet({ keys: keys.map(({ kty, n, e, crv, x, y, alg, kid, use }) => ({ kty, n, e, crv, x, y, alg, kid, use })) });
  const verified = async (token) => (await jose.jwtVerify(token, ours, { issuer, typ: 'at+jwt' })).payload;
  let subject;
  let actor;
  try {
    subject = await verified(params.subject_token);
    actor = params.actor_token && (await verified(params.actor_token));
  } catch {
    throw new errors.InvalidGrant('subject_token or actor_token is not good');
  }
  if (String(params.audience).includes('forbidden')) throw new errors.InvalidTarget();
  const signing = keys.find((key) => key.alg === 'RS256');
  const act = actor && { act: { sub: actor.client_id, iss: issuer } };
  const claims = { scope: params.scope, client_id: client.clientId, jti: crypto.randomUUID(), ...act };
  ctx.body = {
    access_token: await new jose.SignJWT(claims).setProtectedHeader({ alg: signing.alg, kid: signing.kid, typ: 'at+jwt' })
      .setIssuer(issuer).setSubject(subject.sub).setAudience(params.audience).setIssuedAt()
      .setExpirationTime(`${accessTokenSeconds}s`).sign(await jose.importJWK(signing)),
    issued_token_type: 'urn:ietf:params:oauth:token-type:access_token',
    token_type: 'Bearer',
    expires_in: accessTokenSeconds,
  };
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
