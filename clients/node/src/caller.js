// Who asks, and the client on which the application's statements run in the request's transaction.

import { errorOf, lost } from './errors.js';

// Blank, and comments without comments inside; then the first word.
const FIRST_WORD = /^(?:[\s;(]|--[^\n\r]*(?:[\n\r]|$)|\/\*(?:(?!\/\*|\*\/)[^])*\*\/)*([a-z]+)\s*([a-z]*)/i;
const PLAIN = /^\s*(?:select|insert|update|delete|with)\s/i;
const SAVEPOINT = 'keysmith_nested_';

// While a client is taken from its pool nobody listens: the loss of its connection would end the process.
const heard = new WeakSet();
const broken = new WeakSet();
export function listen(client) {
  if (heard.has(client)) return;
  heard.add(client);
  client.on?.('error', () => broken.add(client));
}

// Without values, the driver would send a text that has several statements, such as a COMMIT behind another.
function extended(config, values) {
  if (values?.length > 0 || config.values?.length > 0) return config;
  return typeof config === 'string' ? { text: config, queryMode: 'extended' } : { ...config, queryMode: 'extended' };
}

const ENDED = 'the request has ended, and its transaction with it: take a client from the pool';

// What the caller and its client need of the request's exchange. Private to the package.
export const close = Symbol('close');
export const pending = Symbol('pending');
export const nested = Symbol('nested');

/**
 * The request's client: `query` as of node-postgres. BEGIN, COMMIT and ROLLBACK become savepoints, so that an ORM
 * can nest transactions, and never end the request's.
 */
export class RequestClient {
  #client;
  #running = 0;
  #idle = null;
  [nested] = 0;

  constructor(client) {
    this.#client = client;
  }

  query(config, values, callback) {
    if (typeof values === 'function') [values, callback] = [undefined, values];
    const result = this.#run(config, values);
    if (typeof callback !== 'function') return result;
    result.then(found => callback(null, found), callback);
  }

  async #run(config, values) {
    const client = this.#client;
    if (client === null) throw new Error(ENDED);
    const text = typeof config === 'string' ? config : config?.text;
    if (typeof text !== 'string' || typeof config.submit === 'function') {
      throw new TypeError('query takes a text, or an object with a text; a cursor would outlive the request');
    }
    const texts = PLAIN.test(text) ? null : this.#inTransaction(text);
    this.#running++;
    try {
      if (texts === null) return await client.query(extended(config, values), values);
      let result;
      for (const each of texts) result = await client.query(each);
      return result;
    } catch (error) {
      if (error !== null && typeof error === 'object') {
        if (broken.has(client)) lost(error);
        error.status ??= errorOf(error)?.status;
      }
      throw error;
    } finally {
      if (--this.#running === 0 && this.#idle !== null) this.#idle();
    }
  }

  // The statements in place of one that would begin or end a transaction, or null for any other.
  #inTransaction(text) {
    const [, word = '', next = ''] = FIRST_WORD.exec(text) ?? [];
    switch (word.toLowerCase()) {
      case 'begin':
      case 'start':
        if (!/^\s*(begin|start)(\s+(transaction|work))?[\s;]*$/i.test(text)) {
          throw new Error('the transaction of the request has begun: a nested one can have no settings of its own');
        }
        return [`SAVEPOINT ${SAVEPOINT}${++this[nested]}`];
      case 'commit':
      case 'end':
        return [`RELEASE SAVEPOINT ${this.#leave(word)}`];
      case 'rollback':
        if (/^to$/i.test(next) || /^\s*rollback\s+(work|transaction)\s+to\s/i.test(text)) return null;
      // fallthrough
      case 'abort': {
        const savepoint = this.#leave(word);
        return [`ROLLBACK TO SAVEPOINT ${savepoint}`, `RELEASE SAVEPOINT ${savepoint}`];
      }
      case 'prepare':
        if (/^transaction$/i.test(next)) this.#leave('PREPARE TRANSACTION', 0);
        return null;
      case '':
        if (text.trim() !== '') throw new Error('the statement must begin with a word');
      // fallthrough
      default:
        return null;
    }
  }

  #leave(word, depth = this[nested]) {
    if (depth === 0) {
      throw new Error(`${word.toUpperCase()} is not the application's: the transaction ends with the answer`);
    }
    return SAVEPOINT + this[nested]--;
  }

  // Takes no more statements.
  [close]() {
    this.#client = null;
  }

  // Resolves when no statement is running.
  [pending]() {
    return this.#running === 0 ? null : new Promise(resolve => { this.#idle = resolve; });
  }
}

export class Caller {
  #exchange;
  tags = {};

  constructor(exchange, { tenant, key_id: keyId, request_id: requestId }, client) {
    this.#exchange = exchange;
    this.tenant = tenant;
    this.keyId = keyId;
    this.requestId = requestId;
    this.client = new RequestClient(client);
  }

  query(text, values) {
    return this.client.query(text, values);
  }

  settle(cost) {
    return this.#exchange.settle(cost);
  }
}
