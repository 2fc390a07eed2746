-- Checks that the audit is complete and unchanged.

CREATE FUNCTION keysmith.audit_heads(
    OUT keyspace text,
    OUT entry bigint,
    OUT hash text,
    OUT at timestamptz
) RETURNS SETOF record
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'keysmith_audit_heads';
COMMENT ON FUNCTION keysmith.audit_heads() IS
'The last entry of each chain; a copy kept elsewhere proves later that no entry was removed from the end';

CREATE FUNCTION keysmith.audit_verify(
    heads jsonb DEFAULT NULL,
    OUT keyspace text,
    OUT ok boolean,
    OUT entries bigint,
    OUT first_bad bigint,
    OUT problem text
) RETURNS SETOF record
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'keysmith_audit_verify';
COMMENT ON FUNCTION keysmith.audit_verify(jsonb) IS
'Checks each chain, and names its first bad entry; also against heads that were kept';
