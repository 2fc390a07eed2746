// Hono 4.

import { STAYS, answerOf, errorOf } from './errors.js';
import { address, configure, headersOf, target } from './options.js';
import { Exchange } from './request.js';
import { GONE, abandonOnAbort, read, responseOf, withHeaders } from './web.js';

export function keysmith(options) {
  const config = configure(options, c => c.env?.incoming?.socket?.remoteAddress);
  return async function keysmith(c, next) {
    if (!config.covers(c.req.path)) return next();
    if (c.get('keysmith') !== undefined) throw new Error('keysmith: the request has a caller already: the middleware runs twice');
    const { method, raw } = c.req;
    const { text, replayed } = method === 'GET' || method === 'HEAD' ? { text: null, replayed: raw } : await read(raw);
    // On Node the request as it was received is at hand, unless a middleware has put another one in its place.
    const { incoming, outgoing } = isOfNode(raw) && c.env?.incoming ? c.env : {};
    const headers = incoming ? headersOf(incoming) : JSON.stringify(c.req.header());
    const exchange = new Exchange(config);
    if (outgoing) outgoing.on('close', () => exchange.abandon());
    const forget = outgoing ? null : abandonOnAbort(raw, exchange);
    try {
      const answer = await exchange.decide(c, headers, method, target(c.req.url), address(config, c), text);
      if (answer !== null || !exchange.isOpen) return responseOf(answer ?? GONE, c.req);
      if (replayed !== raw) c.req.raw = replayed;
      c.set('keysmith', exchange.caller);
      await next();
      if (!c.finalized) throw new Error('no handler has made an answer: return one, or await next()');
      // Hono has made an answer of an error. One of keysmith's that has become a 500 was caught by nobody.
      const known = c.error && c.res.status === 500 ? errorOf(c.error) : null;
      if (known !== null) replace(c, responseOf(answerOf(known)));
      const instead = await exchange.finish(c.res.status);
      replace(c, instead === null ? withHeaders(c.res, exchange.headers) : responseOf(instead, c.req));
    } catch (error) {
      await exchange.finish(500);
      throw error;
    } finally {
      forget?.();
    }
  };
}

function replace(c, response) {
  if (response === c.res) return;
  for (const [name, value] of c.res.headers) {
    if (STAYS.test(name) && !response.headers.has(name)) response.headers.set(name, value);
  }
  // Otherwise Hono would keep the headers of the answer before.
  c.res = undefined;
  c.res = response;
}

// Those of @hono/node-server stand for the headers of Node's request.
const isOfNode = ({ headers }) => Object.getPrototypeOf(headers) !== Headers.prototype;
