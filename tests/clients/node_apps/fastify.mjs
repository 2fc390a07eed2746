import { createReadStream } from 'node:fs';
import { Readable } from 'node:stream';
import Fastify from 'fastify';
import { keysmith } from 'keysmith/fastify';
import { actions, add, kept, late, options, photos, started } from './work.mjs';

const app = Fastify({ logger: { level: 'trace' }, ...JSON.parse(process.env.FASTIFY ?? '{}') });
app.addHook('onRequest', async (request, reply) => { reply.header('Vary', 'before'); });
if (process.env.EARLY) app.addHook('onRequest', async request => { request.log.info(request.keysmith.tenant); });
app.get('/early', request => photos(request.keysmith));
app.get('/early/:name', request => add(request.keysmith, request.params.name));
await app.register(keysmith, options);
app.addHook('onSend', async (request, reply) => {
  if (request.url === '/hooked/throws') throw new Error('a hook');
  if (request.url === '/hooked/status') reply.code(500);
});
if (process.env.ERRORS === 'own') {
  app.setErrorHandler((error, request, reply) => reply.code(418).send({ own: error.code ?? error.message }));
}

app.get('/late/:what', request => late(request.params.what));
app.get('/photos', request => photos(request.keysmith));
app.post('/photos', async (request, reply) => {
  await add(request.keysmith, request.body.name);
  return reply.code(request.body.status ?? 201).header('X-Made', 'yes').send({ name: request.body.name });
});
app.get('/public', async request => ({ tenant: request.keysmith.tenant, keyId: request.keysmith.keyId }));
app.get('/do/:action/:value', async request => {
  kept.caller = request.keysmith;
  return actions[request.params.action](request.keysmith, request.params.value);
});
app.post('/parsed', async request => ({ body: request.body ?? null }));
app.get('/stream', async (request, reply) => {
  const { keysmith: caller } = request;
  async function* lines() {
    yield `${'x'.repeat(100_000)}\n`;
    yield await caller.query('SELECT 1').then(() => 'reached\n', error => `${error.message}\n`);
    for (let n = 0; n < 20; n++) yield `${n} ${'y'.repeat(100_000)}\n`;
  }
  return reply.type('text/plain').send(Readable.from(lines()));
});
app.get('/filestream', async (request, reply) => reply.send(createReadStream(process.argv[1])));
app.get('/nothing', async (request, reply) => reply.code(204).send());
app.get('/headers', async (request, reply) => reply.code(206).headers({ 'X-Own': '1', RateLimit: 'mine' }).send('own'));
app.get('/hijack', async (request, reply) => {
  await add(request.keysmith, 'hijacked');
  reply.hijack();
  reply.raw.end('raw');
});
app.get('/web/:status', async request => {
  await add(request.keysmith, `web ${request.params.status}`);
  return new Response('web', { status: Number(request.params.status) });
});
app.get('/second/:what', async (request, reply) => {
  await add(request.keysmith, request.params.what);
  reply.send({ answer: 1 });
  if (request.params.what === 'throws') throw new Error('second');
  if (request.params.what === 'returns') return { answer: 2 };
  reply.send({ answer: 3 });
});
app.get('/hooked/:what', async request => { await add(request.keysmith, 'hooked'); return {}; });
app.get('/bad/:what', async (request, reply) => {
  await add(request.keysmith, 'bad');
  const { what } = request.params;
  if (what === 'header') return reply.header('X-Bad', 'a\nb').send({});
  if (what === 'object') return reply.header('Content-Type', 'text/plain').send({ a: 1 });
  reply.raw.statusMessage = 'a\nb';
  return {};
});
app.get('/internal', async request => ({ tenant: request.keysmith.tenant }));
app.register(async scope => {
  scope.get('/nested/photos', request => photos(request.keysmith));
});

await app.listen({ port: 0, host: '127.0.0.1' });
started(app.server);
