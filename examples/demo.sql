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
\echo '=== A table that shows each tenant its own rows: those of the key that is signed in'
CREATE TABLE photo (
    tenant_id uuid DEFAULT keysmith.current_tenant_id(),
    name      text,
    PRIMARY KEY (tenant_id, name)
);
\set ECHO none
SET client_min_messages = error;
DROP ROLE IF EXISTS demo_app;
CREATE ROLE demo_app;
ALTER TABLE photo OWNER TO demo_app;
\set ECHO queries
SELECT keysmith.isolate('photo', 'tenant_id');
SELECT keysmith.grant_access('demo_app', 'verifier');
SELECT keysmith.create_tenant('globex');
SELECT api_key AS other_key FROM keysmith.mint('globex') \gset

SET ROLE demo_app;
BEGIN;
SELECT ok FROM keysmith.verify(:'minted_api_key', sign_in => true);
INSERT INTO photo (name) VALUES ('sunset');
SELECT keysmith.current_tenant(), name FROM photo;
COMMIT;

BEGIN;
SELECT ok FROM keysmith.verify(:'other_key', sign_in => true);
SELECT keysmith.current_tenant(), count(*) AS photos FROM photo;
COMMIT;
RESET ROLE;

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

\echo
\echo '=== What was asked with its keys: a worker stores it, a moment later'
SELECT keysmith.flush_usage();
SELECT status, outcome, count(*) AS requests FROM keysmith.usage
WHERE tenant = 'acme' GROUP BY status, outcome ORDER BY status;

\echo
\echo '=== A ledger: rows that are deleted or put back past the triggers are found'
CREATE TABLE account (id int PRIMARY KEY, owner text, balance numeric);
SELECT keysmith.ledger('account');
INSERT INTO account VALUES (1, 'ann', 10), (2, 'bob', 20), (5000, 'cid', 30);
UPDATE account SET balance = 500 WHERE id = 2;
SELECT * FROM keysmith.verify_ledger('account');

\echo
\echo '=== Someone switches the triggers off, deletes a row, and puts an old one back'
SET session_replication_role = replica;
DELETE FROM account WHERE id = 5000;
UPDATE account SET balance = 20 WHERE id = 2;
RESET session_replication_role;
SELECT first_key, last_key, problem FROM keysmith.verify_ledger('account');

\echo
\echo '=== Who did what, in a chain that shows what was done to it'
SELECT entry, action, tenant, role, after ->> 'revoked_reason' AS reason
FROM keysmith.audit WHERE keyspace = 'default' ORDER BY entry;
SELECT * FROM keysmith.audit_verify();
