// Each entry of the package, as a program in TypeScript uses it.

import express from 'express';
import Fastify from 'fastify';
import { Hono } from 'hono';
import pg from 'pg';
import { drizzle } from 'drizzle-orm/node-postgres';
import { pgTable, text, uuid } from 'drizzle-orm/pg-core';
import { Refused, errorOf, transaction, type Caller } from 'keysmith';
import * as ofExpress from 'keysmith/express';
import * as ofFastify from 'keysmith/fastify';
import * as ofHono from 'keysmith/hono';
import { handle } from 'keysmith/web';
import { currentTenantId, isolated } from 'keysmith/drizzle';

const pool = new pg.Pool();
pool.on('error', () => {});

const photo = pgTable('photo', {
  tenantId: uuid('tenant_id').notNull().default(currentTenantId()),
  name: text().notNull(),
}, table => isolated(table.tenantId));

async function photos(caller: Caller): Promise<string[]> {
  caller.tags.model = 'small';
  const settled: boolean = await caller.settle({ spend: 3, weights: { tokens: 5 } });
  const { rows } = await caller.query<{ name: string }>('SELECT name FROM photo WHERE $1', [settled]);
  const found = await drizzle(caller.client).select().from(photo);
  return [...rows.map(row => row.name), ...found.map(row => row.name)];
}

const app = express();
app.use(ofExpress.keysmith({
  pool, paths: ['/v1'], spend: req => Number(req.header('x-cost') ?? 1), weights: { calls: 2 }, subject: async () => 'user',
  person: req => (req.headers.cookie ? { tenant: 'acme', member: 'ben' } : null), log: true, report: error => console.log(error.message),
}));
app.get('/v1/photos', async (req, res) => { res.json(await photos(req.keysmith)); });
app.use(ofExpress.errors);

const fastify = Fastify();
await fastify.register(ofFastify.keysmith, { pool, variant: request => request.routeOptions.method?.toString() ?? null });
fastify.get('/photos', request => photos(request.keysmith));

const hono = new Hono<{ Variables: ofHono.Variables }>();
hono.use(ofHono.keysmith({ pool, peer: c => c.req.header('cf-connecting-ip') }));
hono.get('/photos', async c => c.json(await photos(c.get('keysmith'))));
hono.get('/tenant', c => c.text(c.var.keysmith.tenant ?? 'nobody'));

const options = { pool, keyspace: 'default' };
export const fetch = (request: Request) => handle(request, options, async (request, caller) => Response.json(await photos(caller)));

try {
  const names: string[] = await transaction(pool, { headers: { 'X-API-Key': 'key' }, spend: 2 }, photos);
  console.log(names);
} catch (error) {
  if (error instanceof Refused) console.log(error.status, error.code, error.headers['Retry-After']);
  else console.log(errorOf(error)?.status);
}

// @ts-expect-error: pool is required
ofExpress.keysmith({});
// @ts-expect-error: there is no such option
ofHono.keysmith({ pool, path: '/v1' });
