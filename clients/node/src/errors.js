// Errors of keysmith, as PostgreSQL raises them and as a client gets them.

// A request or a job that may not go on, with the answer that fits.
export class Refused extends Error {
  constructor(status, code, message, headers = {}) {
    super(message);
    this.name = 'Refused';
    Object.assign(this, { status, code, headers });
  }
}

const BY_SQLSTATE = {
  KS400: [400, 'invalid_request'],
  KS401: [401, 'invalid_api_key', 'The API key is not valid.'],
  KS403: [403, 'forbidden'],
  KS404: [404, 'not_found'],
  KS409: [409, 'conflict'],
  KS503: [503, 'unavailable', 'The service is unavailable.'],
  KS504: [503, 'unavailable', 'The service is unavailable.'],
};

// The answer to an error of the database that keysmith has raised, or null. An ORM may have wrapped it.
export function errorOf(error) {
  for (let depth = 0; error && depth < 8; depth++, error = error.cause) {
    const known = Object.hasOwn(BY_SQLSTATE, error.code) ? BY_SQLSTATE[error.code] : null;
    if (known) return { status: known[0], code: known[1], message: known[2] ?? error.message };
    if (isLost(error)) return UNAVAILABLE;
  }
  return null;
}

export const UNAVAILABLE = Object.freeze(
  { status: 503, code: 'unavailable', message: 'The service is unavailable.' });

// A connection that was lost during a statement: the request's client marks errors that have no SQLSTATE.
const LOST = Symbol('lost');
export const lost = error => Object.defineProperty(error, LOST, { value: true });
const isLost = error => error[LOST] === true || /^(08...|57P0.)$/.test(error.code);

// Connections, resources, locks, conflicts, and an administrator who ends sessions.
const PASSING = new Set(['08', '40', '53', '55', '57']);

const sqlstate = error => (/^[0-9A-Z]{5}$/.test(error?.code) ? error.code : null);

// Whether the same statement may work later. An error without an SQLSTATE is not of the server.
export function isPassing(error) {
  const code = sqlstate(error);
  return code === null || PASSING.has(code.slice(0, 2)) || code === 'KS503' || code === 'KS504';
}

// Whether PostgreSQL can't read a value: 54 is JSON that is nested too deeply.
export const isUnreadable = error => /^(22|54)/.test(sqlstate(error) ?? '');

// What is raised in place of the driver's error about a statement of ours, whose context can show
// the parameters, and so the key. Its SQLSTATE has another name: it is no error of the application's.
export function withoutParameters(error) {
  const plain = new Error(`keysmith: ${error.message}`);
  plain.name = 'DecisionFailed';
  if (sqlstate(error) !== null) plain.sqlstate = error.code;
  return plain;
}

// An answer of ours, as headers and a JSON text.
export function answerOf({ status, code, message }, headers) {
  return {
    status,
    headers: { 'Content-Type': 'application/json', 'Cache-Control': 'no-store', ...headers },
    body: JSON.stringify({ code, message }),
  };
}

// The headers that an answer keeps when another takes its place: a browser would not show that one without them.
export const STAYS = /^(access-control-|cross-origin-|vary$)/i;
