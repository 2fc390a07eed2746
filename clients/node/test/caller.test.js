import assert from 'node:assert/strict';
import { test } from 'node:test';
import { inspect } from 'node:util';
import { EventEmitter } from 'node:events';
import { Caller, RequestClient, close, listen } from '../src/caller.js';
import { errorOf } from '../src/errors.js';

const recording = () => {
  const texts = [];
  return { texts, query: async query => { texts.push(query.text ?? query); return { command: 'X', rows: [] }; } };
};

test('statements that begin or end a transaction become savepoints', async () => {
  const inner = recording();
  const client = new RequestClient(inner);
  for (const text of ['begin', 'BEGIN TRANSACTION;', 'start transaction', 'select 1', 'rollback', 'COMMIT', 'END']) await client.query(text);
  assert.deepEqual(inner.texts, [
    'SAVEPOINT keysmith_nested_1', 'SAVEPOINT keysmith_nested_2', 'SAVEPOINT keysmith_nested_3', 'select 1',
    'ROLLBACK TO SAVEPOINT keysmith_nested_3', 'RELEASE SAVEPOINT keysmith_nested_3',
    'RELEASE SAVEPOINT keysmith_nested_2', 'RELEASE SAVEPOINT keysmith_nested_1']);
});

test('the end of the transaction of the request is refused, however it is written', async () => {
  const inner = recording();
  const client = new RequestClient(inner);
  for (const text of [
    'COMMIT', 'commit work', '\n\t COMMIT', ';COMMIT', '/* a */COMMIT', '--\nCOMMIT', '-- \rCOMMIT /*\nSELECT */', '/* /* */ select */ COMMIT',
    'ROLLBACK', 'ROLLBACK AND CHAIN', 'ABORT', 'END', 'PREPARE TRANSACTION $$a$$', 'begin read only', 'START TRANSACTION ISOLATION LEVEL SERIALIZABLE',
    '"commit"', '*/ COMMIT']) {
    await assert.rejects(client.query(text), Error, text);
  }
  assert.deepEqual(inner.texts, []);
});

test('other statements pass', async () => {
  const inner = recording();
  const client = new RequestClient(inner);
  const texts = ['SELECT 1', '(SELECT 1)', '-- a\nselect 1', '/* commit */ select 1', 'ROLLBACK TO SAVEPOINT a', 'rollback work to a',
    'SAVEPOINT a', 'RELEASE a', 'PREPARE a AS SELECT 1', 'EXPLAIN SELECT 1', 'WITH a AS (SELECT 1) SELECT 1', 'commitment()'];
  for (const text of texts) await client.query(text);
  assert.deepEqual(inner.texts, texts);
});

test('a text without values is sent as one statement', async () => {
  const sent = [];
  const client = new RequestClient({ query: async query => { sent.push(query); return {}; } });
  await client.query('SELECT 1; COMMIT');
  await client.query({ text: 'SELECT 1; COMMIT', queryMode: 'simple' });
  await client.query({ text: 'SELECT 1', rowMode: 'array' }, []);
  assert.deepEqual(sent.map(({ queryMode }) => queryMode), ['extended', 'extended', 'extended']);
});

test('what can outlive the request is refused', async () => {
  const client = new RequestClient(recording());
  for (const query of [{ text: 'SELECT 1', submit() {} }, null, 7, {}, undefined]) await assert.rejects(client.query(query), TypeError);
  client[close]();
  await assert.rejects(client.query('SELECT 1'), /has ended/);
});

test('no connection is shown', () => {
  const caller = new Caller({}, { tenant: 'acme', key_id: 'k', request_id: 'r' }, { secret: 'ks_live_x', query() {} });
  assert.ok(!inspect(caller, { depth: 9, showHidden: true }).includes('ks_live_x'));
  assert.ok(!JSON.stringify(caller).includes('ks_live_x'));
});

test('a connection that is lost during a statement', async () => {
  const inner = Object.assign(new EventEmitter(), { query: async () => { throw new Error('Connection terminated unexpectedly'); } });
  listen(inner);
  listen(inner);
  assert.equal(inner.listenerCount('error'), 1);
  const client = new RequestClient(inner);
  await assert.rejects(client.query('SELECT 1'), error => errorOf(error) === null);
  inner.emit('error', new Error('reset'));
  await assert.rejects(client.query('SELECT 1'), error => errorOf(error).status === 503 && error.status === 503);
});
