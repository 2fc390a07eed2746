import type { FastifyPluginAsync, FastifyRequest } from 'fastify';
import type { Caller, Options } from './options.js';

export type { Caller, Options } from './options.js';

export declare const keysmith: FastifyPluginAsync<Options<FastifyRequest>>;

declare module 'fastify' {
  interface FastifyRequest {
    /** Throws where the plugin has not asked who calls. */
    readonly keysmith: Caller;
  }
}
