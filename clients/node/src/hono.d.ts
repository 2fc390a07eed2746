import type { Context, MiddlewareHandler } from 'hono';
import type { Caller, Options } from './options.js';

export type { Caller, Options } from './options.js';

/** For `new Hono<{ Variables: Variables }>()`. */
export interface Variables {
  keysmith: Caller;
}

export declare function keysmith(options: Options<Context>): MiddlewareHandler<{ Variables: Variables }>;
