-- Usage: a row for each request of a known key, and counts and samples of the others. The
-- library writes these; see src/usage/store/.

-- Partitioned by day. Partitions are made at run time, each with its own indexes. The parent
-- has no key and no index: it belongs to the extension, and a dump could not be restored.
CREATE TABLE keysmith_private.usage_event (
    at          timestamptz NOT NULL,
    incarnation bigint NOT NULL,
    sequence    bigint NOT NULL,
    request_id  uuid NOT NULL,
    key_id      uuid NOT NULL,
    tenant_id   uuid NOT NULL,
    keyspace    text COLLATE "C" NOT NULL,
    environment text COLLATE "C" NOT NULL,
    method      text COLLATE "C",
    endpoint    text,
    status      integer NOT NULL,
    outcome     text COLLATE "C" NOT NULL,
    ip          inet,
    latency     interval,
    member      text COLLATE "C",
    signed_in_by text COLLATE "C",
    spend       bigint,
    weights     jsonb,
    subject     text COLLATE "C",
    tags        jsonb
) PARTITION BY RANGE (at);
COMMENT ON TABLE keysmith_private.usage_event IS 'The requests of known keys, refused requests included, and of persons whom act_as signed in';
COMMENT ON COLUMN keysmith_private.usage_event.key_id IS 'The key; the nil id for a person';
COMMENT ON COLUMN keysmith_private.usage_event.environment IS 'The environment of the key; empty for a person';
COMMENT ON COLUMN keysmith_private.usage_event.member IS 'The person: a member of the tenant, or empty for the tenant as a whole; null for a key';
COMMENT ON COLUMN keysmith_private.usage_event.signed_in_by IS 'The role that signed the person in';
COMMENT ON COLUMN keysmith_private.usage_event.spend IS 'The credits that the request cost; null if it cost none';
COMMENT ON COLUMN keysmith_private.usage_event.weights IS 'What the request counts for, by unit; null for one call';
COMMENT ON COLUMN keysmith_private.usage_event.subject IS 'The user of the application';
COMMENT ON COLUMN keysmith_private.usage_event.tags IS 'The tags that log_request gave';
COMMENT ON COLUMN keysmith_private.usage_event.incarnation IS 'The life of the shared memory in which the record waited; 0 for rows that transactions wrote themselves';
COMMENT ON COLUMN keysmith_private.usage_event.sequence IS 'The number of the record in that life; the two are unique together';
COMMENT ON COLUMN keysmith_private.usage_event.status IS 'The HTTP status of the verdict, or the one that log_request gave';
COMMENT ON COLUMN keysmith_private.usage_event.outcome IS 'The reason of the verdict; ok for an accepted request';

-- As the library merges those of a record that waits: see core/src/lists.rs.
CREATE FUNCTION keysmith_private.merged_units(list jsonb, replacing jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT replacing || coalesce(jsonb_object_agg(key, value), '{}')
    FROM (SELECT key, value FROM jsonb_each(list) WHERE NOT replacing ? key
          ORDER BY length(key), key COLLATE "C"
          LIMIT greatest(9 - (SELECT count(*) FROM jsonb_object_keys(replacing)), 0)) AS kept
$$;
COMMENT ON FUNCTION keysmith_private.merged_units(jsonb, jsonb) IS
'Weights, with others in place of those of the same units; the first nine units are kept';

CREATE SEQUENCE keysmith_private.usage_sequence;
COMMENT ON SEQUENCE keysmith_private.usage_sequence IS 'Numbers of the rows that transactions write themselves';

CREATE TABLE keysmith_private.usage_unknown (
    keyspace text COLLATE "C" NOT NULL,
    reason   text COLLATE "C" NOT NULL,
    hour     timestamptz NOT NULL,
    requests bigint NOT NULL,
    -- Each life has its own rows, so that their writers do not wait for each other.
    incarnation bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (keyspace, reason, hour, incarnation)
);
COMMENT ON TABLE keysmith_private.usage_unknown IS 'The number of requests without a known key, by hour';
COMMENT ON COLUMN keysmith_private.usage_unknown.keyspace IS 'Empty for keyspaces that do not exist';
COMMENT ON COLUMN keysmith_private.usage_unknown.incarnation IS 'The life of the shared memory in which they came';

CREATE TABLE keysmith_private.usage_unknown_sample (
    at       timestamptz NOT NULL,
    keyspace text COLLATE "C" NOT NULL,
    reason   text COLLATE "C" NOT NULL,
    method   text COLLATE "C",
    endpoint text,
    ip       inet
);
CREATE INDEX usage_unknown_sample_at ON keysmith_private.usage_unknown_sample (at);
COMMENT ON TABLE keysmith_private.usage_unknown_sample IS 'The newest thousand samples of requests without a known key, at most one per second';

CREATE TABLE keysmith_private.usage_set_aside (
    set_aside_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    incarnation  bigint NOT NULL,
    sequence     bigint NOT NULL,
    at           timestamptz,
    request_id   uuid NOT NULL,
    key_id       uuid,
    error        text NOT NULL
);
CREATE INDEX usage_set_aside_at ON keysmith_private.usage_set_aside (set_aside_at);
COMMENT ON TABLE keysmith_private.usage_set_aside IS 'The newest thousand records that could not be stored, and why';

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY '{usage_sequence,usage_unknown,usage_unknown_sample,usage_set_aside}'::text[] LOOP
        PERFORM pg_catalog.pg_extension_config_dump(('keysmith_private.' || name)::pg_catalog.regclass, '');
    END LOOP;
END $$;
