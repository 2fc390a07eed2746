-- The answer of a decision.

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
