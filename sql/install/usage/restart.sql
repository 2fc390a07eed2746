-- The lives of the shared memory in which records wait.

-- The database's oid and the server's identifier tell the lives of this database from
-- those that came with a copy or a dump.
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
    standby       text COLLATE "C" NOT NULL DEFAULT '',
    unknown_seen  bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (incarnation, database)
);
COMMENT ON TABLE keysmith_private.usage_incarnation IS 'The lives of the shared memory in which records wait, and what their ends may have cost';
COMMENT ON COLUMN keysmith_private.usage_incarnation.most_waiting IS 'How many records can wait at once';
COMMENT ON COLUMN keysmith_private.usage_incarnation.closed_at IS 'When all was stored, while nothing came since';
COMMENT ON COLUMN keysmith_private.usage_incarnation.lost_at_most IS 'How many records its end may have cost, where it was not a proper one';
COMMENT ON COLUMN keysmith_private.usage_incarnation.standby IS 'The standby whose memory it is; empty for the server''s own';
COMMENT ON COLUMN keysmith_private.usage_incarnation.unknown_seen IS 'How many of a standby''s requests without a known key are counted';
COMMENT ON COLUMN keysmith_private.usage_incarnation.lost_from IS 'Between this moment and lost_until they would have been made';

SELECT pg_catalog.pg_extension_config_dump('keysmith_private.usage_incarnation', '');
