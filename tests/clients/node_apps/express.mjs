import { createReadStream } from 'node:fs';
import { Readable } from 'node:stream';
import { errors, keysmith } from 'keysmith/express';
import { actions, add, kept, late, options, photos, started } from './work.mjs';

const { default: express } = await import(process.env.EXPRESS ?? 'express');
const app = express();
const parser = express.json();
const before = process.env.PARSER === 'before', after = process.env.PARSER === 'after';
const raw = express.raw({ type: () => true });

app.use((req, res, next) => { res.setHeader('Vary', 'before'); next(); });
app.get('/late/:what', (req, res, next) => late(req.params.what).then(body => res.json(body), next));
if (before) app.use(parser);
app.use('/wrapped', wrap);
app.use(keysmith(options));
if (process.env.SECOND) app.use(keysmith({ ...options, paths: [process.env.SECOND] }));
if (after) app.use(parser);

// The middleware of a mounted application, whose request is answered by the outer one.
const inside = express();
inside.use(keysmith({ ...options, paths: ['/'] }));
app.use('/inside', inside);
app.get('/inside/:name', (req, res, next) => add(req.keysmith, req.params.name).then(() => res.json({ inside: true }), next));
app.get('/photos', async (req, res, next) => {
  try {
    res.json(await photos(req.keysmith));
  } catch (error) { next(error); }
});
app.post('/photos', async (req, res, next) => {
  try {
    await add(req.keysmith, req.body.name);
    if (req.body.status) res.status(req.body.status);
    else res.status(201);
    res.set('X-Made', 'yes').json({ name: req.body.name });
  } catch (error) { next(error); }
});
app.get('/public', (req, res) => res.json({ tenant: req.keysmith.tenant, keyId: req.keysmith.keyId }));
app.get('/do/:action/:value', async (req, res, next) => {
  try {
    kept.caller = req.keysmith;
    res.json(await actions[req.params.action](req.keysmith, req.params.value));
  } catch (error) { next(error); }
});
app.post('/echo', raw, (req, res) => res.json({ length: req.body.length, text: String(req.body).slice(0, 100) }));
app.post('/ended', (req, res) => { req.on('end', () => res.json({ ended: true })).resume(); });
app.post('/piped', (req, res) => { res.type('text/plain'); req.pipe(res); });
app.post('/parsed', (req, res) => res.json({ body: req.body ?? null }));
app.get('/stream', (req, res) => {
  const { keysmith: caller } = req;
  async function* lines() {
    yield `${'x'.repeat(100_000)}\n`;
    yield await caller.query('SELECT 1').then(() => 'reached\n', error => `${error.message}\n`);
    for (let n = 0; n < 20; n++) yield `${n} ${'y'.repeat(100_000)}\n`;
  }
  res.type('text/plain');
  Readable.from(lines()).pipe(res);
});
app.get('/file', (req, res) => res.sendFile(process.argv[1]));
app.get('/filestream', (req, res) => createReadStream(process.argv[1]).pipe(res));
app.get('/end', (req, res) => { res.write('a'); res.write('b', () => res.end('d', () => console.log('end called back'))); res.write('c'); });
app.get('/nothing', (req, res) => res.sendStatus(204));
app.get('/notmodified', (req, res) => res.status(304).end());
app.get('/headers', (req, res) => { res.writeHead(206, { 'X-Own': '1', RateLimit: 'mine' }); res.end('own'); });
app.get('/flush', (req, res) => { res.flushHeaders(); setTimeout(() => res.end(String(res.headersSent)), 50); });
app.get('/twice', (req, res) => { res.json({ answer: 1 }); res.json({ answer: 'the second' }); });
app.get('/twicelate', (req, res) => { res.end('one'); res.statusCode = 500; res.end('two'); });
app.get('/bad/:what', async (req, res, next) => {
  try {
    await add(req.keysmith, 'bad');
    const bad = {
      header: () => res.writeHead(200, { 'X-Y': 'a\nb' }).end(),
      array: () => res.writeHead(200, ['X-Y', 'a\nb']).end(),
      message: () => { res.statusMessage = 'a\nb'; res.end(); },
      chunk: () => res.end({ a: 1 }),
      number: () => res.write(12),
      status: () => { res.statusCode = 1000; res.end(); },
    };
    bad[req.params.what]();
  } catch (error) {
    res.statusMessage = undefined;
    res.statusCode = 200;
    next(error);
  }
});
const mounted = express();
const inner = express();
inner.get('/:name', (req, res, next) => add(req.keysmith, req.params.name).then(() => res.json({ mounted: req.params.name }), next));
mounted.use(inner);
app.use('/mounted', mounted);
// As compression and sessions do, before the middleware or behind it.
function wrap(req, res, next) {
  const { write, end, writeHead } = res;
  res.writeHead = function (...call) { res.setHeader('X-Wrapped', 'yes'); return writeHead.apply(this, call); };
  res.end = function (...call) {
    res.removeHeader('Content-Length');
    if (!res.headersSent) res.writeHead(res.statusCode);
    write.call(this, '<');
    if (call[0]) write.call(this, call[0]);
    return end.call(this, '>');
  };
  next();
}
app.get('/wrapped/:name', (req, res, next) => add(req.keysmith, req.params.name).then(() => res.end(req.params.name), next));
app.get('/wrapping/:name', wrap, (req, res, next) => add(req.keysmith, req.params.name).then(() => res.end(req.params.name), next));
app.get('/internal', (req, res) => res.json({ tenant: req.keysmith.tenant }));

if (process.env.ERRORS !== 'off') app.use(errors);
const server = app.listen(0, '127.0.0.1', () => started(server));
