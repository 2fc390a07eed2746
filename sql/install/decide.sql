-- Rules of decisions, for views and statements that show a state.

CREATE FUNCTION keysmith_private.credits_at(
    balance bigint, refill bigint, every text, anchor timestamptz, refilled_at timestamptz,
    moment timestamptz
) RETURNS bigint
LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'keysmith_credits_at';
COMMENT ON FUNCTION keysmith_private.credits_at(bigint, bigint, text, timestamptz, timestamptz, timestamptz) IS
'The credits of a row of the table credit at a moment, a refill that is due included; null without a row';

CREATE FUNCTION keysmith_private.next_refill(every text, anchor timestamptz, moment timestamptz)
RETURNS timestamptz
LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'keysmith_next_refill';
COMMENT ON FUNCTION keysmith_private.next_refill(text, timestamptz, timestamptz) IS
'The beginning of the next period of a row of the table credit; null without refills';

CREATE FUNCTION keysmith_private.key_status(
    revoked_at timestamptz, expires_at timestamptz, disabled_at timestamptz, disabled_reason text,
    moment timestamptz
) RETURNS text
LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'keysmith_key_status';
COMMENT ON FUNCTION keysmith_private.key_status(timestamptz, timestamptz, timestamptz, text, timestamptz) IS
'The state of a key at a moment: active, disabled, idle, expired or revoked';
