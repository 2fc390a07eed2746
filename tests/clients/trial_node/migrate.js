import { drizzle } from 'drizzle-orm/node-postgres';
import { migrate } from 'drizzle-orm/node-postgres/migrator';
import { isolate } from 'keysmith/drizzle';
import * as schema from './schema.js';

const db = drizzle(process.env.DATABASE_URL);
await migrate(db, { migrationsFolder: './migrations' });
await isolate(db, schema);
await db.$client.end();
