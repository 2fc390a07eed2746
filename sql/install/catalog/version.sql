-- Backends cache the policy of each keyspace. A trigger invalidates it after each change,
-- whether by our functions, a restore, logical replication or by hand. It also gives the
-- keyspace's row a new version: by that a decision finds the policy that its snapshot sees,
-- even before the invalidation message arrives.

CREATE FUNCTION keysmith_private.policy_changed() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_policy_changed';
COMMENT ON FUNCTION keysmith_private.policy_changed() IS
'Trigger on the policy tables: gives the policy a new version, and makes every backend read it again';

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY '{keyspace,keyspace_prefix,answer,plan_feature,scope,role,route,endpoint}'::text[] LOOP
        EXECUTE pg_catalog.format(
            'CREATE TRIGGER policy_changed AFTER INSERT OR UPDATE OR DELETE ON keysmith_private.%1$I
                 FOR EACH ROW EXECUTE FUNCTION keysmith_private.policy_changed();
             CREATE TRIGGER policy_truncated AFTER TRUNCATE ON keysmith_private.%1$I
                 FOR EACH STATEMENT EXECUTE FUNCTION keysmith_private.policy_changed();
             ALTER TABLE keysmith_private.%1$I ENABLE ALWAYS TRIGGER policy_changed;
             ALTER TABLE keysmith_private.%1$I ENABLE ALWAYS TRIGGER policy_truncated',
            name);
    END LOOP;
END $$;

-- Each backend remembers the keyspaces that a role may decide about. This makes it read the table
-- again. Rows are few, and change seldom.
CREATE FUNCTION keysmith_private.access_changed() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_access_changed';
COMMENT ON FUNCTION keysmith_private.access_changed() IS
'Trigger on the table of access: makes every backend read it again';
CREATE TRIGGER access_changed AFTER INSERT OR UPDATE OR DELETE ON keysmith_private.access
    FOR EACH ROW EXECUTE FUNCTION keysmith_private.access_changed();
CREATE TRIGGER access_truncated AFTER TRUNCATE ON keysmith_private.access
    FOR EACH STATEMENT EXECUTE FUNCTION keysmith_private.access_changed();
ALTER TABLE keysmith_private.access ENABLE ALWAYS TRIGGER access_changed;
ALTER TABLE keysmith_private.access ENABLE ALWAYS TRIGGER access_truncated;
