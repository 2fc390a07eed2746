// The options that all adapters take.

import { isIP } from 'node:net';
import { withoutParameters } from './errors.js';

const KNOWN = new Set(['pool', 'keyspace', 'paths', 'variant', 'spend', 'weights', 'subject', 'person', 'peer', 'log', 'prepare', 'report']);

export function configure(options, peer = () => null) {
  for (const name of Object.keys(options ?? {})) {
    if (!KNOWN.has(name)) throw new TypeError(`there is no option ${name}, only ${[...KNOWN].join(', ')}`);
  }
  const config = {
    keyspace: 'default', paths: ['/'], variant: null, spend: 0, weights: null, subject: null, person: null,
    peer, log: true, prepare: true, report: error => console.error(error.message), ...options,
  };
  const { pool, paths } = config;
  if (typeof pool?.connect !== 'function') throw new TypeError('pool must be a Pool of pg, or another object with connect()');
  if (!Array.isArray(paths) || !paths.every(path => typeof path === 'string' && path.startsWith('/'))) {
    throw new TypeError("paths must be an array of prefixes, such as ['/v1', '/internal']");
  }
  if (config.person !== null && typeof config.person !== 'function') {
    throw new TypeError('person must be a function that returns { tenant, member } or null');
  }
  if (typeof config.report !== 'function') throw new TypeError('report must be a function that takes an error');
  // Without a listener, the loss of an idle connection would end the process.
  if (pool.listenerCount?.('error') === 0) pool.on('error', error => config.report(withoutParameters(error)));
  const prefixes = paths.map(path => path.replace(/\/+$/, '').toLowerCase());
  config.all = prefixes.includes('');
  config.covers = path => {
    if (config.all) return true;
    const lower = path.toLowerCase();
    return prefixes.some(prefix => lower.startsWith(prefix) && (lower.length === prefix.length || lower[prefix.length] === '/'));
  };
  const changing = [config.variant, config.spend, config.weights, config.subject].some(each => typeof each === 'function');
  config.values = changing ? null : fixed(config, config.variant, config.spend, config.weights, config.subject);
  return config;
}

const fixed = ({ keyspace }, variant, spend, weights, subject) => [keyspace, variant, spend, asJson(weights), subject];

// The parameters of a decision that the options say, of which some are functions of the framework's request.
export async function valuesOf(config, request) {
  const values = [];
  for (const name of ['variant', 'spend', 'weights', 'subject']) {
    const value = config[name];
    values.push(typeof value === 'function' ? await value(request) : value);
  }
  return fixed(config, ...values);
}

export const asJson = value => (typeof value === 'string' ? value : value === null || value === undefined ? null : JSON.stringify(value));

// The headers of a request of Node as a JSON object; repeated ones as arrays. `headers` is at hand, but keeps only one
// of some that are repeated.
export function headersOf(req) {
  const { headers, rawHeaders } = req;
  let names = 0;
  for (const _ in headers) names++;
  return JSON.stringify(names * 2 === rawHeaders.length ? headers : req.headersDistinct ?? headers);
}

// An address that PostgreSQL can read, or null: without a zone, and no path of a socket.
export function address(config, request) {
  const peer = typeof config.peer === 'function' ? config.peer(request) : config.peer;
  if (typeof peer !== 'string') return null;
  const zone = peer.indexOf('%');
  const bare = zone < 0 ? peer : peer.slice(0, zone);
  return isIP(bare) === 0 ? null : bare;
}

// The target of a request as frameworks route it: without scheme, host and fragment.
export function target(url) {
  const path = url.startsWith('/') || url === '*' ? url : url.replace(/^[a-z][a-z\d+.-]*:\/\/[^/?#]*/i, '');
  const fragment = path.indexOf('#');
  return fragment < 0 ? path : path.slice(0, fragment);
}
