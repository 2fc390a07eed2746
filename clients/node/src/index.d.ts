import type { Caller, ClientPool, Options } from './options.js';

export type { Caller, ClientPool, Cost, Options, Person, Setting, Weights } from './options.js';

/** A request or a job that may not go on, with the answer that fits. */
export declare class Refused extends Error {
  constructor(status: number, code: string, message: string, headers?: Record<string, string>);
  readonly status: number;
  readonly code: string;
  readonly headers: Record<string, string>;
}

export interface KnownError {
  status: number;
  code: string;
  message: string;
}

/** The answer to an error that keysmith raised in a statement, whatever has wrapped it; or null. */
export declare function errorOf(error: unknown): KnownError | null;

export interface Job extends Omit<Options<null>, 'pool' | 'paths' | 'person' | 'peer'> {
  /** With the key, such as `{ 'X-API-Key': key }`. */
  headers: Record<string, string | string[]>;
  method?: string | null;
  path?: string | null;
  ip?: string | null;
}

/** Runs `work` in a transaction that acts for the key. Throws `Refused`; rolls back if `work` throws. */
export declare function transaction<Result>(
  pool: ClientPool, job: Job, work: (caller: Caller) => Promise<Result> | Result): Promise<Result>;
