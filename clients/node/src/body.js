// The body of a request, as the text of a JSON value.

export const MOST_BYTES = 128 * 1024;
// What stands for a body that is no JSON: a text, which no endpoint takes.
export const NOT_JSON = '"not JSON"';

const BODILESS = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE']);
// JSON, a form (curl -d sends JSON so), or unsaid.
const READ = /^\s*(?:application\/(?:json|x-www-form-urlencoded|[^;\s]+\+json)\s*(?:;|$)|$)/i;

/**
 * What can be said of a body before it is read: a text or null to pass on, or undefined if it must be read.
 * An endpoint refuses one that is longer by its header.
 */
export function unread(method, type, length, isChunked) {
  if (BODILESS.has(method) || (!isChunked && (length === undefined || length === null || length === '0'))) return null;
  if (!isChunked && Number(length) > MOST_BYTES) return null;
  return READ.test(type ?? '') ? undefined : NOT_JSON;
}

const UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

// Bytes as the text of a JSON value, which PostgreSQL reads. Only an object or null can be one for an endpoint.
export function asText(bytes) {
  if (bytes === null) return NOT_JSON;
  if (bytes.length === 0) return null;
  try {
    const text = UTF8.decode(bytes);
    return /^[ \t\r\n]*[{n]/.test(text) && !text.includes('\0') ? text : NOT_JSON;
  } catch {
    return NOT_JSON;
  }
}

// The value of an earlier parser as such a text.
export function reparsed(value, type) {
  if (typeof value === 'string') value = Buffer.from(value);
  if (value instanceof Uint8Array) return asText(value.length > MOST_BYTES ? null : value);
  return value === undefined || /x-www-form-urlencoded/i.test(type ?? '') ? NOT_JSON : JSON.stringify(value) ?? NOT_JSON;
}

// Whether nobody has read a stream of Node, nor begun to.
export const isUnread = stream => !stream.readableDidRead && !stream.readableEnded && stream.readableFlowing === null;

/**
 * Reads a request of Node up to the limit, and puts everything back, so that the application can read it again.
 * Returns the bytes, or null if there are more. If the stream has ended (`readableEnded`), it could not be put back.
 */
export function peek(stream) {
  return new Promise((resolve, reject) => {
    const chunks = [];
    let length = 0;
    const end = settle => value => {
      stream.off('readable', onReadable).off('end', onEnd).off('error', onError).off('close', onClose);
      settle(value);
    };
    const done = end(resolve);
    const all = () => (chunks.length === 1 ? chunks[0] : Buffer.concat(chunks, length));
    const onReadable = () => {
      // `complete` says that the whole body has arrived. To read on would emit 'end', which the application waits for.
      while (length <= MOST_BYTES && stream.readableLength > 0) {
        const chunk = stream.read();
        chunks.push(chunk);
        length += chunk.length;
      }
      if (!stream.complete && length <= MOST_BYTES) return;
      const bytes = all();
      if (length > 0) stream.unshift(bytes);
      done(length > MOST_BYTES ? null : bytes);
    };
    const onEnd = () => done(all());
    const onError = end(reject);
    const onClose = end(() => reject(new Error('the client has gone away')));
    // When what came with the headers has been parsed: listening to an empty stream that is complete would end it.
    process.nextTick(() => {
      if (stream.destroyed) onClose();
      else if (stream.complete && stream.readableLength === 0) done(all());
      else stream.on('readable', onReadable).on('end', onEnd).on('error', onError).on('close', onClose);
    });
  });
}
