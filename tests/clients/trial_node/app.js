import { eq } from 'drizzle-orm';
import { drizzle } from 'drizzle-orm/node-postgres';
import Fastify from 'fastify';
import { keysmith } from 'keysmith/fastify';
import pg from 'pg';
import * as schema from './schema.js';

const { photo } = schema;
const app = Fastify({ logger: { level: 'trace' } });
await app.register(keysmith, { pool: new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 2 }) });

const database = request => drizzle(request.keysmith.client, { schema, logger: true });
const found = (row, reply) => row ?? reply.code(404).send({ code: 'not_found', message: 'There is no such photo.' });
const named = { body: { type: 'object', required: ['name'], properties: { name: { type: 'string' } } } };
const numbered = { params: { type: 'object', properties: { id: { type: 'integer' } } } };

app.get('/photos', request => database(request).query.photo.findMany({ columns: { tenantId: false } }));

app.post('/photos', { schema: named }, async (request, reply) => {
  const [row] = await database(request).insert(photo).values(request.body).returning({ id: photo.id, name: photo.name });
  return reply.code(201).send(row);
});

app.get('/photos/:id', { schema: numbered }, async (request, reply) => found(
  await database(request).query.photo.findFirst({ where: eq(photo.id, request.params.id), columns: { tenantId: false } }),
  reply));

app.patch('/photos/:id', { schema: { ...named, ...numbered } }, async (request, reply) => {
  const [row] = await database(request).update(photo).set(request.body).where(eq(photo.id, request.params.id))
    .returning({ id: photo.id, name: photo.name });
  return found(row, reply);
});

app.delete('/photos/:id', { schema: numbered }, async (request, reply) => {
  const [row] = await database(request).delete(photo).where(eq(photo.id, request.params.id)).returning({ id: photo.id });
  return found(row, reply);
});

await app.listen({ port: Number(process.env.PORT) });
