// Photos of each tenant: Express, over a pool of node-postgres.

const express = require('express');
const { errors, keysmith } = require('keysmith/express');
const { Pool } = require('pg');

// The role and the server to connect to: libpq's variables, such as PGHOST.
const pool = new Pool({ max: 2, connectionTimeoutMillis: 5000 });

const app = express();
// keysmith: from here
app.enable('case sensitive routing');
app.use(keysmith({ pool }));
// keysmith: to here
app.use(express.json());

app.get('/photos', async (req, res, next) => {
  try {
    const { rows } = await req.keysmith.query('SELECT name FROM photo ORDER BY name');
    res.json({ photos: rows.map(row => row.name) });
  } catch (error) { next(error); }
});

app.post('/photos', async (req, res, next) => {
  try {
    await req.keysmith.query('INSERT INTO photo (name) VALUES ($1)', [req.body.name]);
    res.status(201).json({ name: req.body.name });
  } catch (error) { next(error); }
});

app.get('/internal', (req, res) => res.json({ internal: true }));

app.use(errors);
app.listen(Number(process.env.PORT), '127.0.0.1');
