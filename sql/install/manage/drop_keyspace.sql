-- Dropping a keyspace.

CREATE FUNCTION keysmith.drop_keyspace(keyspace text, cascade boolean DEFAULT false) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_drop_keyspace';
COMMENT ON FUNCTION keysmith.drop_keyspace(text, boolean) IS
'Removes a keyspace with all that belongs to it; keys that have not ended need cascade';

CREATE FUNCTION keysmith_private.drop_usage(tenants uuid[], keys uuid[]) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM keysmith_private.usage_event WHERE tenant_id = ANY (tenants);
    -- Deleting the rows has written deltas, too.
    DELETE FROM keysmith_private.usage_delta WHERE tenant_id = ANY (tenants);
    DELETE FROM keysmith_private.usage_unit_delta WHERE tenant_id = ANY (tenants);
    DELETE FROM keysmith_private.usage_unit WHERE tenant_id = ANY (tenants);
    DELETE FROM keysmith_private.usage_tag_delta WHERE tenant_id = ANY (tenants);
    DELETE FROM keysmith_private.usage_tag WHERE tenant_id = ANY (tenants);
    DELETE FROM keysmith_private.usage_hour WHERE tenant_id = ANY (tenants);
    DELETE FROM keysmith_private.usage_day WHERE tenant_id = ANY (tenants);
    DELETE FROM keysmith_private.usage_endpoint_day WHERE tenant_id = ANY (tenants);
    DELETE FROM keysmith_private.usage_mark WHERE holder = ANY (tenants || keys);
    DELETE FROM keysmith_private.usage_last WHERE key_id = ANY (keys);
    DELETE FROM keysmith_private.usage_set_aside WHERE key_id = ANY (keys);
    DELETE FROM keysmith_private.touch WHERE tenant_id = ANY (tenants);
$$;
COMMENT ON FUNCTION keysmith_private.drop_usage(uuid[], uuid[]) IS
'Deletes all records of the requests of tenants and their keys';

-- Most usage goes before others have to wait. Then the locks wait for transactions that record usage,
-- and what they recorded goes, too. From then on their tenants are gone.
CREATE FUNCTION keysmith_private.drop_all(keyspace text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    within  constant text := keyspace;
    tenants constant uuid[] := ARRAY(SELECT tenant_id FROM keysmith_private.tenant WHERE keyspace = within);
    keys    constant uuid[] := ARRAY(SELECT key_id FROM keysmith_private.key WHERE keyspace = within);
    part    text;
BEGIN
    DELETE FROM keysmith_private.credit WHERE tenant_id = ANY (tenants) OR key_id = ANY (keys);
    DELETE FROM keysmith_private.charge WHERE tenant_id = ANY (tenants);
    DELETE FROM keysmith_private.credit_event WHERE tenant_id = ANY (tenants);
    FOREACH part IN ARRAY '{key,member,tenant,endpoint,route,role,scope,plan_feature,answer,keyspace_prefix,
                            keyspace,usage_sum,usage_unknown,usage_unknown_sample}'::text[] LOOP
        EXECUTE format('DELETE FROM keysmith_private.%I WHERE keyspace = $1', part) USING within;
    END LOOP;
    PERFORM keysmith_private.usage_fold_lock(true);
    PERFORM keysmith_private.drop_usage(tenants, keys);
    LOCK TABLE keysmith_private.usage_event, keysmith_private.touch IN SHARE ROW EXCLUSIVE MODE;
    PERFORM keysmith_private.drop_usage(tenants, keys);
END $$;
COMMENT ON FUNCTION keysmith_private.drop_all(text) IS
'Deletes the rows of a keyspace in every table, except its audit';
