// What the handlers do, the same in each framework.

import pg from 'pg';

export const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: Number(process.env.POOL ?? 2) });
pool.on('error', error => console.error('idle client:', error.message));

export const options = {
  pool,
  paths: process.env.PATHS?.split(','),
  log: process.env.LOG !== 'off',
  spend: Number(process.env.SPEND ?? 0),
};
if (options.paths === undefined) delete options.paths;
// A person who is known by a cookie.
if (process.env.PERSON) {
  options.person = request => {
    const cookie = typeof request.headers?.get === 'function' ? request.headers.get('cookie')
      : request.headers?.cookie ?? request.req?.header('cookie');
    const [, member] = /member=([^;]+)/.exec(cookie ?? '') ?? [];
    return member ? { tenant: 'acme', member } : null;
  };
}

export const photos = async caller => {
  const { rows } = await caller.query('SELECT name FROM photo ORDER BY name');
  return { photos: rows.map(row => row.name) };
};

export const add = (caller, name) => caller.query('INSERT INTO photo (name) VALUES ($1)', [name]);

// Each returns what is answered as JSON.
export const actions = {
  facts: async caller => ({ tenant: caller.tenant, keyId: caller.keyId, requestId: caller.requestId }),
  raise: (caller, state) => caller.query('SELECT raise($1)', [state]),
  bug: () => { throw new Error('a bug'); },
  async swallow(caller) {
    await add(caller, 'lost');
    await caller.query('SELECT 1/0').catch(() => {});
    return { swallowed: true };
  },
  async ends(caller) {
    const refused = [];
    const texts = [
      'COMMIT', ' commit;', 'ROLLBACK', 'abort', 'end', '/* a */ COMMIT', '-- a\nCOMMIT', ';;COMMIT', '/* /* */ x */ COMMIT',
      'PREPARE TRANSACTION \'a\'', 'SELECT 1; COMMIT', 'begin isolation level serializable', 'COMMIT AND CHAIN', 'Rollback Work'];
    await add(caller, 'first');
    for (const text of texts) {
      await caller.query('SAVEPOINT mine');
      await caller.query(text).then(() => refused.push(`${text} was accepted`), () => {});
      await caller.query('ROLLBACK TO SAVEPOINT mine');
    }
    return { refused, tenant: (await caller.query('SELECT keysmith.current_tenant() AS t')).rows[0].t };
  },
  async nests(caller) {
    await caller.query('BEGIN');
    await add(caller, 'kept');
    await caller.query('COMMIT');
    await caller.query('begin transaction');
    await add(caller, 'undone');
    await caller.query('BEGIN');
    await caller.query('SELECT 1/0').catch(() => {});
    await caller.query('ROLLBACK');
    await add(caller, 'undone too');
    await caller.query('rollback');
    return photos(caller);
  },
  async open(caller) {
    await caller.query('BEGIN');
    await add(caller, 'half');
    return { half: true };
  },
  async tags(caller, model) {
    caller.tags.model = model;
    return {};
  },
  async settle(caller) {
    return { settled: await caller.settle({ spend: 1 }) };
  },
  // Waits in the database until the test lets go.
  async wait(caller) {
    await add(caller, 'waited');
    await caller.query('SELECT pg_advisory_xact_lock_shared(7)');
    return { waited: true };
  },
  // Waits outside of the database.
  async idle(caller) {
    await add(caller, 'idled');
    console.log('idling');
    await new Promise(resolve => setTimeout(resolve, 100_000));
    return {};
  },
  async dies(caller) {
    await caller.query('SELECT pg_terminate_backend(pg_backend_pid())');
    return {};
  },
  async diesBehind(caller) {
    const { rows: [{ pid }] } = await caller.query('SELECT pg_backend_pid() AS pid');
    await pool.query('SELECT pg_terminate_backend($1)', [pid]);
    return {};
  },
  callback: caller => new Promise((resolve, reject) => {
    caller.client.query('SELECT $1::int AS n', [7], (error, found) => (error ? reject(error) : resolve(found.rows[0])));
  }),
};

// A caller that a handler has kept, for a look after the request.
export const kept = {};
export async function late(what) {
  const caller = kept.caller;
  if (what === 'settle') return { settled: await caller.settle({ spend: 2 }) };
  return caller.query('SELECT name FROM photo').then(() => ({ reached: true }), error => ({ refused: error.message }));
}

export function started(server) {
  console.log(`listening on ${server.address().port}`);
}
process.on('unhandledRejection', error => { console.error('unhandled', error); process.exit(70); });
