-- One row a request of a known key, kept by day. The parent has no key and no index: a
-- dump leaves out what an extension's table has, and could not attach partitions to it.

CREATE TABLE keysmith.usage_event (
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
    latency     interval
) PARTITION BY RANGE (at);
COMMENT ON TABLE keysmith.usage_event IS 'Requests of known keys, one row each, a partition a day';

DO $$
BEGIN
    PERFORM pg_catalog.pg_extension_config_dump('keysmith.usage_event', '');
END $$;
