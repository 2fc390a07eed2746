-- The heartbeat of a publisher: its own clock, which subscribers receive like any other row. All
-- that was committed before it has been applied before it.
--
-- The row is always there, so that a subscription without a first copy finds it. A dump leaves it
-- out: a time is of no use elsewhere. Each beat is a HOT update, and the fillfactor has PostgreSQL
-- prune the page after a few.

CREATE TABLE keysmith_private.heartbeat (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    at  timestamptz NOT NULL
) WITH (fillfactor = 10);
COMMENT ON TABLE keysmith_private.heartbeat IS
'The time of the newest heartbeat of the publisher, for keysmith.max_replica_lag on subscribers';
INSERT INTO keysmith_private.heartbeat (at) VALUES ('epoch');

CREATE FUNCTION keysmith_private.heartbeat_arrives() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM keysmith_private.heartbeat;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION keysmith_private.heartbeat_arrives() IS
'Trigger: the row of the publisher replaces the one of the subscriber';
CREATE TRIGGER heartbeat_arrives BEFORE INSERT ON keysmith_private.heartbeat
    FOR EACH ROW EXECUTE FUNCTION keysmith_private.heartbeat_arrives();
ALTER TABLE keysmith_private.heartbeat ENABLE REPLICA TRIGGER heartbeat_arrives;
