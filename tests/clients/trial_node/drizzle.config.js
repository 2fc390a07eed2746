import { defineConfig } from 'drizzle-kit';
import { filters } from 'keysmith/drizzle';

export default defineConfig({
  ...filters,
  dialect: 'postgresql',
  schema: './schema.js',
  out: './migrations',
  dbCredentials: { url: process.env.DATABASE_URL },
});
