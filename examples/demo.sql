\set QUIET on
\set ECHO queries
\pset footer off
\pset null '-'

\echo
\echo '=== The extension, and a tenant: a customer whose keys these will be'
CREATE EXTENSION keysmith;
SELECT keysmith.define_scope('default', 'images:write', 'Make images');
SELECT keysmith.define_scope('default', 'images:read', 'See images');
SELECT keysmith.create_tenant('acme');

\echo
\echo '=== Mint a key. api_key is shown this once, and stored nowhere'
SELECT key_id, api_key, key_prefix, scopes
FROM keysmith.mint('acme', label => 'Production', scopes => '{images:read}')
\gset minted_
\echo key_id  :minted_key_id
\echo api_key :minted_api_key
\echo

\echo '=== Verify it'
SELECT ok, status, code, tenant, environment, scopes FROM keysmith.verify(:'minted_api_key');

\echo
\echo '=== A wrong key: the last character is another one'
SELECT ok, status, code, reason
FROM keysmith.verify(left(:'minted_api_key', -1) || '_');

\echo
\echo '=== A scope that it does not have'
SELECT ok, status, code, reason FROM keysmith.verify(:'minted_api_key', '{images:write}');

\echo
\echo '=== Revoke it'
SELECT keysmith.revoke(:'minted_key_id', 'end of the demo');

\echo
\echo '=== From that commit on it is refused, in every session'
SELECT ok, status, code, reason FROM keysmith.verify(:'minted_api_key');

\echo
\echo '=== The list of keys'
SELECT key_prefix, key_snippet, label, status, revoked_reason
FROM keysmith.list_keys('acme', include_revoked => true);
