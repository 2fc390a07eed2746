-- Partitions of usage_event, made ahead of their days and dropped after their time.

CREATE FUNCTION keysmith.usage_prepare() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today date := (pg_catalog.now() AT TIME ZONE 'UTC')::date;
    day   date;
    name  text;
BEGIN
    IF pg_catalog.to_regclass('keysmith.usage_default') IS NOT NULL
       AND pg_catalog.to_regclass('keysmith.usage_' || pg_catalog.to_char(today + 1, 'YYYYMMDD')) IS NOT NULL THEN
        RETURN;
    END IF;
    PERFORM pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('keysmith.usage_event'));
    IF pg_catalog.to_regclass('keysmith.usage_default') IS NULL THEN
        CREATE TABLE keysmith.usage_default PARTITION OF keysmith.usage_event DEFAULT;
        CREATE INDEX ON keysmith.usage_default (request_id);
    END IF;
    FOR day IN SELECT today + n FROM pg_catalog.generate_series(-1, 3) AS n LOOP
        name := 'usage_' || pg_catalog.to_char(day, 'YYYYMMDD');
        CONTINUE WHEN pg_catalog.to_regclass('keysmith.' || name) IS NOT NULL;
        EXECUTE pg_catalog.format(
            'CREATE TABLE keysmith.%I PARTITION OF keysmith.usage_event FOR VALUES FROM (%L) TO (%L)',
            name, day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
        EXECUTE pg_catalog.format('CREATE INDEX ON keysmith.%I (request_id)', name);
    END LOOP;
END $$;
COMMENT ON FUNCTION keysmith.usage_prepare() IS
'Makes the partitions of usage records for the days around today';

CREATE FUNCTION keysmith.maintain() RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM keysmith.usage_prepare();
    RETURN 'partitions are there';
END $$;
COMMENT ON FUNCTION keysmith.maintain() IS
'Does what the tables of usage need from time to time';
