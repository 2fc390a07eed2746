-- The partitions of usage_event, which are made in advance.

CREATE FUNCTION keysmith_private.usage_partitions(
    OUT partition regclass, OUT name text, OUT starts timestamptz, OUT ends timestamptz
) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO' AS $$
    SELECT c.oid, c.relname, bounds[1]::timestamptz, bounds[2]::timestamptz
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid,
         -- Bounds have no columns. PostgreSQL would open the table whose OID it is given, and wait
         -- for whoever has locked it.
         LATERAL regexp_match(pg_get_expr(c.relpartbound, 0),
                              '^FOR VALUES FROM [(]''([^'']+)''[)] TO [(]''([^'']+)''[)]$') AS bounds
    WHERE i.inhparent = 'keysmith_private.usage_event'::regclass AND bounds IS NOT NULL
$$;
COMMENT ON FUNCTION keysmith_private.usage_partitions() IS 'The partitions of usage_event, with their bounds';

CREATE FUNCTION keysmith_private.usage_has_partition(at timestamptz) RETURNS boolean
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'keysmith_usage_has_partition';
COMMENT ON FUNCTION keysmith_private.usage_has_partition(timestamptz) IS
'Whether a partition for a time exists, as last committed';

-- The publisher of a logical subscriber makes partitions by itself, and a subscriber without the
-- table of a row stops. So each partition has a row here, written in the transaction that makes
-- it: when the row arrives at a subscriber, the table is made there. See catalog/subscription.sql.
CREATE TABLE keysmith_private.usage_partition (
    name text COLLATE "C" PRIMARY KEY,
    day  date NOT NULL
);
COMMENT ON TABLE keysmith_private.usage_partition IS 'The partitions of usage_event that were made, for subscribers';
SELECT pg_catalog.pg_extension_config_dump('keysmith_private.usage_partition', '');

CREATE FUNCTION keysmith_private.is_subscribed(relation regclass) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM pg_subscription_rel WHERE srrelid = relation)
$$;
COMMENT ON FUNCTION keysmith_private.is_subscribed(regclass) IS 'Whether a subscription of this database has a table';

CREATE FUNCTION keysmith_private.usage_make(name text, day date) RETURNS void
-- Settings of the session for new tables and for the output of times must not apply here.
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET default_tablespace = '' SET default_table_access_method = 'heap'
SET datestyle = 'ISO' SET timezone = 'UTC' AS $$
DECLARE
    parent  constant text := 'keysmith_private.usage_event';
    starts  constant timestamptz := day::timestamp AT TIME ZONE 'UTC';
    grantee oid;
BEGIN
    EXECUTE format('CREATE TABLE keysmith_private.%I (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS)',
                   name, parent);
    EXECUTE format('COMMENT ON TABLE keysmith_private.%I IS %L', name,
                   'Requests of ' || to_char(day, 'YYYY-MM-DD') || ' (UTC)');
    -- Default privileges of the owner are meant for other tables.
    FOR grantee IN
        SELECT DISTINCT a.grantee FROM pg_catalog.pg_class c, aclexplode(c.relacl) AS a
        WHERE c.oid = to_regclass(format('keysmith_private.%I', name)) AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('REVOKE ALL ON keysmith_private.%I FROM %s', name,
                       CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END);
    END LOOP;
    -- Each index costs the worker as much as the row itself. The index on request_id is unique,
    -- and cheap, since request ids come nearly in order. The other two leave out incarnation and
    -- sequence, by which pages order rows of the same time: entries are a third smaller, and hardly
    -- any are equal, so there is nothing to deduplicate.
    EXECUTE format(
        'CREATE TRIGGER usage_inserted AFTER INSERT ON keysmith_private.%1$I
             REFERENCING NEW TABLE AS new_rows
             FOR EACH STATEMENT EXECUTE FUNCTION keysmith_private.usage_counted();
         CREATE TRIGGER usage_updated AFTER UPDATE ON keysmith_private.%1$I
             REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
             FOR EACH STATEMENT EXECUTE FUNCTION keysmith_private.usage_counted();
         CREATE TRIGGER usage_deleted AFTER DELETE ON keysmith_private.%1$I
             REFERENCING OLD TABLE AS old_rows
             FOR EACH STATEMENT EXECUTE FUNCTION keysmith_private.usage_counted();
         CREATE UNIQUE INDEX %2$I ON keysmith_private.%1$I (request_id);
         CREATE INDEX %3$I ON keysmith_private.%1$I (key_id, at)
             WITH (deduplicate_items = off);
         CREATE INDEX %4$I ON keysmith_private.%1$I (tenant_id, at)
             WITH (deduplicate_items = off);
         ALTER TABLE keysmith_private.%1$I REPLICA IDENTITY USING INDEX %2$I',
        name, name || '_request', name || '_of_key', name || '_of_tenant');
    -- A subscriber may have made the partition of that day under another name.
    IF NOT keysmith_private.usage_has_partition(starts) THEN
        EXECUTE format('ALTER TABLE %s ATTACH PARTITION keysmith_private.%I FOR VALUES FROM (%L) TO (%L)',
                       parent, name, starts, (day + 1)::timestamp AT TIME ZONE 'UTC');
    END IF;
END $$;
COMMENT ON FUNCTION keysmith_private.usage_make(text, date) IS 'Makes a table for the requests of a day, which becomes the partition of that day unless there is another';

-- There is no default partition: attaching another day would lock it, and so wait for all
-- readers. A session that needs a missing partition makes it.
CREATE FUNCTION keysmith_private.usage_prepare(first_day date DEFAULT NULL, last_day date DEFAULT NULL)
RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today  constant date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
    starts timestamptz;
    name   text;
    made   integer := 0;
BEGIN
    first_day := coalesce(first_day, today - 1);
    last_day := coalesce(last_day, today + 3);
    IF NOT isfinite(first_day) OR NOT isfinite(last_day) OR last_day - first_day NOT BETWEEN 0 AND 1000 THEN
        RAISE EXCEPTION 'last_day must be at most 1000 days after first_day, and not before it'
            USING ERRCODE = 'KS400';
    END IF;
    FOR n IN 0 .. last_day - first_day LOOP
        starts := (first_day + n)::timestamp AT TIME ZONE 'UTC';
        CONTINUE WHEN keysmith_private.usage_has_partition(starts);
        -- A second session waits here, and then checks again. Readers and writers do not wait.
        LOCK TABLE ONLY keysmith_private.usage_event IN SHARE UPDATE EXCLUSIVE MODE;
        CONTINUE WHEN keysmith_private.usage_has_partition(starts);
        name := 'usage_' || to_char(first_day + n, 'YYYYMMDD');
        WHILE to_regclass(format('keysmith_private.%I', name)) IS NOT NULL LOOP
            -- A table of that name exists, such as a detached partition.
            name := name || '_';
        END LOOP;
        PERFORM keysmith_private.usage_make(name, first_day + n);
        IF NOT keysmith_private.is_subscribed('keysmith_private.usage_partition') THEN
            INSERT INTO keysmith_private.usage_partition AS p VALUES (name, first_day + n)
            ON CONFLICT ON CONSTRAINT usage_partition_pkey DO UPDATE SET day = excluded.day;
        END IF;
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;
COMMENT ON FUNCTION keysmith_private.usage_prepare(date, date) IS
'Makes the missing partitions of these days, and returns their number';
