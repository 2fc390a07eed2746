import type { Caller, Options } from './options.js';

export type { Caller, Options } from './options.js';

/** Answers a request, or runs `work` in its transaction. Make `options` once: outside of their `paths` there is no caller. */
export declare function handle(
  request: Request, options: Options<Request>, work: (request: Request, caller: Caller) => Promise<Response> | Response): Promise<Response>;
