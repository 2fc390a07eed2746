-- The schemas are members of the extension, so ones that someone else made (and may own
-- objects in) are never taken over: creation fails if they exist.
--
-- keysmith holds what people and programs call and read. keysmith_private holds the tables
-- and what only our own code uses. Nobody but the owner has USAGE on it: a statement such as
-- PREPARE locks a table before it checks any privilege on the table, and only a name that
-- cannot be looked up keeps strangers from queueing for such locks. The types of what
-- functions return are there too: a session that calls one first locks its type, as a reader
-- of a table does. The domains of the same names in keysmith are for variables: nothing locks
-- a domain.
CREATE SCHEMA keysmith;
COMMENT ON SCHEMA keysmith IS
'API keys: mint, verify, scope, rotate and revoke them inside the database';

CREATE SCHEMA keysmith_private;
COMMENT ON SCHEMA keysmith_private IS
'Tables, types and functions that only the extension''s own code names';
