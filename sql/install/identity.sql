-- The identity of the transaction, for row-level security, defaults and triggers.
--
-- The functions are STABLE, so that a sub-select such as (SELECT keysmith.current_tenant_id()) is
-- evaluated once per query. They are PARALLEL RESTRICTED, since only the leader has the identity:
-- a parallel plan evaluates the sub-select there, and passes the value to its workers.

CREATE FUNCTION keysmith.current_tenant() RETURNS text
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_current_tenant';
COMMENT ON FUNCTION keysmith.current_tenant() IS
'The name of the tenant that the transaction acts for; it is unique within the keyspace';

CREATE FUNCTION keysmith.current_tenant_id() RETURNS uuid
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_current_tenant_id';
COMMENT ON FUNCTION keysmith.current_tenant_id() IS
'The id of the tenant that the transaction acts for';

CREATE FUNCTION keysmith.current_keyspace() RETURNS text
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_current_keyspace';
COMMENT ON FUNCTION keysmith.current_keyspace() IS
'The keyspace of the tenant that the transaction acts for';

CREATE FUNCTION keysmith.current_key() RETURNS uuid
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_current_key';
COMMENT ON FUNCTION keysmith.current_key() IS
'The id of the key that the transaction acts for; it can be the default of a column; null for a person';

CREATE FUNCTION keysmith.current_environment() RETURNS text
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_current_environment';
COMMENT ON FUNCTION keysmith.current_environment() IS
'The environment of the key that the transaction acts for; null for a person';

CREATE FUNCTION keysmith.current_owner() RETURNS text
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_current_owner';
COMMENT ON FUNCTION keysmith.current_owner() IS
'The owner of the key that the transaction acts for; or the member, if act_as signed one in';

CREATE FUNCTION keysmith.has_scope(scope text) RETURNS boolean
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_has_scope';
COMMENT ON FUNCTION keysmith.has_scope(text) IS
'Whether the key or person has a scope, or meets an expression';

CREATE FUNCTION keysmith.require_identity() RETURNS boolean
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_require_identity';
COMMENT ON FUNCTION keysmith.require_identity() IS
'True if the transaction has an identity; otherwise an error';

CREATE FUNCTION keysmith.sign_out() RETURNS void
LANGUAGE c PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_sign_out';
COMMENT ON FUNCTION keysmith.sign_out() IS
'Ends the identity before the transaction ends';
