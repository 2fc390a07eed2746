-- The heartbeat of a publisher: its own clock, which subscribers receive like any other row. All
-- that was committed before it has been applied before it.
--
-- It has no row until something is published, so that CREATE EXTENSION on a subscriber makes none
-- that the first copy would collide with. A dump leaves it out: a time is of no use elsewhere.
-- Each beat is a HOT update, and the fillfactor has PostgreSQL prune the page after a few.

CREATE TABLE keysmith_private.heartbeat (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    at  timestamptz NOT NULL
) WITH (fillfactor = 10);
COMMENT ON TABLE keysmith_private.heartbeat IS
'The time of the newest heartbeat of the publisher, for keysmith.max_replica_lag on subscribers';
