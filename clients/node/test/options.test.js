import assert from 'node:assert/strict';
import { test } from 'node:test';
import { address, configure, headersOf, target, valuesOf } from '../src/options.js';
import { errorOf, isPassing, withoutParameters } from '../src/errors.js';

const pool = { connect() {} };

test('options that can not be used are refused, by name', () => {
  for (const [options, name] of [
    [{}, 'pool'], [undefined, 'pool'], [{ pool: 'postgres://' }, 'pool'], [{ pool, path: '/v1' }, 'path'], [{ pool, paths: '/v1' }, 'paths'],
    [{ pool, paths: ['v1'] }, 'paths'], [{ pool, person: 'ben' }, 'person'], [{ pool, report: true }, 'report'],
  ]) {
    assert.throws(() => configure(options), error => error instanceof TypeError && error.message.includes(name), name);
  }
});

test('paths are compared by segments', () => {
  const { covers } = configure({ pool, paths: ['/v1/', '/a/b'] });
  for (const path of ['/v1', '/v1/', '/v1/x', '/V1/x', '/a/b', '/a/b/c']) assert.ok(covers(path), path);
  for (const path of ['/', '/v', '/v10', '/v1x', '/a', '/a/bc', '/x/v1']) assert.ok(!covers(path), path);
  for (const path of ['/', '', 'v1', '*', '//']) assert.ok(configure({ pool }).covers(path), path);
});

test('headers become JSON, repeated ones arrays', () => {
  const same = (headers, rawHeaders, headersDistinct) => JSON.parse(headersOf({ headers, rawHeaders, headersDistinct }));
  const odd = { a: 'x"y', b: 'back\\slash', c: 'tab\t', d: 'ü\xff', 'set-cookie': ['a', 'b"'] };
  assert.deepEqual(same(odd, Array(10).fill('')), odd);
  assert.deepEqual(same({}, []), {});
  assert.deepEqual(same({ authorization: 'a' }, ['Authorization', 'a', 'authorization', 'b'], { authorization: ['a', 'b'] }), { authorization: ['a', 'b'] });
  assert.deepEqual(same({}, ['__proto__', 'x'], { ['__proto__']: ['x'] }), JSON.parse('{"__proto__": ["x"]}'));
});

test('targets are those by which frameworks route', () => {
  for (const [url, expected] of [
    ['/a?b#c', '/a?b'], ['/a#c', '/a'], ['http://h/a?b', '/a?b'], ['HTTP://h:1/a', '/a'], ['*', '*'], ['//h/a', '//h/a'], ['/a%23b', '/a%23b'],
  ]) {
    assert.equal(target(url), expected, url);
  }
});

test('addresses that PostgreSQL can read', () => {
  const of = peer => address(configure({ pool, peer }), {});
  for (const [peer, expected] of [
    ['127.0.0.1', '127.0.0.1'], ['::ffff:1.2.3.4', '::ffff:1.2.3.4'], ['fe80::1%eth0', 'fe80::1'], ['/run/socket', null], [undefined, null], ['1.2.3', null],
  ]) {
    assert.equal(of(peer), expected);
    assert.equal(of(() => peer), expected);
  }
});

test('options that are functions of the request', async () => {
  const config = configure({ pool, spend: request => request.cost, subject: async () => 'ben', weights: { calls: 2 } });
  assert.deepEqual(await valuesOf(config, { cost: 5 }), ['default', null, 5, '{"calls":2}', 'ben']);
  assert.deepEqual(configure({ pool, keyspace: 'shop' }).values, ['shop', null, 0, null, null]);
});

test('errors of the database, wrapped or not', () => {
  const raised = (code, message = 'a message') => Object.assign(new Error(message), { code });
  assert.deepEqual(errorOf(raised('KS403')), { status: 403, code: 'forbidden', message: 'a message' });
  assert.equal(errorOf(raised('KS401')).message, 'The API key is not valid.');
  assert.equal(errorOf(new Error('wrapped', { cause: raised('KS404') })).status, 404);
  assert.equal(errorOf(raised('57P01')).status, 503);
  for (const other of [null, undefined, 'KS403', raised('22012'), raised('constructor'), new Error('x')]) assert.equal(errorOf(other), null);
  const loop = new Error('loop');
  loop.cause = loop;
  assert.equal(errorOf(loop), null);
});

test('an error of ours shows no parameters, and is no answer', () => {
  const plain = withoutParameters(Object.assign(new Error('m'), { code: 'KS400', where: '$1 = key', detail: 'key', parameters: ['key'] }));
  assert.deepEqual({ ...plain }, { name: 'DecisionFailed', sqlstate: 'KS400' });
  assert.equal(errorOf(plain), null);
  assert.ok(isPassing(new Error('Connection terminated')) && isPassing({ code: 'ECONNREFUSED' }) && isPassing({ code: '53300' }));
  assert.ok(!isPassing({ code: '42501' }) && !isPassing({ code: 'KS400' }));
});
