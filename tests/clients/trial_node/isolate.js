import { drizzle } from 'drizzle-orm/node-postgres';
import { isolate } from 'keysmith/drizzle';
import * as schema from './schema.js';

const db = drizzle(process.env.DATABASE_URL);
await isolate(db, schema);
await db.$client.end();
