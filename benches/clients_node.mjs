// Servers and a load for clients_node.py: `node clients_node.mjs FRAMEWORK` reads commands, a line of JSON each.
// The packages are found from the working directory.

import net from 'node:net';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const require = createRequire(`${process.cwd()}/`);
const load = name => import(pathToFileURL(require.resolve(name)));

const KEY = 'ks_live_vLYAoEMQKfYBxWZBGxLwsQuoXH4Z8ZQyxBZHedYdYvD1p6vUu';
const BODY = { photos: ['a', 'b', 'c'] };

// Each handler makes one query, with the pool, the request's client, or the one that is written by hand.
async function photos(client) {
  await client.query('SELECT 1 AS one');
  return BODY;
}

// Answers at once, so that only the adapter's own work counts.
const RESULT = {
  command: 'COMMIT',
  rows: [{
    handled: false, status: 200, headers: '{}', body: null, tenant: 'acme',
    request_id: '018c2b5e-8c5a-7000-8000-0123456789ab', key_id: '00448857-4ab4-418a-8a33-e39a6a62d8f3',
  }],
};
const fake = {
  query: () => Promise.resolve(RESULT),
  release() {},
  on() {},
};
const fakePool = { connect: () => Promise.resolve(fake) };

// What one would write by hand for each request.
const AUTHENTICATE = `
  SELECT ok, status, code, message, request_id::text FROM keysmith.authenticate($1::jsonb, $2, $3, ip => $4::inet)`;
async function byHand(pool, req, handler) {
  const begun = performance.now();
  const client = await pool.connect();
  try {
    await client.query('BEGIN');
    const { rows: [verdict] } = await client.query(AUTHENTICATE, [
      JSON.stringify(req.headersDistinct), req.method, req.url, req.socket.remoteAddress]);
    const answer = verdict.ok ? await handler(client) : { code: verdict.code };
    await client.query('SELECT keysmith.log_request($1, make_interval(secs => $2))',
      [verdict.status, (performance.now() - begun) / 1000]);
    await client.query('COMMIT');
    return answer;
  } catch (error) {
    await client.query('ROLLBACK').catch(() => {});
    throw error;
  } finally {
    client.release();
  }
}

// HOW is `alone`, `package` or `by hand`.
const FRAMEWORKS = {
  async express(how, pool) {
    const { default: express } = await load('express');
    const { keysmith } = await load('keysmith/express');
    const app = express();
    if (how === 'package') app.use(keysmith({ pool }));
    app.get('/photos', how === 'by hand'
      ? (req, res, next) => byHand(pool, req, photos).then(body => res.json(body), next)
      : async (req, res) => { res.json(await photos(req.keysmith ?? fake)); });
    return new Promise(resolve => { const server = app.listen(0, '127.0.0.1', () => resolve(server)); });
  },
  async fastify(how, pool) {
    const { default: Fastify } = await load('fastify');
    const { keysmith } = await load('keysmith/fastify');
    const app = Fastify();
    if (how === 'package') await app.register(keysmith, { pool });
    app.get('/photos', how === 'by hand'
      ? request => byHand(pool, request.raw, photos)
      : request => photos(how === 'package' ? request.keysmith : fake));
    await app.listen({ port: 0, host: '127.0.0.1' });
    return app.server;
  },
  async hono(how, pool) {
    const { Hono } = await load('hono');
    const { serve } = await load('@hono/node-server');
    const { keysmith } = await load('keysmith/hono');
    const app = new Hono();
    if (how === 'package') app.use(keysmith({ pool }));
    app.get('/photos', how === 'by hand'
      ? async c => c.json(await byHand(pool, c.env.incoming, photos))
      : async c => c.json(await photos(c.get('keysmith') ?? fake)));
    return new Promise(resolve => {
      const server = serve({ fetch: app.fetch, port: 0, hostname: '127.0.0.1' }, () => resolve(server));
    });
  },
};

// Sends requests over a few connections, each after the answer to the one before.
function send(port, key, requests, connections) {
  const request = Buffer.from([
    'GET /photos HTTP/1.1', `Host: 127.0.0.1:${port}`, `Authorization: Bearer ${key}`, 'Accept: application/json',
    'Accept-Encoding: gzip, deflate', 'User-Agent: bench/1.0', 'X-Request-Id: 6f1c', '', ''].join('\r\n'));
  let left = requests;
  return Promise.all(Array.from({ length: connections }, () => new Promise((resolve, reject) => {
    const socket = net.connect({ port, host: '127.0.0.1', noDelay: true });
    const next = () => (left-- > 0 ? socket.write(request) : socket.end(resolve));
    socket.on('connect', next).on('error', reject).on('data', data => {
      const text = data.latin1Slice();
      if (!text.startsWith('HTTP/1.1 200') || !text.endsWith('}')) reject(new Error(text));
      else next();
    });
  })));
}

const servers = {};
const commands = {
  async serve({ framework, how, real }) {
    let pool = fakePool;
    if (real) {
      const { default: pg } = await load('pg');
      pool = new pg.Pool({ max: 4 });
    }
    servers.one = await FRAMEWORKS[framework](how, pool);
    return { port: servers.one.address().port };
  },
  spent() {
    const { user, system } = process.cpuUsage();
    return { microseconds: user + system };
  },
  async load({ port, key = KEY, requests, connections = 4 }) {
    await send(port, key, requests, connections);
    return {};
  },
};

createInterface({ input: process.stdin }).on('line', async line => {
  const { command, ...details } = JSON.parse(line);
  try {
    console.log(JSON.stringify(await commands[command](details)));
  } catch (error) {
    console.error(error);
    process.exit(1);
  }
}).on('close', () => process.exit(0));
