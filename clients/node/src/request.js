// One request: the decision of the database, its transaction, and how both end.

import { Caller, close, listen, nested, pending } from './caller.js';
import { UNAVAILABLE, answerOf, isPassing, isUnreadable, withoutParameters } from './errors.js';
import { NOT_JSON } from './body.js';
import { asJson, valuesOf } from './options.js';

const SERVE = { name: 'keysmith_serve', text: `
  SELECT handled, status, headers::text, body::text, request_id::text, tenant, key_id::text
  FROM keysmith.serve(headers => $1::jsonb, method => $2, path => $3, peer => $4::inet, keyspace => $5,
    variant => $6, spend => $7, weights => $8::jsonb, subject => $9, body => $10::jsonb)` };
// The same columns, for work that is no request over HTTP.
export const AUTHENTICATE = { name: 'keysmith_authenticate', text: `
  SELECT NOT (v ->> 'ok')::boolean AS handled, (v ->> 'status')::integer AS status,
    keysmith.response_headers(json_populate_record(NULL::keysmith.verdict, v))::text AS headers,
    json_build_object('code', v -> 'code', 'message', v -> 'message')::text AS body,
    v ->> 'request_id' AS request_id, v ->> 'tenant' AS tenant, v ->> 'key_id' AS key_id
  FROM keysmith.authenticate_json(headers => $1::jsonb, method => $2, path => $3, ip => $4::inet, keyspace => $5,
    variant => $6, spend => $7, weights => $8::jsonb, subject => $9) AS v` };
const BODY = 9;
const ACT_AS = { name: 'keysmith_act_as', text: 'SELECT keysmith.act_as($1, $2, $3)' };
const LOG_REQUEST = { name: 'keysmith_log_request', text: `
  SELECT keysmith.log_request(status_code => $1, latency => make_interval(secs => $2), tags => $3::jsonb,
    request_id => $4::uuid)` };
const SETTLE = { name: 'keysmith_settle', text: 'SELECT keysmith.settle($1::uuid, spend => $2, weights => $3::jsonb) AS settled' };

// The status in the log of a request whose client went away: no answer was sent.
const GONE = 499;

const DECIDING = 0, OPEN = 1, ENDING = 2, ENDED = 3;

/**
 * The transaction of a request. `decide` first; it returns an answer, or null if the application goes on with
 * `caller`. Then `finish` once with the answer's status, or `abandon`.
 */
export class Exchange {
  caller = null;
  // Those of serve, for the application's answer.
  headers = null;
  // What an adapter notes: an error of a handler, and whether it answered again.
  error = null;
  again = false;
  #config;
  #decision;
  #client = null;
  #state = DECIDING;
  #gone = false;
  #arrived = performance.now();
  #requestId = null;
  #tenant = null;
  #ending = null;

  constructor(config, decision = SERVE) {
    this.#config = config;
    this.#decision = decision;
  }

  // `request` is the framework's: the options that are functions get it.
  async decide(request, headers, method, path, peer, ...body) {
    const config = this.#config;
    const acting = config.person === null ? null : await whom(config, request);
    const parameters = [headers, method, path, peer, ...config.values ?? await valuesOf(config, request), ...body];
    if (this.#gone) return null;
    let client;
    try {
      client = await config.pool.connect();
    } catch (error) {
      this.#state = ENDED;
      return this.#unavailable(error);
    }
    listen(client);
    this.#client = client;
    try {
      if (!this.#gone) {
        await client.query('BEGIN');
        if (acting !== null) await this.#run(ACT_AS, acting);
        let found;
        try {
          found = await this.#run(this.#decision, parameters);
        } catch (error) {
          found = await this.#again(error, acting, parameters);
        }
        const [row] = found.rows;
        this.#requestId = row.request_id;
        this.#tenant = row.tenant;
        if (row.handled) {
          this.#committed(await client.query('COMMIT'));
          return { status: row.status, headers: parsed(row.headers), body: row.body };
        }
        if (!this.#gone) return this.#open(row);
      }
    } catch (error) {
      await this.#undo();
      return this.#failed(error, acting);
    }
    await this.#undo(GONE);
    return null;
  }

  // PostgreSQL could not read the body. An endpoint then says so, and the application gets it as it is.
  async #again(error, acting, parameters) {
    if (!isUnreadable(error) || (parameters[BODY] ?? NOT_JSON) === NOT_JSON) throw error;
    await this.#client.query('ROLLBACK');
    await this.#client.query('BEGIN');
    if (acting !== null) await this.#run(ACT_AS, acting);
    return this.#run(this.#decision, parameters.with(BODY, NOT_JSON));
  }

  #open(row) {
    this.#state = OPEN;
    this.headers = parsed(row.headers);
    this.caller = new Caller(this, row, this.#client);
    return null;
  }

  // Our own statements before the application: an error here is answered, or the framework's.
  #failed(error, acting) {
    if (isPassing(error)) return this.#unavailable(error);
    if (acting !== null && /^KS40[34]$/.test(error.code)) {
      return answerOf({ status: 403, code: 'forbidden', message: 'You may not act for this tenant.' });
    }
    throw withoutParameters(error);
  }

