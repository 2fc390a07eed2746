import { serve } from '@hono/node-server';
import { handle } from 'keysmith/web';
import { actions, add, kept, late, options, photos, started } from './work.mjs';

const peers = new WeakMap();
const settings = { ...options, peer: request => peers.get(request) };

const json = (body, init) => Response.json(body, init);
const routes = {
  'GET /photos': async (request, caller) => json(await photos(caller)),
  async 'POST /photos'(request, caller) {
    const { name, status = 201 } = await request.json();
    await add(caller, name);
    return json({ name }, { status, headers: { 'X-Made': 'yes' } });
  },
  'GET /public': async (request, { tenant, keyId }) => json({ tenant, keyId }),
  async 'POST /echo'(request) {
    const body = Buffer.from(await request.arrayBuffer());
    return json({ length: body.length, text: String(body).slice(0, 100) });
  },
  'POST /piped': async request => new Response(request.body),
  'POST /parsed': async request => json({ body: await request.json() }),
  async 'GET /stream'(request, caller) {
    async function* lines() {
      yield Buffer.from(`${'x'.repeat(100_000)}\n`);
      yield Buffer.from(await caller.query('SELECT 1').then(() => 'reached\n', error => `${error.message}\n`));
      for (let n = 0; n < 20; n++) yield Buffer.from(`${n} ${'y'.repeat(100_000)}\n`);
    }
    return new Response(ReadableStream.from(lines()));
  },
  'GET /nothing': async () => new Response(null, { status: 204 }),
  'GET /headers': async () => new Response('own', { status: 206, headers: { 'X-Own': '1', RateLimit: 'mine' } }),
  'GET /redirect': async () => Response.redirect('http://127.0.0.1/elsewhere', 302),
  'GET /internal': async (request, caller) => json({ tenant: caller.tenant }),
};

async function work(request, caller) {
  const { pathname } = new URL(request.url);
  const [, what, action, value] = pathname.split('/');
  if (what === 'do') {
    kept.caller = caller;
    return json(await actions[action](caller, value));
  }
  const route = routes[`${request.method} ${pathname}`];
  return route ? route(request, caller) : json({ code: 'not_found' }, { status: 404 });
}

const server = serve({
  port: 0, hostname: '127.0.0.1',
  async fetch(request, env) {
    peers.set(request, env.incoming.socket.remoteAddress);
    const { pathname } = new URL(request.url);
    if (pathname.startsWith('/late/')) return json(await late(pathname.slice(6)));
    try {
      return await handle(request, settings, work);
    } catch (error) {
      console.error(error);
      return new Response('Internal Server Error', { status: 500 });
    }
  },
}, () => started(server));
