-- What there is to say of the key that the transaction acts for.

CREATE FUNCTION keysmith.whoami() RETURNS jsonb
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_whoami';
COMMENT ON FUNCTION keysmith.whoami() IS
'A profile of the key that the transaction acts for, and of its tenant';
