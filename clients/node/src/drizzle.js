// Isolated tables in a schema of Drizzle.

import { getTableColumns, is, sql } from 'drizzle-orm';
import { PgTable, getTableConfig, pgPolicy } from 'drizzle-orm/pg-core';

const ISOLATION = Symbol('keysmith');
const OPTIONS = ['tenantColumn', 'keyspace', 'environmentColumn', 'strict', 'access'];

// For drizzle.config: all schemas that are not listed, such as keysmith's, are left alone.
export const filters = { schemaFilter: ['public'], entities: { roles: false } };

export const currentTenantId = () => sql`keysmith.current_tenant_id()`;

// The policies of keysmith.isolate(). drizzle-kit drops what a schema does not declare.
export function isolated(tenantColumn, options = {}) {
  // A misspelt option, or column, must not isolate less.
  for (const [name, value] of Object.entries({ tenantColumn, ...options })) {
    if (!OPTIONS.includes(name)) throw new TypeError(`there is no option ${name}, only ${OPTIONS.slice(1).join(', ')}`);
    if (value === undefined) throw new TypeError(`${name} is undefined: leave it out, or name a column that exists`);
  }
  const { keyspace, environmentColumn, strict = false, access = true } = options;
  const isId = isUuid(tenantColumn);
  if (keyspace === undefined && !isId) {
    throw new TypeError('keyspace must be given where tenants are named by text');
  }
  const tenant = [[tenantColumn, isId ? 'current_tenant_id' : 'current_tenant']];
  if (keyspace !== undefined) tenant.push([literal(keyspace), 'current_keyspace']);
  const environment = [...tenant, [environmentColumn, 'current_environment']];
  const ofTenant = equal(tenant, strict && 'keysmith.require_identity()');
  // A person has no environment, and reaches all.
  const condition = environmentColumn
    ? sql`${ofTenant} AND (${equal(environment)} OR ${equal(tenant, 'keysmith.current_environment() IS NULL')})`
    : ofTenant;
  const rule = { for: 'all', to: 'public', using: condition, withCheck: condition };
  const policies = [pgPolicy('keysmith_tenant', { as: 'restrictive', ...rule })];
  if (access) policies.push(pgPolicy('keysmith_access', { as: 'permissive', ...rule }));
  policies[0][ISOLATION] = { tenantColumn, keyspace, environmentColumn, strict };
  return policies;
}

// Calls keysmith.isolate() for the tables of a schema that are declared as isolated. It restores
// what drizzle-kit can't write: FORCE ROW LEVEL SECURITY, and, with push, the conditions.
export async function isolate(db, schema) {
  const nameOf = column => column && (db.dialect?.casing?.getColumnCasing(column) ?? column.name);
  for (const table of Object.values(schema).filter(value => is(value, PgTable))) {
    const { schema: place = 'public', name, policies } = getTableConfig(table);
    const how = policies.map(policy => policy[ISOLATION]).find(Boolean);
    if (!how) continue;
    await db.execute(sql`SELECT keysmith.isolate(format('%I.%I', ${place}::text, ${name}::text)::regclass,
      ${nameOf(how.tenantColumn)}::text, ${how.keyspace ?? null}::text,
      ${nameOf(how.environmentColumn) ?? null}::text, ${how.strict}::boolean)`);
  }
}

// One sub-select has all that must be of one identity.
function equal(pairs, where) {
  const comma = sql.raw(', ');
  const values = sql.join(pairs.map(([value]) => value), comma);
  const calls = sql.join(pairs.map(([, name]) => sql.raw(`keysmith.${name}()`)), comma);
  return sql`((${values}) = (SELECT ${calls}${sql.raw(where ? ` WHERE ${where}` : '')}))`;
}

function literal(keyspace) {
  if (!/^[a-z][a-z0-9_-]{0,62}$/.test(keyspace)) {
    throw new TypeError('keyspace must have 1 to 63 characters of a-z, 0-9, _ and -, the first of them a letter');
  }
  return sql.raw(`'${keyspace}'::text`);
}

function isUuid(column) {
  // What pgTable passes to its last argument does not know its type; the table's column does.
  const type = Object.values(getTableColumns(column.table)).find(({ name }) => name === column.name).getSQLType();
  if (/^(uuid|text|varchar(\(\d+\))?)$/.test(type)) return type === 'uuid';
  throw new TypeError(`the tenant's column must be of type uuid, text or varchar, and ${column.name} is ${type}`);
}
