-- Deciding.

CREATE TYPE keysmith_private.verdict AS (
    ok                boolean,
    status            integer,
    code              text,
    message           text,
    reason            text,
    key_id            uuid,
    tenant            text,
    tenant_id         uuid,
    keyspace          text,
    environment       text,
    kind              text,
    owner             text,
    role              text,
    scopes            text[],
    metadata          jsonb,
    expires_at        timestamptz,
    limit_name        text,
    limit_remaining   bigint,
    retry_after       interval,
    credits_remaining bigint,
    request_id        uuid
);
CREATE DOMAIN keysmith.verdict AS keysmith_private.verdict;
COMMENT ON DOMAIN keysmith.verdict IS 'A verdict, as verify returns it: for variables';
COMMENT ON TYPE keysmith_private.verdict IS
'The answer to "may this key do this, from here, now?"';
COMMENT ON COLUMN keysmith_private.verdict.ok IS 'Whether the request may go on';
COMMENT ON COLUMN keysmith_private.verdict.status IS 'The HTTP status that fits';
COMMENT ON COLUMN keysmith_private.verdict.code IS 'For the outside world';
COMMENT ON COLUMN keysmith_private.verdict.message IS 'For the outside world';
COMMENT ON COLUMN keysmith_private.verdict.reason IS 'The exact cause, for the operator';
COMMENT ON COLUMN keysmith_private.verdict.key_id IS 'The id of the key; no secret';
COMMENT ON COLUMN keysmith_private.verdict.tenant IS 'The name of the tenant whose key it is';
COMMENT ON COLUMN keysmith_private.verdict.tenant_id IS 'The id of the tenant';
COMMENT ON COLUMN keysmith_private.verdict.keyspace IS 'The keyspace of the key';
COMMENT ON COLUMN keysmith_private.verdict.environment IS 'The environment of the key, such as live or test';
COMMENT ON COLUMN keysmith_private.verdict.kind IS 'secret, or publishable for keys that may be seen';
COMMENT ON COLUMN keysmith_private.verdict.owner IS 'The member of the tenant whose key it is, if it is someone''s';
COMMENT ON COLUMN keysmith_private.verdict.role IS 'The role of the key, or else of its owner';
COMMENT ON COLUMN keysmith_private.verdict.scopes IS 'All that the key may do, its role considered; {*} for everything';
COMMENT ON COLUMN keysmith_private.verdict.metadata IS 'The metadata of the key';
COMMENT ON COLUMN keysmith_private.verdict.expires_at IS 'When the key ends, without an event: check again then';
COMMENT ON COLUMN keysmith_private.verdict.limit_name IS 'The rate limit that refused, or else that has the fewest calls left';
COMMENT ON COLUMN keysmith_private.verdict.limit_remaining IS 'The calls left in it';
COMMENT ON COLUMN keysmith_private.verdict.retry_after IS 'When the same request passes, unless others come first; null if never, or nobody knows';
COMMENT ON COLUMN keysmith_private.verdict.credits_remaining IS 'What is left after some were spent';
COMMENT ON COLUMN keysmith_private.verdict.request_id IS 'A name for this decision';

CREATE FUNCTION keysmith.verify(
    api_key text,
    scopes text[] DEFAULT '{}',
    ip inet DEFAULT NULL,
    keyspace text DEFAULT 'default',
    spend bigint DEFAULT 0,
    kind text DEFAULT NULL,
    environment text DEFAULT NULL,
    sign_in boolean DEFAULT false,
    weight integer DEFAULT 1
) RETURNS keysmith_private.verdict
LANGUAGE c PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_verify';
COMMENT ON FUNCTION keysmith.verify(text, text[], inet, text, bigint, text, text, boolean, integer) IS
'Decides about a key; writes nothing unless it spends, and works in read-only transactions and on standbys';

CREATE FUNCTION keysmith.verify_digest(
    digest bytea,
    scopes text[] DEFAULT '{}',
    ip inet DEFAULT NULL,
    keyspace text DEFAULT 'default',
    spend bigint DEFAULT 0,
    kind text DEFAULT NULL,
    environment text DEFAULT NULL,
    sign_in boolean DEFAULT false,
    weight integer DEFAULT 1
) RETURNS keysmith_private.verdict
LANGUAGE c PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_verify_digest';
COMMENT ON FUNCTION keysmith.verify_digest(bytea, text[], inet, text, bigint, text, text, boolean, integer) IS
'Decides about a key by its SHA-256, for callers who hash on their side';

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
'Decides about each of many keys: a verdict each, in their order';

CREATE FUNCTION keysmith.authenticate(
    headers jsonb,
    method text,
    path text,
    ip inet DEFAULT NULL,
    keyspace text DEFAULT 'default',
    variant text DEFAULT NULL,
    spend bigint DEFAULT 0,
    weight integer DEFAULT NULL
) RETURNS keysmith_private.verdict
LANGUAGE c PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_authenticate';
COMMENT ON FUNCTION keysmith.authenticate(jsonb, text, text, inet, text, text, bigint, integer) IS
'Decides about a request: finds the key in its headers, and what its route requires';

CREATE TYPE keysmith_private.explanation AS (
    step    integer,
    rule    text,
    outcome text,
    reason  text,
    saw     text
);
CREATE DOMAIN keysmith.explanation AS keysmith_private.explanation;
COMMENT ON DOMAIN keysmith.explanation IS 'A rule, as explain_verify returns it: for variables';
COMMENT ON TYPE keysmith_private.explanation IS 'What a rule saw; the first that refuses decides';
COMMENT ON COLUMN keysmith_private.explanation.step IS 'The place of the rule in the order in which they are asked, from 1';
COMMENT ON COLUMN keysmith_private.explanation.rule IS 'The name of the rule';
COMMENT ON COLUMN keysmith_private.explanation.outcome IS 'pass, refuse or not reached';
COMMENT ON COLUMN keysmith_private.explanation.reason IS 'The reason of the refusal, where the rule refuses';
COMMENT ON COLUMN keysmith_private.explanation.saw IS 'What the rule looked at, for the operator; its wording may change, and it is never a key';

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
    variant text DEFAULT NULL
) RETURNS SETOF keysmith_private.explanation
LANGUAGE c PARALLEL RESTRICTED ROWS 14 AS 'MODULE_PATHNAME', 'keysmith_explain_verify';
COMMENT ON FUNCTION keysmith.explain_verify(
    text, text[], inet, text, bigint, text, text, boolean, integer, jsonb, text, text, text) IS
'Shows what each rule sees in what verify is asked, or, given a method and a path, authenticate';

CREATE FUNCTION keysmith.client_ip(
    headers jsonb,
    peer inet,
    trusted_proxies cidr[] DEFAULT '{}'
) RETURNS inet
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'keysmith_client_ip';
COMMENT ON FUNCTION keysmith.client_ip(jsonb, inet, cidr[]) IS
'The client behind trusted proxies: the first address from the right that is not one of them';

CREATE FUNCTION keysmith.limit_status(OUT name text, OUT value text) RETURNS SETOF record
LANGUAGE c PARALLEL RESTRICTED ROWS 5 AS 'MODULE_PATHNAME', 'keysmith_limit_status';
COMMENT ON FUNCTION keysmith.limit_status() IS
'Whether rate limits are kept, how many are under way, and since when calls are counted';
