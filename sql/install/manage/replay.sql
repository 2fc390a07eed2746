-- Waiting for standbys.

CREATE FUNCTION keysmith.wait_for_replay(timeout interval DEFAULT '10 seconds') RETURNS integer
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_wait_for_replay';
COMMENT ON FUNCTION keysmith.wait_for_replay(interval) IS
'Waits until all attached standbys have replayed all commits; returns their number';
