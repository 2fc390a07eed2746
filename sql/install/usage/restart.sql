-- The incarnations of the shared memory in which records wait for the worker.

-- The OID of the database and the system identifier of the server tell the incarnations of this
-- database from those that a dump brought.
CREATE TABLE keysmith_private.usage_incarnation (
    incarnation   bigint NOT NULL,
    database      oid NOT NULL,
    server        bigint NOT NULL,
    started_at    timestamptz NOT NULL,
    most_waiting  bigint NOT NULL,
    last_sequence bigint NOT NULL DEFAULT 0,
    stored        bigint NOT NULL DEFAULT 0,
    dropped       bigint NOT NULL DEFAULT 0,
    last_flush_at timestamptz,
    closed_at     timestamptz,
    lost_at_most  bigint,
    lost_from     timestamptz,
    lost_until    timestamptz,
    node          text COLLATE "C" NOT NULL DEFAULT '',
    node_name     text NOT NULL DEFAULT '',
    primary_since timestamptz,
    timeline      bigint,
    unknown_seen  bigint NOT NULL DEFAULT 0,
    dropped_at    timestamptz,
    PRIMARY KEY (incarnation, database)
);
COMMENT ON TABLE keysmith_private.usage_incarnation IS 'The incarnations of the shared memory in which records wait, and the records that may have been lost with each';
COMMENT ON COLUMN keysmith_private.usage_incarnation.most_waiting IS 'The number of records that can wait at the same time';
COMMENT ON COLUMN keysmith_private.usage_incarnation.closed_at IS 'The time when all was stored, if no record came since';
COMMENT ON COLUMN keysmith_private.usage_incarnation.lost_at_most IS 'The number of records that a crash may have lost';
COMMENT ON COLUMN keysmith_private.usage_incarnation.node IS 'The identity of the server, which no other server has';
COMMENT ON COLUMN keysmith_private.usage_incarnation.node_name IS 'The name of the server, for display';
COMMENT ON COLUMN keysmith_private.usage_incarnation.primary_since IS 'The time from which on the server was the primary; null if it was a standby all the time';
COMMENT ON COLUMN keysmith_private.usage_incarnation.timeline IS 'The timeline on which it was the primary';
COMMENT ON COLUMN keysmith_private.usage_incarnation.unknown_seen IS 'The number of the standby''s requests without a known key that are counted';
COMMENT ON COLUMN keysmith_private.usage_incarnation.dropped_at IS 'The time when it was last noted that records were dropped';
COMMENT ON COLUMN keysmith_private.usage_incarnation.lost_from IS 'The lost records were made between this time and lost_until';

SELECT pg_catalog.pg_extension_config_dump('keysmith_private.usage_incarnation', '');
