import { serve } from '@hono/node-server';
import { Hono } from 'hono';
import { keysmith } from 'keysmith/hono';
import { actions, add, kept, late, options, photos, started } from './work.mjs';

const app = new Hono();
app.use(async (c, next) => { c.header('Vary', 'before'); await next(); });
if (process.env.ERRORS === 'own') app.onError((error, c) => c.json({ own: error.code ?? error.message }, 418));

app.get('/late/:what', async c => c.json(await late(c.req.param('what'))));
app.use('/replaced/:key', async (c, next) => {
  const headers = new Headers(c.req.raw.headers);
  headers.delete('Authorization');
  if (c.req.param('key') !== 'strip') headers.set('X-API-Key', c.req.param('key'));
  c.req.raw = new Request(c.req.raw, { headers });
  await next();
});
app.use(keysmith(options));
app.get('/replaced/:key', c => c.json({ tenant: c.get('keysmith').tenant }));
app.get('/silent', async c => { await add(c.get('keysmith'), 'silent'); });
app.get('/photos', async c => c.json(await photos(c.get('keysmith'))));
app.post('/photos', async c => {
  const { name, status = 201 } = await c.req.json();
  await add(c.get('keysmith'), name);
  return c.json({ name }, status, { 'X-Made': 'yes' });
});
app.get('/public', c => c.json({ tenant: c.get('keysmith').tenant, keyId: c.get('keysmith').keyId }));
app.get('/do/:action/:value', async c => {
  kept.caller = c.get('keysmith');
  return c.json(await actions[c.req.param('action')](c.get('keysmith'), c.req.param('value')));
});
app.post('/echo', async c => {
  const body = Buffer.from(await c.req.arrayBuffer());
  return c.json({ length: body.length, text: String(body).slice(0, 100) });
});
app.post('/piped', c => c.body(c.req.raw.body, 200, { 'Content-Type': 'text/plain' }));
app.post('/parsed', async c => c.json({ body: await c.req.json() }));
app.get('/stream', c => {
  const caller = c.get('keysmith');
  async function* lines() {
    yield Buffer.from(`${'x'.repeat(100_000)}\n`);
    yield Buffer.from(await caller.query('SELECT 1').then(() => 'reached\n', error => `${error.message}\n`));
    for (let n = 0; n < 20; n++) yield Buffer.from(`${n} ${'y'.repeat(100_000)}\n`);
  }
  return c.body(ReadableStream.from(lines()));
});
app.get('/nothing', c => c.body(null, 204));
app.get('/headers', () => new Response('own', { status: 206, headers: { 'X-Own': '1', RateLimit: 'mine' } }));
app.get('/redirect', () => Response.redirect('http://127.0.0.1/elsewhere', 302));
app.get('/internal', c => c.json({ tenant: c.get('keysmith').tenant }));

const server = serve({ fetch: app.fetch, port: 0, hostname: '127.0.0.1' }, () => started(server));
