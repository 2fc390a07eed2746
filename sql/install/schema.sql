-- The schemas are members of the extension. If one exists, CREATE EXTENSION fails: another role
-- may own it, or objects in it.
--
-- The schema keysmith has what people and programs call and read. keysmith_private has the tables,
-- and what only our own code uses. Only the owner has USAGE on it. A statement such as PREPARE
-- locks a table before it checks privileges on the table. So other roles must not be able to look
-- its name up, or they could queue for such locks. The result types of functions are there too,
-- since a session that calls a function locks its type, as a reader of a table does. The domains
-- of the same names in keysmith are for variables: a domain is never locked.
CREATE SCHEMA keysmith;
COMMENT ON SCHEMA keysmith IS
'API keys: mint, verify, scope, rotate and revoke them inside the database';

CREATE SCHEMA keysmith_private;
COMMENT ON SCHEMA keysmith_private IS
'Tables, types and functions for the extension''s own code';
