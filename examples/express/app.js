// Photos of each tenant: Express, over a pool of node-postgres.

const express = require('express');
const { Pool } = require('pg');

// The role and the server to connect to: libpq's variables, such as PGHOST.
const pool = new Pool({ max: 2 });

// keysmith: from here
const AUTHENTICATE = `
  SELECT ok, status, code, message, ceil(extract(epoch FROM retry_after))::int AS retry_after
  FROM keysmith.authenticate($1::jsonb, $2, $3, ip => keysmith.client_ip($1::jsonb, $4, $5))`;
const PROXIES = process.env.TRUSTED_PROXIES || '{}';

// Runs a handler in a transaction in which the request's key is signed in: with the client that
// it gets, the handler sees only its tenant's rows. Its response is sent after the commit.
const asTenant = handler => async (req, res, next) => {
  const client = await pool.connect().catch(next);
  if (!client) return;
  try {
    await client.query('BEGIN');
    const { rows: [verdict] } = await client.query(AUTHENTICATE, [
      JSON.stringify(req.headersDistinct), req.method, req.originalUrl,
      req.socket.remoteAddress, PROXIES]);
    const response = verdict.ok
      ? await handler(client, req)
      : { status: verdict.status, body: { code: verdict.code, message: verdict.message } };
    await client.query('COMMIT');
    if (verdict.status === 401) res.set('WWW-Authenticate', 'Bearer');
    if (verdict.retry_after) res.set('Retry-After', String(verdict.retry_after));
    res.status(response.status || 200).json(response.body);
  } catch (error) {
    await client.query('ROLLBACK').catch(() => {});
    next(error);
  } finally {
    client.release();
  }
};
// keysmith: to here

const app = express();
app.use(express.json());

app.get('/photos', asTenant(async client => {
  const { rows } = await client.query('SELECT name FROM photo ORDER BY name');
  return { body: { photos: rows.map(row => row.name) } };
}));

app.post('/photos', asTenant(async (client, req) => {
  await client.query('INSERT INTO photo (name) VALUES ($1)', [req.body.name]);
  return { status: 201, body: { name: req.body.name } };
}));

app.get('/internal', asTenant(async () => ({ body: { internal: true } })));

app.listen(Number(process.env.PORT), '127.0.0.1');
