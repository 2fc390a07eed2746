import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { test } from 'node:test';
import { MOST_BYTES, NOT_JSON, asText, peek, reparsed, unread } from '../src/body.js';

test('what is said of a body before it is read', () => {
  for (const [method, type, length, chunked, expected] of [
    ['GET', 'application/json', '5', false, null], ['OPTIONS', undefined, '5', false, null], ['POST', undefined, undefined, false, null],
    ['POST', 'application/json', '0', false, null], ['POST', 'application/json', String(MOST_BYTES), false, undefined],
    ['POST', 'application/json', String(MOST_BYTES + 1), false, null], ['POST', undefined, '5', false, undefined],
    ['POST', 'application/json; charset=utf-8', '5', false, undefined], ['PATCH', 'Application/Problem+JSON', '5', false, undefined],
    ['POST', 'application/x-www-form-urlencoded', undefined, true, undefined], ['DELETE', '', '5', false, undefined],
    ['POST', 'text/plain', '5', false, NOT_JSON], ['POST', 'multipart/form-data; boundary=x', undefined, true, NOT_JSON],
    ['POST', 'application/jsonp', '5', false, NOT_JSON], ['POST', 'text/x; application/json', '5', false, NOT_JSON],
  ]) {
    assert.equal(unread(method, type, length, chunked), expected, `${method} ${type} ${length}`);
  }
});

test('bytes become the text of a JSON value', () => {
  for (const [bytes, expected] of [
    ['{"a": 1}', '{"a": 1}'], [' \n{', ' \n{'], ['null', 'null'], ['', null], ['[1]', NOT_JSON], ['"x"', NOT_JSON], ['a=b', NOT_JSON],
    ['{"a":"\0"}', NOT_JSON], ['\ufeff{}', NOT_JSON],
  ]) {
    assert.equal(asText(Buffer.from(bytes)), expected, bytes);
  }
  assert.equal(asText(Buffer.from([0x7b, 0xff, 0x7d])), NOT_JSON);
  assert.equal(asText(null), NOT_JSON);
});

test('the value of an earlier parser', () => {
  assert.equal(reparsed({ a: 1 }, 'application/json'), '{"a":1}');
  assert.equal(reparsed(Buffer.from('{"a": 1}'), 'application/json'), '{"a": 1}');
  assert.equal(reparsed('{"a": 1}', undefined), '{"a": 1}');
  assert.equal(reparsed({ a: '1' }, 'application/x-www-form-urlencoded'), NOT_JSON);
  assert.equal(reparsed(undefined, 'application/json'), NOT_JSON);
  assert.equal(reparsed(null, 'application/json'), 'null');
});

const streaming = (chunks, wait) => {
  const stream = new Readable({ read() {} });
  stream.complete = false;
  (async () => {
    for (const chunk of chunks) {
      stream.push(chunk);
      if (wait) await new Promise(setImmediate);
    }
    stream.complete = true;
    stream.push(null);
  })();
  return stream;
};

test('a body that was read is there again', async () => {
  for (const wait of [false, true]) {
    for (const chunks of [['{"a":', '1}'], ['x'.repeat(MOST_BYTES)], ['x'.repeat(MOST_BYTES), 'y', 'z'.repeat(500_000)], []]) {
      const stream = streaming(chunks.map(each => Buffer.from(each)), wait);
      const whole = chunks.join('');
      const bytes = await peek(stream);
      assert.equal(bytes === null ? null : String(bytes), whole.length > MOST_BYTES ? null : whole);
      await new Promise(setImmediate);
      let again = '';
      for await (const chunk of stream) again += chunk;
      assert.equal(again, whole);
    }
  }
});

test('a client that goes away while its body is read', async () => {
  const stream = new Readable({ read() {} });
  stream.push('{');
  const found = peek(stream);
  stream.destroy();
  await assert.rejects(found, /gone away/);
  await assert.rejects(peek(stream), /gone away/);
});
