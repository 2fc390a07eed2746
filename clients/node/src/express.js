// Express 4 and 5.

import { asText, isUnread, peek, reparsed, unread } from './body.js';
import { answerOf, errorOf } from './errors.js';
import { hold } from './hold.js';
import { address, configure, headersOf, target } from './options.js';
import { Exchange } from './request.js';

export function keysmith(options) {
  const config = configure(options, req => req.socket.remoteAddress);
  return function keysmith(req, res, next) {
    // Express routes by this path, and takes upper case for lower.
    const path = req.baseUrl + req.path;
    if (!config.covers(path)) {
      missing(req, path);
      next();
    } else if (Object.getOwnPropertyDescriptor(req, 'keysmith')?.value) {
      next(new Error('keysmith: the request has a caller already: the middleware runs twice'));
    } else {
      decide(config, path, req, res, next);
    }
  };
}

// For the end of an application: answers the errors of keysmith that no handler has caught.
export function errors(error, req, res, next) {
  const known = errorOf(error);
  if (known === null || res.headersSent) next(error);
  else send(res, answerOf(known));
}

function decide(config, path, req, res, next) {
  const exchange = new Exchange(config);
  res.on('close', () => exchange.abandon());
  const { 'content-type': type, 'content-length': length, 'transfer-encoding': chunked } = req.headers;
  const text = unread(req.method, type, length, chunked !== undefined);
  if (text !== undefined) ask(text);
  // Something has read it before, such as express.json.
  else if (!isUnread(req)) ask(reparsed(req.body, type));
  else read(req, type).then(body => body !== undefined && ask(body), next);

  function ask(body) {
    const url = target(req.url), query = url.indexOf('?');
    exchange.decide(
      req, headersOf(req), req.method, query < 0 ? path : path + url.slice(query), address(config, req), body,
    ).then(answer => {
      if (answer !== null) return send(res, answer);
      if (!exchange.isOpen) return;
      Object.defineProperty(req, 'keysmith', { configurable: true, enumerable: true, writable: true, value: exchange.caller });
      hold(res, req.app, exchange);
      next();
    }).catch(next);
  }
}

// Returns undefined if the client goes away meanwhile.
async function read(req, type) {
  let bytes;
  try {
    bytes = await peek(req);
  } catch (error) {
    if (req.destroyed) return undefined;
    throw error;
  }
  const text = asText(bytes);
  if (bytes?.length > 0 && /json/i.test(type ?? '')) {
    try {
      req.body = JSON.parse(bytes);
    } catch {
      // The application's parser says so.
    }
  }
  return text;
}

export function send(res, { status, headers, body }) {
  res.statusCode = status;
  for (const name in headers) res.setHeader(name, headers[name]);
  res.end(body ?? undefined);
}

function missing(req, path) {
  if (Object.hasOwn(req, 'keysmith')) return;
  Object.defineProperty(req, 'keysmith', {
    configurable: true,
    get() {
      throw new Error(`keysmith: ${path} is below none of the middleware's paths, so nobody has asked who calls`);
    },
  });
}
