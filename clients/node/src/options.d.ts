import type { PoolClient, QueryConfig, QueryResult, QueryResultRow } from 'pg';

/** Such as a `Pool` of pg. */
export interface ClientPool {
  connect(): Promise<{ query(...query: any[]): any; release(destroy?: Error | boolean): void }>;
}

/** A value, or a function of the framework's request that returns one. */
export type Setting<Value, Request> = Value | ((request: Request) => Value | Promise<Value>);

export interface Person {
  tenant: string;
  /** None acts for the tenant as a whole. */
  member?: string | null;
}

export type Weights = Record<string, number>;

export interface Options<Request> {
  pool: ClientPool;
  /** The keyspace of the keys; `default` unless it is given. */
  keyspace?: string;
  /** The prefixes of the paths that the database decides about; all of them by default. */
  paths?: string[];
  /** The variant of the route. */
  variant?: Setting<string | null | undefined, Request>;
  /** How many credits a request costs. */
  spend?: Setting<number | bigint | undefined, Request>;
  /** What a request counts for in limits, by unit. */
  weights?: Setting<Weights | null | undefined, Request>;
  /** The user of the application on whose behalf the key asks. */
  subject?: Setting<string | null | undefined, Request>;
  /** Who asks without a key, such as by a session's cookie. */
  person?: (request: Request) => Person | null | undefined | Promise<Person | null | undefined>;
  /** The address that connects to the server; that of the socket where the framework has one. */
  peer?: string | null | ((request: Request) => string | null | undefined);
  /** Whether `log_request` records the status and the latency; true by default. */
  log?: boolean;
  /** False for a pooler that takes no named prepared statements, such as PgBouncer before 1.21. */
  prepare?: boolean;
  /** Gets the errors that are answered by 503. Their messages show no key. */
  report?: (error: Error) => void;
}

export interface Cost {
  /** In all. */
  spend?: number | bigint | null;
  /** In all, by unit. */
  weights?: Weights | null;
}

/** Who asks, and the transaction that acts for them. */
export interface Caller {
  /** None on a public route without a key. */
  readonly tenant: string | null;
  /** None for a person, and without a key. */
  readonly keyId: string | null;
  readonly requestId: string | null;
  /** Recorded with the request: at most eight short texts. */
  tags: Record<string, string>;
  /** Has `query` alone. BEGIN, COMMIT and ROLLBACK are savepoints of the request's transaction. */
  readonly client: PoolClient;
  query<Row extends QueryResultRow = any>(query: string | QueryConfig, values?: unknown[]): Promise<QueryResult<Row>>;
  /** Charges what the request really cost, during it or afterwards. False if that is not possible any more. */
  settle(cost: Cost): Promise<boolean>;
}
