// Handlers of a Web `Request` that return a `Response`.

import { MOST_BYTES, NOT_JSON, asText, unread } from './body.js';
import { answerOf, errorOf } from './errors.js';
import { address, configure, target } from './options.js';
import { Exchange } from './request.js';

const configured = new WeakMap();

export async function handle(request, options, work) {
  if (!configured.has(options)) configured.set(options, configure(options));
  const config = configured.get(options);
  const path = target(request.url);
  if (!config.covers(pathname(path))) return work(request, null);
  const { text, replayed } = await read(request);
  const exchange = new Exchange(config);
  const forget = abandonOnAbort(request, exchange);
  try {
    const headers = JSON.stringify(Object.fromEntries(request.headers));
    const answer = await exchange.decide(request, headers, request.method, path, address(config, request), text);
    if (answer !== null || !exchange.isOpen) return responseOf(answer ?? GONE, request);
    const response = await attempt(exchange, work, replayed);
    const instead = await exchange.finish(response.status);
    if (instead === null) return withHeaders(response, exchange.headers);
    response.body?.cancel().catch(() => {});
    return responseOf(instead, request);
  } finally {
    forget();
  }
}

// The client has gone away, and nobody reads an answer.
export const GONE = { status: 500, headers: {}, body: null };

export function abandonOnAbort({ signal }, exchange) {
  const abandon = () => exchange.abandon();
  if (signal.aborted) abandon();
  signal.addEventListener('abort', abandon);
  return () => signal.removeEventListener('abort', abandon);
}

async function attempt(exchange, work, request) {
  try {
    return await work(request, exchange.caller);
  } catch (error) {
    const known = errorOf(error);
    if (known !== null) return responseOf(answerOf(known));
    await exchange.finish(500);
    throw error;
  }
}

export function responseOf({ status, headers, body }, request) {
  return new Response(request?.method === 'HEAD' ? null : body, { status, headers });
}

export function withHeaders(response, headers) {
  const names = Object.keys(headers);
  const missing = names.length === 0 ? names : names.filter(name => !response.headers.has(name));
  if (missing.length === 0) return response;
  // Those of a redirect or of fetch can't be changed.
  const copy = new Response(response.body, response);
  for (const name of missing) copy.headers.set(name, headers[name]);
  return copy;
}

/** The body as a text, and a request that still has all of it. */
export async function read(request) {
  const { method, headers } = request;
  if (method === 'GET' || method === 'HEAD' || request.body === null) return { text: null, replayed: request };
  const length = headers.get('content-length');
  const text = unread(method, headers.get('content-type'), length, length === null);
  if (text !== undefined) return { text, replayed: request };
  if (request.bodyUsed) return { text: NOT_JSON, replayed: request };
  const reader = request.body.getReader();
  const chunks = [];
  let size = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    chunks.push(value);
    size += value.length;
    if (size > MOST_BYTES) return { text: NOT_JSON, replayed: new Request(request, { body: rest(chunks, reader), duplex: 'half' }) };
  }
  const bytes = Buffer.concat(chunks, size);
  return { text: asText(bytes), replayed: new Request(request, { body: bytes }) };
}

function rest(chunks, reader) {
  return new ReadableStream({
    async pull(controller) {
      if (chunks.length > 0) return controller.enqueue(chunks.shift());
      const { done, value } = await reader.read();
      if (done) controller.close();
      else controller.enqueue(value);
    },
    cancel: reason => reader.cancel(reason),
  });
}

export function pathname(path) {
  const bare = path.replace(/\?.*/s, '');
  try {
    return decodeURI(bare);
  } catch {
    return bare;
  }
}
