// Holds what a handler sends until the request's transaction has ended.

import { validateHeaderName, validateHeaderValue } from 'node:http';
import { STAYS } from './errors.js';

const OPEN = 0, HELD = 1, SENT = 2, REPLACED = 3;
const METHODS = ['writeHead', 'write', 'end', 'flushHeaders'];
const STATE = Symbol('keysmith');

/**
 * Takes over a response of Express. The first byte or header that is sent ends the transaction; meanwhile the response
 * seems sent to the application. Then everything goes out, or a failure in its place.
 */
export function hold(res, app, exchange) {
  const { methods, holding } = heldBy(app);
  const state = { exchange, phase: OPEN, status: 0, head: null, calls: [], ended: false, waits: false, passes: false, methods };
  // A middleware before this one has taken the response over too, and calls the methods of the prototype.
  if (METHODS.some(name => Object.hasOwn(res, name))) {
    const { writeHead, write, end, flushHeaders } = res;
    state.methods = { writeHead, write, end, flushHeaders };
    state.passes = true;
    Object.assign(res, holding);
  }
  res[STATE] = state;
}

function begin(res, state) {
  state.phase = HELD;
  state.status = res.statusCode;
  state.exchange.finish(state.status).then(instead => {
    state.phase = SENT;
    if (instead === null) release(res, state);
    else replace(res, state, instead);
  }).catch(error => res.destroy(error));
}

function release(res, state) {
  if (res.statusCode !== state.status) res.statusCode = state.status;
  const { headers } = state.exchange;
  for (const name in headers) if (!res.hasHeader(name)) res.setHeader(name, headers[name]);
  if (state.head !== null) state.methods.writeHead.apply(res, state.head);
  let ready = true;
  for (const { name, call } of state.calls) ready = state.methods[name].apply(res, call);
  if (state.waits && ready !== false) res.emit('drain');
}

function replace(res, state, { status, headers, body }) {
  for (const name of res.getHeaderNames()) if (!STAYS.test(name)) res.removeHeader(name);
  for (const name in headers) res.setHeader(name, headers[name]);
  res.statusCode = status;
  res.statusMessage = undefined;
  state.methods.end.call(res, body);
  state.phase = REPLACED;
}

/**
 * The methods that responses of an application have in place of Node's. They are on its prototype of responses, as
 * Express provides for: when a mounted application takes over, it gives the response another prototype, and all of
 * these inherit from that of the outermost application.
 */
const made = new WeakMap();

function heldBy(app) {
  if (made.has(app)) return made.get(app);
  let root = app;
  while (root.parent) root = root.parent;
  const held = made.get(root) ?? methodsFor(root.response);
  made.set(root, held).set(app, held);
  return held;
}

function methodsFor(prototype) {
  const { writeHead, write, end, flushHeaders, setHeader, appendHeader, removeHeader } = prototype;
  const sent = getterOf(prototype, 'headersSent');
  // A second answer must fail as it does once a first one is sent.
  const unlessHeld = (method, what) => function (name, value) {
    if (this[STATE]?.phase === HELD) throw headersSent(what);
    return method.call(this, name, value);
  };
  const methods = { writeHead, write, end, flushHeaders };
  for (const name of METHODS) {
    prototype[name] = function (...call) {
      const state = this[STATE];
      return state === undefined || state.passes ? methods[name].apply(this, call) : holding[name].apply(this, call);
    };
  }
  Object.defineProperty(prototype, 'headersSent', {
    configurable: true,
    get() { return this[STATE]?.phase === HELD || sent.call(this); },
  });
  Object.assign(prototype, {
    setHeader: unlessHeld(setHeader, 'set'),
    appendHeader: unlessHeld(appendHeader, 'append'),
    removeHeader: unlessHeld(removeHeader, 'remove'),
  });
  return { methods, holding };
}

const holding = {
  writeHead(...call) {
    const state = this[STATE];
    if (state.phase === SENT) return state.methods.writeHead.apply(this, call);
    if (state.phase === OPEN) {
      checkHead(call);
      state.head = call;
      this.statusCode = call[0];
      begin(this, state);
    } else if (state.phase === HELD && call[0] !== state.status) {
      throw headersSent('write');
    }
    return this;
  },
  flushHeaders() {
    const state = this[STATE];
    if (state.phase === SENT) state.methods.flushHeaders.call(this);
    else keep(this, state, 'flushHeaders', []);
  },
  write(...call) {
    const state = this[STATE];
    if (state.phase === SENT) return state.methods.write.apply(this, call);
    keep(this, state, 'write', call);
    if (!state.ended) state.waits = true;
    return false;
  },
  end(...call) {
    const state = this[STATE];
    if (state.phase === SENT) return state.methods.end.apply(this, call);
    keep(this, state, 'end', call);
    state.ended = true;
    state.waits = false;
    return this;
  },
};

function getterOf(prototype, name) {
  while (!Object.hasOwn(prototype, name)) prototype = Object.getPrototypeOf(prototype);
  return Object.getOwnPropertyDescriptor(prototype, name).get;
}

// What Node would refuse must be refused now: later it would be too late to roll back.
function checkHead([status, ...rest]) {
  if (!(status >= 100 && status <= 999)) throw new RangeError(`Invalid status code: ${status}`);
  const [message, headers] = typeof rest[0] === 'string' ? rest : [undefined, rest[0]];
  if (message !== undefined) validateHeaderValue('status message', message);
  const pairs = Array.isArray(headers) ? paired(headers) : Object.entries(headers ?? {});
  for (const [name, value] of pairs) {
    validateHeaderName(name);
    for (const each of Array.isArray(value) ? value : [value]) validateHeaderValue(name, each);
  }
}

function paired(headers) {
  if (Array.isArray(headers[0])) return headers;
  return Array.from({ length: headers.length / 2 }, (_, n) => [headers[2 * n], headers[2 * n + 1]]);
}

function checkChunk(name, [chunk]) {
  const nothing = name === 'end' && (chunk === undefined || chunk === null || typeof chunk === 'function');
  if (!nothing && typeof chunk !== 'string' && !(chunk instanceof Uint8Array)) {
    throw new TypeError(`The argument of ${name} must be a string, a Buffer or a Uint8Array`);
  }
}

// What is written to an answer that has ended, or was replaced, goes nowhere.
function keep(res, state, name, call) {
  if (state.phase === REPLACED || state.ended) {
    const callback = call.findLast(each => typeof each === 'function');
    if (callback) process.nextTick(callback, headersSent('write'));
    return;
  }
  if (name !== 'flushHeaders') checkChunk(name, call);
  if (state.phase === OPEN) checkHead([res.statusCode, res.statusMessage ?? '']);
  state.calls.push({ name, call });
  if (state.phase === OPEN) begin(res, state);
}

function headersSent(what) {
  return Object.assign(new Error(`Cannot ${what} headers after they are sent to the client`), { code: 'ERR_HTTP_HEADERS_SENT' });
}
