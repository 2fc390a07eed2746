-- Logical replication: how rows are found on subscribers, and what a subscriber does with them.

-- PostgreSQL refuses to update or delete rows of a published table without a replica identity, or
-- if the publication selects rows by a column outside of it. So the tables that have a keyspace
-- have it in their identity. A table whose rows have no key is small, or empty on subscribers.
ALTER TABLE keysmith_private.tenant REPLICA IDENTITY USING INDEX tenant_tenant_id_keyspace_key;
ALTER TABLE keysmith_private.key REPLICA IDENTITY USING INDEX key_digest_keyspace_key;
ALTER TABLE keysmith_private.access REPLICA IDENTITY FULL;
ALTER TABLE keysmith_private.touch REPLICA IDENTITY FULL;
ALTER TABLE keysmith_private.ledger_difference REPLICA IDENTITY FULL;
ALTER TABLE keysmith_private.usage_delta REPLICA IDENTITY FULL;
ALTER TABLE keysmith_private.usage_unit_delta REPLICA IDENTITY FULL;
ALTER TABLE keysmith_private.usage_tag_delta REPLICA IDENTITY FULL;
ALTER TABLE keysmith_private.usage_unknown_sample REPLICA IDENTITY FULL;
ALTER TABLE keysmith_private.usage_set_aside REPLICA IDENTITY FULL;

-- On a subscriber nobody else may change the rows that come from the publisher: a conflict would
-- stop the subscription, and revocations would stop arriving. These triggers don't fire for the
-- subscription itself.
CREATE FUNCTION keysmith_private.refuse_on_subscriber() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_refuse_on_subscriber';
COMMENT ON FUNCTION keysmith_private.refuse_on_subscriber() IS
'Trigger: refuses changes of a table that a subscription has; an argument names another table to look at';

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY '{keyspace,keyspace_prefix,answer,plan_feature,scope,role,route,endpoint,tenant,member,key,key_notice,
                            credit,charge,credit_event,access,audit_entry,audit_content}'::text[] LOOP
        -- Credits are spent where the keys are, also if they are not published.
        EXECUTE pg_catalog.format(
            'CREATE TRIGGER refuse_on_subscriber BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON keysmith_private.%I
                 FOR EACH STATEMENT EXECUTE FUNCTION keysmith_private.refuse_on_subscriber(%s)',
            name, CASE name WHEN 'credit' THEN '''key''' END);
    END LOOP;
END $$;

-- Records of requests stay on the publisher: totals without their rows would be of no use, and a
-- subscriber may have its own.
CREATE FUNCTION keysmith_private.keep_on_publisher() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- A subscription may have the partitioned table instead of its partitions.
    IF EXISTS (SELECT FROM pg_subscription_rel
               WHERE srrelid IN (TG_RELID, 'keysmith_private.usage_event'::regclass)) THEN
        RETURN NULL;
    END IF;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION keysmith_private.keep_on_publisher() IS 'Trigger: leaves out rows that a subscription brings';

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY '{usage_event,usage_delta,usage_unit,usage_unit_delta,usage_tag,usage_tag_delta,usage_sum,usage_hour,usage_day,
                            usage_endpoint_day,usage_last,usage_mark,usage_unknown,usage_unknown_sample,usage_set_aside,touch,
                            ledger,ledger_difference,ledger_block,ledger_range}'::text[] LOOP
        EXECUTE pg_catalog.format(
            'CREATE TRIGGER arrives BEFORE INSERT ON keysmith_private.%1$I
                 FOR EACH ROW EXECUTE FUNCTION keysmith_private.keep_on_publisher();
             ALTER TABLE keysmith_private.%1$I ENABLE REPLICA TRIGGER arrives', name);
    END LOOP;
END $$;

-- A row about the same memory may be here, from before the subscription.
CREATE FUNCTION keysmith_private.usage_incarnation_arrives() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM keysmith_private.usage_incarnation u
    WHERE (u.incarnation, u.database) = (NEW.incarnation, NEW.database);
    RETURN NEW;
END $$;
COMMENT ON FUNCTION keysmith_private.usage_incarnation_arrives() IS 'Trigger: a row of the publisher replaces one of the subscriber';
CREATE TRIGGER arrives BEFORE INSERT ON keysmith_private.usage_incarnation
    FOR EACH ROW EXECUTE FUNCTION keysmith_private.usage_incarnation_arrives();
ALTER TABLE keysmith_private.usage_incarnation ENABLE REPLICA TRIGGER arrives;

CREATE FUNCTION keysmith_private.usage_partition_arrives() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF to_regclass(format('keysmith_private.%I', NEW.name)) IS NULL THEN
        PERFORM keysmith_private.usage_make(NEW.name, NEW.day);
    END IF;
    DELETE FROM keysmith_private.usage_partition u WHERE u.name = NEW.name;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION keysmith_private.usage_partition_arrives() IS 'Trigger: makes a partition that the publisher has made';
CREATE TRIGGER arrives BEFORE INSERT ON keysmith_private.usage_partition
    FOR EACH ROW EXECUTE FUNCTION keysmith_private.usage_partition_arrives();
ALTER TABLE keysmith_private.usage_partition ENABLE REPLICA TRIGGER arrives;
