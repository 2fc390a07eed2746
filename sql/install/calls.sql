-- Functions that decide about keys and requests.

CREATE FUNCTION keysmith.verify(
    api_key text,
    scopes text[] DEFAULT '{}',
    ip inet DEFAULT NULL,
    keyspace text DEFAULT 'default',
    spend bigint DEFAULT 0,
    kind text DEFAULT NULL,
    environment text DEFAULT NULL,
    sign_in boolean DEFAULT false,
    weight integer DEFAULT NULL,
    weights jsonb DEFAULT NULL,
    subject text DEFAULT NULL
) RETURNS keysmith_private.verdict
LANGUAGE c PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_verify';
COMMENT ON FUNCTION keysmith.verify(text, text[], inet, text, bigint, text, text, boolean, integer, jsonb, text) IS
'Decides whether a key may do this; writes nothing unless it spends, and works on standbys';

CREATE FUNCTION keysmith.verify_json(
    api_key text,
    scopes text[] DEFAULT '{}',
    ip inet DEFAULT NULL,
    keyspace text DEFAULT 'default',
    spend bigint DEFAULT 0,
    kind text DEFAULT NULL,
    environment text DEFAULT NULL,
    sign_in boolean DEFAULT false,
    weight integer DEFAULT NULL,
    weights jsonb DEFAULT NULL,
    subject text DEFAULT NULL
) RETURNS json
LANGUAGE c PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_verify_json';
COMMENT ON FUNCTION keysmith.verify_json(text, text[], inet, text, bigint, text, text, boolean, integer, jsonb, text) IS
'As verify; the verdict is one JSON object, which is faster to read than a row';

CREATE FUNCTION keysmith.verify_digest(
    digest bytea,
    scopes text[] DEFAULT '{}',
    ip inet DEFAULT NULL,
    keyspace text DEFAULT 'default',
    spend bigint DEFAULT 0,
    kind text DEFAULT NULL,
    environment text DEFAULT NULL,
    sign_in boolean DEFAULT false,
    weight integer DEFAULT NULL,
    weights jsonb DEFAULT NULL,
    subject text DEFAULT NULL
) RETURNS keysmith_private.verdict
LANGUAGE c PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_verify_digest';
COMMENT ON FUNCTION keysmith.verify_digest(bytea, text[], inet, text, bigint, text, text, boolean, integer, jsonb, text) IS
'Decides about a key by its SHA-256; for callers that hash keys themselves';

CREATE FUNCTION keysmith.verify_many(
    api_keys text[],
    scopes text[] DEFAULT '{}',
    ip inet DEFAULT NULL,
    keyspace text DEFAULT 'default',
    kind text DEFAULT NULL,
    environment text DEFAULT NULL
) RETURNS SETOF keysmith_private.verdict
LANGUAGE c PARALLEL RESTRICTED ROWS 100 AS 'MODULE_PATHNAME', 'keysmith_verify_many';
COMMENT ON FUNCTION keysmith.verify_many(text[], text[], inet, text, text, text) IS
'Decides about many keys; a verdict for each, in their order';

CREATE FUNCTION keysmith.authenticate(
    headers jsonb,
    method text,
    path text,
    ip inet DEFAULT NULL,
    keyspace text DEFAULT 'default',
    variant text DEFAULT NULL,
    spend bigint DEFAULT 0,
    weight integer DEFAULT NULL,
    weights jsonb DEFAULT NULL,
    subject text DEFAULT NULL
) RETURNS keysmith_private.verdict
LANGUAGE c PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_authenticate';
COMMENT ON FUNCTION keysmith.authenticate(jsonb, text, text, inet, text, text, bigint, integer, jsonb, text) IS
'Decides about a request; finds the key in its headers, and the needed scopes by its route';

CREATE FUNCTION keysmith.authenticate_json(
    headers jsonb,
    method text,
    path text,
    ip inet DEFAULT NULL,
    keyspace text DEFAULT 'default',
    variant text DEFAULT NULL,
    spend bigint DEFAULT 0,
    weight integer DEFAULT NULL,
    weights jsonb DEFAULT NULL,
    subject text DEFAULT NULL
) RETURNS json
LANGUAGE c PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_authenticate_json';
COMMENT ON FUNCTION keysmith.authenticate_json(jsonb, text, text, inet, text, text, bigint, integer, jsonb, text) IS
'As authenticate; the verdict is one JSON object, which is faster to read than a row';

CREATE TYPE keysmith_private.explanation AS (
    step    integer,
    rule    text,
    outcome text,
    reason  text,
    saw     text
);
CREATE DOMAIN keysmith.explanation AS keysmith_private.explanation;
COMMENT ON DOMAIN keysmith.explanation IS 'A rule, as explain_verify returns it: for variables';
COMMENT ON TYPE keysmith_private.explanation IS 'A rule and its result; the first rule that refuses decides';
COMMENT ON COLUMN keysmith_private.explanation.step IS 'The place of the rule in the order of the rules, from 1';
COMMENT ON COLUMN keysmith_private.explanation.rule IS 'The name of the rule';
COMMENT ON COLUMN keysmith_private.explanation.outcome IS 'pass, refuse or not reached';
COMMENT ON COLUMN keysmith_private.explanation.reason IS 'The reason of the refusal; null if the rule does not refuse';
COMMENT ON COLUMN keysmith_private.explanation.saw IS 'The values that the rule compared, for the operator, without the key; the wording may change';

CREATE FUNCTION keysmith.explain_verify(
    api_key text DEFAULT NULL,
    scopes text[] DEFAULT '{}',
    ip inet DEFAULT NULL,
    keyspace text DEFAULT 'default',
    spend bigint DEFAULT 0,
    kind text DEFAULT NULL,
    environment text DEFAULT NULL,
    sign_in boolean DEFAULT false,
    weight integer DEFAULT NULL,
    headers jsonb DEFAULT NULL,
    method text DEFAULT NULL,
    path text DEFAULT NULL,
    variant text DEFAULT NULL,
    weights jsonb DEFAULT NULL,
    subject text DEFAULT NULL
) RETURNS SETOF keysmith_private.explanation
LANGUAGE c PARALLEL RESTRICTED ROWS 14 AS 'MODULE_PATHNAME', 'keysmith_explain_verify';
COMMENT ON FUNCTION keysmith.explain_verify(
    text, text[], inet, text, bigint, text, text, boolean, integer, jsonb, text, text, text, jsonb,
    text) IS
'Shows what each rule of a decision saw; says why a key is refused';

CREATE FUNCTION keysmith.client_ip(
    headers jsonb,
    peer inet,
    trusted_proxies cidr[] DEFAULT '{}'
) RETURNS inet
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'keysmith_client_ip';
COMMENT ON FUNCTION keysmith.client_ip(jsonb, inet, cidr[]) IS
'The address of a client behind proxies; the first from the right that is not a trusted proxy';

CREATE FUNCTION keysmith.pre_request() RETURNS void
LANGUAGE c PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_pre_request';
COMMENT ON FUNCTION keysmith.pre_request() IS
'PostgREST''s db-pre-request; authenticates the request, and raises PT401, PT403 or PT429';
