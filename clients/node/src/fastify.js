// Fastify 5.

import { Readable } from 'node:stream';
import { NOT_JSON, asText, isUnread, peek, reparsed, unread } from './body.js';
import { STAYS, answerOf, errorOf } from './errors.js';
import { address, configure, headersOf, target } from './options.js';
import { Exchange } from './request.js';

const EXCHANGE = Symbol('keysmith');

export async function keysmith(fastify, options) {
  const config = configure(
    { report: error => fastify.log.error(error.message), ...options }, request => request.raw.socket.remoteAddress);

  fastify.decorateRequest(EXCHANGE, null);
  fastify.decorateRequest('keysmith', {
    getter() {
      const caller = this[EXCHANGE]?.caller;
      if (caller) return caller;
      throw new Error(`keysmith: nobody has asked who calls ${this.url}: it is below none of paths, or asked before preValidation`);
    },
  });

  // An endpoint of the database has no route here. Its body need not have a type that Fastify can parse.
  fastify.addHook('preParsing', (request, reply, payload, done) => {
    if (!request.is404 || !covers(config, request)) return done();
    read(request, payload).then(({ text, stream }) => decide(config, request, reply, text, () => done(null, stream), done), done);
  });

  fastify.addHook('preValidation', (request, reply, done) => {
    if (request[EXCHANGE] !== null || !covers(config, request)) return done();
    decide(config, request, reply, bodyOf(request), done, done);
  });

  fastify.addHook('onError', (request, reply, error, done) => {
    if (request[EXCHANGE] !== null) request[EXCHANGE].error = error;
    done();
  });

  const onSend = (request, reply, payload, done) => {
    const exchange = request[EXCHANGE];
    if (exchange === null || !exchange.isOpen) {
      if (exchange === null || !exchange.isEnding) return done(null, payload);
      // A second answer, while the transaction of the first ends: the first is sent.
      exchange.again = true;
      return request.log.warn('a second answer to a request is not sent');
    }
    const { statusCode } = reply, headers = headersOfReply(reply);
    const fault = unsendable(reply, headers, payload);
    if (fault !== null) return done(fault);
    const failure = uncaught(exchange.error, reply, payload);
    exchange.finish(failure?.status ?? (payload instanceof Response ? payload.status : statusCode)).then(instead => {
      if (exchange.again) reply.code(statusCode).headers(headers);
      const answer = instead ?? (failure && answerOf(failure));
      if (answer !== null) return done(null, replace(reply, payload, answer));
      const { headers: more } = exchange;
      for (const name in more) if (!reply.hasHeader(name)) reply.header(name, more[name]);
      done(null, payload);
    }).catch(error => reply.raw.destroy(error));
  };
  // The hooks of a route run after those of instances, so that no other can change the answer behind this one.
  fastify.addHook('onRoute', route => {
    route.onSend = [].concat(route.onSend ?? [], onSend);
    route.config = { ...route.config, [EXCHANGE]: true };
  });
  const early = fastify.printRoutes() !== '(empty tree)';
  fastify.addHook('onSend', (request, reply, payload, done) => {
    if (request.is404 || (early && !request.routeOptions.config[EXCHANGE])) onSend(request, reply, payload, done);
    else done(null, payload);
  });
}

// A copy, as of getHeaders(), which takes as long as all of the rest here.
let place;
function headersOfReply(reply) {
  place ??= Object.getOwnPropertySymbols(reply).find(symbol => symbol.description === 'fastify.reply.headers') ?? null;
  return place === null ? reply.getHeaders() : { ...reply[place] };
}

