// Work that signs a key in without a request over HTTP, and the errors of keysmith.

import { Refused, errorOf } from './errors.js';
import { configure } from './options.js';
import { AUTHENTICATE, Exchange } from './request.js';

export { Refused, errorOf };

/**
 * Runs `work(caller)` in a transaction that acts for the key in `headers`. Throws `Refused`, and rolls back if
 * `work` throws.
 */
export async function transaction(pool, { headers, method = null, path = null, ip = null, ...options }, work) {
  const exchange = new Exchange(configure({ pool, ...options }), AUTHENTICATE);
  const refusal = await exchange.decide(null, JSON.stringify(headers), method, path, ip);
  if (refusal !== null) throw refused(refusal);
  let result;
  try {
    result = await work(exchange.caller);
  } catch (error) {
    await exchange.finish(500);
    throw error;
  }
  const failure = await exchange.finish(200);
  if (failure !== null) throw refused(failure);
  return result;
}

function refused({ status, headers, body }) {
  const { code, message } = JSON.parse(body);
  return new Refused(status, code, message, headers);
}
