import type { ErrorRequestHandler, Request, RequestHandler } from 'express';
import type { Caller, Options } from './options.js';

export type { Caller, Options } from './options.js';

export declare function keysmith(options: Options<Request>): RequestHandler;

/** For the end of an application: answers the errors of keysmith that no handler has caught. */
export declare const errors: ErrorRequestHandler;

declare global {
  namespace Express {
    interface Request {
      /** Throws where the middleware has not asked who calls. */
      keysmith: Caller;
    }
  }
}
