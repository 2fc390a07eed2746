import { index, pgTable, serial, text, uuid } from 'drizzle-orm/pg-core';
import { currentTenantId, isolated } from 'keysmith/drizzle';

export const photo = pgTable('photo', {
  id: serial('id').primaryKey(),
  tenantId: uuid('tenant_id').notNull().default(currentTenantId()),
  name: text('name').notNull(),
}, table => [
  index('photo_tenant').on(table.tenantId),
  ...isolated(table.tenantId),
]);