  #unavailable(error) {
    this.#config.report(withoutParameters(error));
    return answerOf(UNAVAILABLE);
  }

  get isOpen() {
    return this.#state === OPEN;
  }

  // Whether an answer waits for the end of the transaction.
  get isEnding() {
    return this.#state === ENDING;
  }

  // Ends the transaction before an answer with this status is sent. Returns the answer to send in its place, or null.
  finish(status) {
    if (this.#state !== OPEN) return this.#ending ?? Promise.resolve(null);
    this.#state = ENDING;
    return this.#ending = this.#finish(status);
  }

  async #finish(status) {
    const { client } = this.caller;
    client[close]();
    const running = client[pending]();
    if (running !== null) await running;
    if (status >= 400) {
      await this.#undo(status);
      return null;
    }
    try {
      if (client[nested] > 0) throw new Error('the application has left a nested transaction open');
      if (this.#logs) await this.#run(LOG_REQUEST, this.#record(status));
      this.#committed(await this.#client.query('COMMIT'));
      return null;
    } catch (error) {
      // Tags that were refused would be refused again.
      this.caller.tags = null;
      await this.#undo(UNAVAILABLE.status);
      return this.#unavailable(error);
    }
  }

  // The client has gone away, or got an answer by another way. Nothing that is not yet finished is kept.
  abandon(status = GONE) {
    this.#gone = true;
    if (this.#state !== OPEN) return;
    this.#state = ENDING;
    this.#ending = this.#finish(status >= 400 ? status : GONE);
  }

  #committed({ command }) {
    if (command === 'ROLLBACK') throw new Error('a statement had failed, so the transaction could not commit');
    this.#state = ENDED;
    this.#client.release();
  }

  // Rolls back, and records the status that a rolled back request is answered with.
  async #undo(status = null) {
    const client = this.#client;
    const record = status !== null && this.#logs ? this.#record(status) : null;
    try {
      await client.query('ROLLBACK');
      if (record !== null) await this.#run(LOG_REQUEST, record).catch(unlessServer);
      client.release();
    } catch (error) {
      client.release(error);
      // On another connection, and the answer does not wait for it.
      if (record !== null) this.#elsewhere(LOG_REQUEST, record).catch(() => {});
    } finally {
      this.#state = ENDED;
    }
  }

  // A request that acts for nobody has no record.
  get #logs() {
    return this.#config.log && this.#tenant !== null;
  }

  #record(status) {
    const { tags } = this.caller ?? {};
    const some = tags && Object.keys(tags).length > 0;
    return [status, (performance.now() - this.#arrived) / 1000, some ? texts(tags) : null, this.#requestId];
  }

  async settle({ spend = null, weights = null } = {}) {
    const parameters = [this.#requestId, spend, asJson(weights)];
    const client = this.#state === OPEN ? this.caller.client : null;
    if (client === null) await this.#ending;
    const { rows } = await (client === null ? this.#elsewhere(SETTLE, parameters) : this.#run(SETTLE, parameters, client));
    return rows[0].settled;
  }

  // Prepared, a statement costs the server little more than half.
  #run({ name, text }, values, client = this.#client) {
    return client.query(this.#config.prepare ? { name, text, values } : { text, values });
  }

  async #elsewhere(statement, parameters) {
    const client = await this.#config.pool.connect();
    listen(client);
    try {
      const result = await this.#run(statement, parameters, client);
      client.release();
      return result;
    } catch (error) {
      client.release(error);
      throw error;
    }
  }
}

// A statement that the server refused leaves a connection that can be used again.
function unlessServer(error) {
  if (error.severity === undefined) throw error;
}

async function whom({ person, keyspace }, request) {
  const found = await person(request);
  if (found === null || found === undefined) return null;
  if (typeof found.tenant !== 'string') throw new TypeError('person must return { tenant, member }, or null');
  return [found.tenant, found.member ?? null, keyspace];
}

// The database refuses what is no object of texts.
function texts(tags) {
  try {
    return JSON.stringify(tags);
  } catch {
    return '0';
  }
}

const NONE = Object.freeze({});
const parsed = headers => (headers === null || headers === '{}' ? NONE : JSON.parse(headers));
