-- Nothing is anyone's until it is granted.

REVOKE ALL ON ALL ROUTINES IN SCHEMA keysmith FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA keysmith FROM PUBLIC;
REVOKE ALL ON SCHEMA keysmith FROM PUBLIC;

-- But everyone may know who they are, and policies, which run with the rights of who
-- asks, may ask it for them.
GRANT USAGE ON SCHEMA keysmith TO PUBLIC;
GRANT EXECUTE ON FUNCTION
    keysmith.current_tenant(),
    keysmith.current_tenant_id(),
    keysmith.current_keyspace(),
    keysmith.current_key(),
    keysmith.current_environment(),
    keysmith.current_owner(),
    keysmith.has_scope(text),
    keysmith.whoami()
TO PUBLIC;
