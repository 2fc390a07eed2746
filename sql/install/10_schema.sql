-- The schema is a member of the extension, so one that someone else made (and
-- may own objects in) is never taken over: creation fails if it exists.
CREATE SCHEMA keysmith;
COMMENT ON SCHEMA keysmith IS
'API keys: mint, verify, scope, rotate and revoke them inside the database';
