-- The result of a decision.

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
    request_id        uuid,
    label             text,
    plan              text,
    missing_scopes    text,
    limit_limit       bigint,
    limit_window      interval,
    limit_reset       interval,
    limit_unit        text
);
CREATE DOMAIN keysmith.verdict AS keysmith_private.verdict;
COMMENT ON DOMAIN keysmith.verdict IS 'A verdict, as verify returns it: for variables';
COMMENT ON TYPE keysmith_private.verdict IS
'The answer to "may this key do this, from here, now?"';
COMMENT ON COLUMN keysmith_private.verdict.ok IS 'Whether the request may go on';
COMMENT ON COLUMN keysmith_private.verdict.status IS 'The HTTP status for the response';
COMMENT ON COLUMN keysmith_private.verdict.code IS 'The code for the response';
COMMENT ON COLUMN keysmith_private.verdict.message IS 'The message for the response';
COMMENT ON COLUMN keysmith_private.verdict.reason IS 'The exact cause, for the operator';
COMMENT ON COLUMN keysmith_private.verdict.key_id IS 'The id of the key; it is not secret';
COMMENT ON COLUMN keysmith_private.verdict.tenant IS 'The name of the tenant that the key belongs to';
COMMENT ON COLUMN keysmith_private.verdict.tenant_id IS 'The id of the tenant';
COMMENT ON COLUMN keysmith_private.verdict.keyspace IS 'The keyspace that was asked about; null if it does not exist';
COMMENT ON COLUMN keysmith_private.verdict.environment IS 'The environment of the key, such as live or test';
COMMENT ON COLUMN keysmith_private.verdict.kind IS 'secret, or publishable for a key that may be public';
COMMENT ON COLUMN keysmith_private.verdict.owner IS 'The member of the tenant that owns the key; null if no member does';
COMMENT ON COLUMN keysmith_private.verdict.role IS 'The role of the key, or else of its owner';
COMMENT ON COLUMN keysmith_private.verdict.scopes IS 'The scopes of the key within its role; {*} for every scope';
COMMENT ON COLUMN keysmith_private.verdict.metadata IS 'The metadata of the key';
COMMENT ON COLUMN keysmith_private.verdict.expires_at IS 'The time when the key expires; no event announces it, so check again then';
COMMENT ON COLUMN keysmith_private.verdict.limit_name IS 'The rate limit that refused the request, or else the one that is used up first';
COMMENT ON COLUMN keysmith_private.verdict.limit_remaining IS 'How much is left in that limit, in its unit';
COMMENT ON COLUMN keysmith_private.verdict.retry_after IS 'The time until the same request would pass, if no other comes first; null if never or unknown';
COMMENT ON COLUMN keysmith_private.verdict.credits_remaining IS 'The balance after credits were spent';
COMMENT ON COLUMN keysmith_private.verdict.request_id IS 'A unique id of this decision';
COMMENT ON COLUMN keysmith_private.verdict.label IS 'The label of the key';
COMMENT ON COLUMN keysmith_private.verdict.plan IS 'The plan of the tenant';
COMMENT ON COLUMN keysmith_private.verdict.missing_scopes IS 'The expression of scopes that the key does not meet, if that is why the request is refused';
COMMENT ON COLUMN keysmith_private.verdict.limit_limit IS 'How much that limit allows in its window';
COMMENT ON COLUMN keysmith_private.verdict.limit_window IS 'The window of that limit';
COMMENT ON COLUMN keysmith_private.verdict.limit_reset IS 'The time until nothing of that limit is missing, if no other request comes';
COMMENT ON COLUMN keysmith_private.verdict.limit_unit IS 'The unit of that limit, such as calls or tokens';