// What would fail when it is sent must fail before the commit.
function unsendable(reply, headers, payload) {
  if (payload !== null && payload !== undefined && typeof payload !== 'string' && !(payload instanceof Uint8Array)
    && !(payload instanceof Response) && typeof (payload.pipe ?? payload.getReader) !== 'function') {
    return new TypeError(`an answer must be a string, a Buffer or a stream when it is sent, not ${typeof payload}`);
  }
  if (UNSENDABLE.test(reply.raw.statusMessage)) {
    reply.raw.statusMessage = undefined;
    return new TypeError('the status message has a character that no header can have');
  }
  for (const name in headers) {
    const value = headers[name];
    if (value === undefined || UNSENDABLE.test(value)) {
      reply.removeHeader(name);
      return new TypeError(`the header ${name} has a value that no header can have`);
    }
  }
  return null;
}

// As Node has it. Its own function costs more than all of the rest here.
const UNSENDABLE = /[^\t\x20-\x7e\x80-\xff]/;

// The answer to an error of keysmith, if Fastify has made its own of it: no handler of the application has.
function uncaught(error, reply, payload) {
  const known = error === null ? null : errorOf(error);
  if (known === null || typeof payload !== 'string' || !payload.startsWith('{')) return null;
  try {
    const { statusCode, message, error: name } = JSON.parse(payload);
    return statusCode === reply.statusCode && message === error.message && name !== undefined ? known : null;
  } catch {
    return null;
  }
}

// Hooks of a plugin that is not encapsulated apply to all routes.
keysmith[Symbol.for('skip-override')] = true;
keysmith[Symbol.for('fastify.display-name')] = 'keysmith';

// Answers the request, or calls `goOn`.
function decide(config, request, reply, body, goOn, fail) {
  const exchange = new Exchange(config);
  request[EXCHANGE] = exchange;
  const { raw } = request;
  // Whatever ends the connection: a client that goes away, a timeout, or an answer that passes by the hooks.
  reply.raw.on('close', () => closed(config, request, reply, exchange));
  exchange.decide(request, headersOf(raw), raw.method, target(raw.url), address(config, request), body).then(answer => {
    if (answer !== null) reply.code(answer.status).headers(answer.headers).send(answer.body ?? undefined);
    else if (exchange.isOpen) goOn();
  }, fail);
}

function closed(config, { url }, { raw: { headersSent, statusCode } }, exchange) {
  if (exchange.isOpen && headersSent && exchange.error === null) {
    config.report(new Error(`keysmith: the answer to ${url} passed by the hooks of Fastify, so its transaction is rolled back`));
  }
  exchange.abandon(headersSent ? statusCode : undefined);
}

function replace(reply, payload, { status, headers, body }) {
  if (typeof payload?.destroy === 'function') payload.destroy();
  else if (typeof payload?.cancel === 'function') payload.cancel().catch(() => {});
  for (const name in reply.getHeaders()) if (!STAYS.test(name)) reply.removeHeader(name);
  reply.code(status).headers(headers);
  return body;
}

function known({ raw, method }) {
  const { headers } = raw;
  return unread(method, headers['content-type'], headers['content-length'], headers['transfer-encoding'] !== undefined);
}

function bodyOf(request) {
  const text = known(request);
  return text === undefined ? reparsed(request.body, request.headers['content-type']) : text;
}

// The body as a text, and a stream that Fastify can still parse.
async function read(request, payload) {
  const text = known(request);
  if (text !== undefined) return { text, stream: payload };
  if (!isUnread(payload)) return { text: NOT_JSON, stream: payload };
  const bytes = await peek(payload);
  const stream = bytes !== null && payload.readableEnded ? Readable.from([bytes]) : payload;
  return { text: asText(bytes), stream };
}

// Fastify decodes a path before it routes, and may be told to take more spellings for the same.
function covers(config, request) {
  if (config.all) return true;
  const path = target(request.raw.url).replace(/\?.*/s, '').replace(/\/{2,}/g, '/');
  return config.covers(decoded(path)) || config.covers(request.routeOptions.url ?? '');
}

function decoded(path) {
  try {
    return decodeURI(path);
  } catch {
    return path;
  }
}
