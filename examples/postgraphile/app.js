// Photos of each tenant: PostGraphile 4, whose whole API comes from the tables.

const http = require('http');
const { getOperationAST } = require('graphql');
const { Pool } = require('pg');
const { makePluginHook, postgraphile } = require('postgraphile');

// The role and the server to connect to: libpq's variables, such as PGHOST.
const pool = new Pool({ max: 2 });

// keysmith: from here
const AUTHENTICATE = `
  SELECT ok, status, code, message, ceil(extract(epoch FROM retry_after))::int AS retry_after
  FROM keysmith.authenticate($1::jsonb, $2, $3, variant => $6,
    ip => keysmith.client_ip($1::jsonb, $4, $5))`;
const PROXIES = process.env.TRUSTED_PROXIES || '{}';

const keysmith = {
  // PostGraphile opens a transaction for each operation, makes its settings, and then runs the
  // operation. In between, the request's key is signed in. pgForceTransaction: without it queries
  // have no transaction, and an identity ends with its transaction.
  withPostGraphileContext: withContext => (options, callback) => {
    const { pgSettings: { request, ...pgSettings }, queryDocumentAst, operationName } = options;
    const operation = getOperationAST(queryDocumentAst, operationName);
    return withContext({ ...options, pgSettings, pgForceTransaction: true }, async context => {
      const { rows: [verdict] } = await context.pgClient.query(AUTHENTICATE, [
        JSON.stringify(request.headersDistinct), request.method, request.url,
        request.socket.remoteAddress, PROXIES, operation ? operation.operation : 'none']);
      if (verdict.ok) return callback(context);
      throw Object.assign(new Error(verdict.message), { statusCode: verdict.status, verdict });
    });
  },
};

const handleErrors = (errors, req, res) => errors.map(({ message, verdict }) => {
  if (verdict && verdict.status === 401) res.setHeader('WWW-Authenticate', 'Bearer');
  if (verdict && verdict.retry_after) res.setHeader('Retry-After', String(verdict.retry_after));
  return verdict ? { message, code: verdict.code } : { message };
});
// keysmith: to here

http.createServer(postgraphile(pool, 'public', {
  pluginHook: makePluginHook([keysmith]),
  // The hook above sees only this part of a request. It removes it again.
  pgSettings: request => ({ request }),
  handleErrors,
  disableQueryLog: true,
  dynamicJson: true,
})).listen(Number(process.env.PORT), '127.0.0.1');
