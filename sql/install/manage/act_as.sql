-- People whom the application has authenticated by other means.

CREATE FUNCTION keysmith.act_as(
    tenant text,
    member text DEFAULT NULL,
    keyspace text DEFAULT 'default'
) RETURNS void
LANGUAGE c PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_act_as';
COMMENT ON FUNCTION keysmith.act_as(text, text, text) IS
'Signs in a person; for the rest of the transaction';
