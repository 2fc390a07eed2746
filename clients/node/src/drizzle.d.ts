// Drizzle declares its classes twice, for ES modules and for CommonJS, and TypeScript takes them for different ones.
// So nothing here names them.

interface Column {
  readonly name: string;
  getSQLType(): string;
}

/** For drizzle.config. `push` and `pull` then leave the schemas of the extension alone. */
export declare const filters: { schemaFilter: string[]; entities: { roles: boolean } };

/** The default of a tenant's column: `uuid('tenant_id').default(currentTenantId())`. */
export declare function currentTenantId(): any;

export interface Isolation {
  /** The keyspace of the tenants. Required if the column holds names. */
  keyspace?: string;
  /** A column that must be the key's environment. */
  environmentColumn?: Column;
  /** Whether a statement without an identity raises KS401. */
  strict?: boolean;
  /** False if the table has permissive policies of its own: these then say which rows are visible. */
  access?: boolean;
}

/** The policies of `keysmith.isolate()`, for the last argument of `pgTable`. */
export declare function isolated(tenantColumn: Column, isolation?: Isolation): any[];

/** Calls `keysmith.isolate()` for each table of a schema that has the policies of `isolated()`. */
export declare function isolate(
  db: { execute(query: any): PromiseLike<unknown> }, schema: Record<string, unknown>): Promise<void>;
