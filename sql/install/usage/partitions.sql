-- Partitions of the table of requests, made ahead.

CREATE FUNCTION keysmith_private.usage_partitions(
    OUT partition regclass, OUT name text, OUT starts timestamptz, OUT ends timestamptz
) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO' AS $$
    SELECT c.oid, c.relname, bounds[1]::timestamptz, bounds[2]::timestamptz
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid,
         LATERAL regexp_match(pg_get_expr(c.relpartbound, c.oid),
                              '^FOR VALUES FROM [(]''([^'']+)''[)] TO [(]''([^'']+)''[)]$') AS bounds
    WHERE i.inhparent = 'keysmith_private.usage_event'::regclass AND bounds IS NOT NULL
$$;
COMMENT ON FUNCTION keysmith_private.usage_partitions() IS 'The partitions of requests, and the times of their rows';

CREATE FUNCTION keysmith_private.usage_has_partition(at timestamptz) RETURNS boolean
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'keysmith_usage_has_partition';
COMMENT ON FUNCTION keysmith_private.usage_has_partition(timestamptz) IS
'Whether there is a partition for requests of a time, whatever the snapshot of the transaction';

-- There is no default partition: to attach another day would lock it, and so
-- wait for all readers. A partition that is missing is made by who needs it.
CREATE FUNCTION keysmith_private.usage_prepare(first_day date DEFAULT NULL, last_day date DEFAULT NULL)
RETURNS integer
-- The settings by which a session has its own tables made, or times shown, do not count here.
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET default_tablespace = '' SET default_table_access_method = 'heap'
SET datestyle = 'ISO' SET timezone = 'UTC' AS $$
DECLARE
    today   constant date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
    parent  constant text := 'keysmith_private.usage_event';
    starts  timestamptz;
    ends    timestamptz;
    name    text;
    grantee oid;
    made    integer := 0;
BEGIN
    first_day := coalesce(first_day, today - 1);
    last_day := coalesce(last_day, today + 3);
    IF NOT isfinite(first_day) OR NOT isfinite(last_day) OR last_day - first_day NOT BETWEEN 0 AND 1000 THEN
        RAISE EXCEPTION 'last_day must be at most 1000 days after first_day, and not before it'
            USING ERRCODE = 'KS400';
    END IF;
    FOR n IN 0 .. last_day - first_day LOOP
        starts := (first_day + n)::timestamp AT TIME ZONE 'UTC';
        ends := (first_day + n + 1)::timestamp AT TIME ZONE 'UTC';
        CONTINUE WHEN keysmith_private.usage_has_partition(starts);
        -- Who comes second waits here, and then looks again. Readers and writers go on.
        LOCK TABLE ONLY keysmith_private.usage_event IN SHARE UPDATE EXCLUSIVE MODE;
        CONTINUE WHEN keysmith_private.usage_has_partition(starts);
        name := 'usage_' || to_char(first_day + n, 'YYYYMMDD');
        WHILE to_regclass(format('keysmith_private.%I', name)) IS NOT NULL LOOP
            -- Someone keeps a table of that name, such as one that was detached.
            name := name || '_';
        END LOOP;
        EXECUTE format('CREATE TABLE keysmith_private.%I (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS)',
                       name, parent);
        EXECUTE format('COMMENT ON TABLE keysmith_private.%I IS %L', name,
                       'Requests of ' || to_char(first_day + n, 'YYYY-MM-DD') || ' (UTC)');
        -- Default privileges are for tables that someone makes to be read.
        FOR grantee IN
            SELECT DISTINCT a.grantee FROM pg_catalog.pg_class c, aclexplode(c.relacl) AS a
            WHERE c.oid = to_regclass(format('keysmith_private.%I', name)) AND a.grantee <> c.relowner
        LOOP
            EXECUTE format('REVOKE ALL ON keysmith_private.%I FROM %s', name,
                           CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END);
        END LOOP;
        -- Each index costs the worker as much as the row itself. Request ids come nearly in
        -- order, which is cheap, and are what no two rows have in common. Rows of a
        -- key or tenant never have all columns in common: there is nothing to deduplicate.
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
             CREATE INDEX %3$I ON keysmith_private.%1$I (key_id, at, incarnation, sequence)
                 WITH (deduplicate_items = off);
             CREATE INDEX %4$I ON keysmith_private.%1$I (tenant_id, at, incarnation, sequence)
                 WITH (deduplicate_items = off);
             ALTER TABLE %5$s ATTACH PARTITION keysmith_private.%1$I FOR VALUES FROM (%6$L) TO (%7$L)',
            name, name || '_request', name || '_of_key', name || '_of_tenant', parent, starts, ends);
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;
COMMENT ON FUNCTION keysmith_private.usage_prepare(date, date) IS
'Makes the partitions that requests of these days need, and tells how many it made';
