-- What a restore to the past would undo.

CREATE FUNCTION keysmith.revocations_since(
    since timestamptz,
    OUT at timestamptz,
    OUT action text,
    OUT keyspace text,
    OUT tenant text,
    OUT key_id uuid,
    OUT name text,
    OUT reason text,
    OUT changes jsonb
) RETURNS SETOF record
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'keysmith_revocations_since';
COMMENT ON FUNCTION keysmith.revocations_since(timestamptz) IS
'What was ended or changed since a moment, so that a database restored to it can do it again';

CREATE FUNCTION keysmith.replay_revocations(
    revocations jsonb,
    OUT action text,
    OUT keyspace text,
    OUT tenant text,
    OUT key_id uuid,
    OUT name text,
    OUT outcome text
) RETURNS SETOF record
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_replay_revocations';
COMMENT ON FUNCTION keysmith.replay_revocations(jsonb) IS
'Does again, in a restored database, what revocations_since listed; twice is as once';
