-- Backends remember each keyspace's policy. Whoever changes it, by whatever path
-- (these functions, a restore, logical replication, a hand edit), tells them so, and gives
-- the keyspace's row a new version: by that a decision knows the policy that its snapshot
-- sees, also while the message is still on its way.

CREATE FUNCTION keysmith_private.policy_changed() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_policy_changed';
COMMENT ON FUNCTION keysmith_private.policy_changed() IS
'Trigger on the policy tables: gives the policy a new version, and has every backend read it again';

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY '{keyspace,keyspace_prefix,answer,plan_feature,scope,role,route}'::text[] LOOP
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
