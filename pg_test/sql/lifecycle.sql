-- A key's way through life, as psql sees it. Random parts are not shown.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS keysmith CASCADE;
RESET client_min_messages;
CREATE EXTENSION keysmith;
\set VERBOSITY default
\pset null -

SELECT keysmith.create_tenant('acme') IS NOT NULL AS made;
SELECT keysmith.create_tenant('acme');
SELECT keysmith.define_scope('default', 'images:write', 'Make images', '{images:read}');
SELECT keysmith.define_scope('default', 'images:read', 'See images');

SELECT * FROM keysmith.mint('acme', 'Production', scopes => '{images:write}') \gset
SELECT :'api_key' ~ '^ks_live_[0-9A-Za-z]{49}$' AS formed,
       :'key_prefix' = left(:'api_key', 13) AS prefixed,
       :'key_snippet' = 'ks_live_...' || right(:'api_key', 4) AS snipped;

\set told 'ok, status, code, reason, tenant, environment, kind, scopes'
SELECT :told FROM keysmith.verify(:'api_key');
SELECT :told FROM keysmith.verify(:'api_key', '{images:read}');
SELECT :told FROM keysmith.verify(:'api_key', '{videos:write}');
SELECT :told FROM keysmith.verify(:'api_key', environment => 'test');
SELECT :told FROM keysmith.verify(NULL);
SELECT :told FROM keysmith.verify('ks_live_typo');
SELECT :told FROM keysmith.verify_digest(sha256(:'api_key'));
SELECT reason FROM keysmith.verify_many(ARRAY[:'api_key', 'x', NULL]);

SELECT keysmith.mint('acme', scopes => '{images:wirte}');
SELECT keysmith.mint('nobody');
SELECT keysmith.mint('acme', environment => 'moon');
SELECT keysmith.alter_key(:'key_id', '{"lable": "x"}');
SELECT keysmith.alter_key(:'key_id', '{"allowlist": ["203.0.113.7/24"]}');
SELECT keysmith.rotate(:'key_id', '-1 day');

SELECT label, allowlist
FROM keysmith.alter_key(:'key_id', '{"label": "New", "allowlist": ["203.0.113.0/24"]}');
SELECT :told FROM keysmith.verify(:'api_key');
SELECT :told FROM keysmith.verify(:'api_key', ip => '203.0.114.1');
SELECT :told FROM keysmith.verify(:'api_key', ip => '::ffff:203.0.113.1');

SELECT * FROM keysmith.rotate(:'key_id', '1 hour') \gset new_
SELECT label, allowlist, status, scopes, expires_at IS NULL AS lasts, rotated_to IS NULL AS newest
FROM keysmith.list_keys('acme');

SELECT keysmith.revoke(:'key_id', 'deployed the new one');
SELECT keysmith.revoke(:'new_key_id');
SELECT :told FROM keysmith.verify(:'new_api_key', ip => '203.0.113.1');
SELECT count(*) FROM keysmith.list_keys('acme');
SELECT label, status, revoked_reason FROM keysmith.list_keys('acme', include_revoked => true);

DROP EXTENSION keysmith;
