-- Retention, and maintain(), which does all that is to be done from time to time.

CREATE FUNCTION keysmith_private.usage_kept_from() RETURNS timestamptz
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_usage_kept_from';
COMMENT ON FUNCTION keysmith_private.usage_kept_from() IS
'The time from which on keysmith.usage_retention keeps records; -infinity if it keeps all';

CREATE FUNCTION keysmith_private.usage_mark_gone(since timestamptz, until timestamptz) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    days  bigint;
    hours bigint;
BEGIN
    UPDATE keysmith_private.usage_day SET gone = requests
    WHERE period >= since AND period < until AND gone <> requests;
    GET DIAGNOSTICS days = ROW_COUNT;
    UPDATE keysmith_private.usage_hour SET gone = requests
    WHERE period >= since AND period < until AND gone <> requests;
    GET DIAGNOSTICS hours = ROW_COUNT;
    DELETE FROM keysmith_private.usage_mark WHERE period >= since AND period < until;
    RETURN days + hours;
END $$;
COMMENT ON FUNCTION keysmith_private.usage_mark_gone(timestamptz, timestamptz) IS
'Marks totals whose rows are dropped, and returns the number of totals';

CREATE FUNCTION keysmith_private.usage_dependents(partition regclass) RETURNS SETOF text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid)
    FROM pg_class c
    JOIN pg_type t ON t.oid = c.reltype
    JOIN pg_depend d ON d.deptype = 'n'
     AND (d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
          OR d.refclassid = 'pg_type'::regclass AND d.refobjid IN (t.oid, t.typarray))
    WHERE c.oid = partition
$$;
COMMENT ON FUNCTION keysmith_private.usage_dependents(regclass) IS
'The objects that keep a partition from being dropped, such as a view';

CREATE FUNCTION keysmith_private.usage_drop_old(oldest timestamptz) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- The number of totals that may be changed while readers wait for the next drop.
    most_marked constant bigint := 10000;
    is_subscriber constant boolean := keysmith_private.is_subscribed('keysmith_private.usage_partition');
    part      record;
    left_over timestamptz;
    dropped   integer := 0;
    marked    bigint := 0;
    is_stuck  boolean := false;
    has_rows  boolean;
    others    text[] := '{}';
BEGIN
    IF NOT keysmith_private.usage_fold_lock() THEN
        RAISE lock_not_available;
    END IF;
    -- Days whose partition was dropped or detached by hand.
    FOR left_over IN
        WITH RECURSIVE days AS (
            SELECT min(period) AS period FROM keysmith_private.usage_day WHERE requests > gone
            UNION ALL
            SELECT (SELECT min(d.period) FROM keysmith_private.usage_day d
                    WHERE d.requests > d.gone AND d.period > l.period)
            FROM days l WHERE l.period IS NOT NULL
        )
        SELECT d.period FROM days d
        WHERE isfinite(d.period)
          AND NOT EXISTS (SELECT FROM keysmith_private.usage_partitions() p
                          WHERE p.starts <= d.period AND p.ends > d.period)
          AND NOT EXISTS (SELECT FROM keysmith_private.usage_event e
                          WHERE e.at >= d.period AND e.at < d.period + interval '24 hours')
          AND NOT EXISTS (SELECT FROM keysmith_private.usage_delta c
                          WHERE c.period >= d.period AND c.period < d.period + interval '24 hours')
    LOOP
        PERFORM keysmith_private.usage_mark_gone(left_over, left_over + interval '24 hours');
    END LOOP;

    FOR part IN
        SELECT p.partition, p.name, p.starts, p.ends,
               EXISTS (SELECT FROM keysmith_private.usage_dependents(p.partition)) AS is_needed
        FROM keysmith_private.usage_partitions() p
        WHERE p.ends <= oldest
          -- A subscriber keeps the tables that its publisher may still name.
          AND NOT (is_subscriber AND EXISTS (SELECT FROM keysmith_private.usage_partition u WHERE u.name = p.name))
        ORDER BY p.starts
    LOOP
        IF part.is_needed THEN
            EXECUTE format('SELECT EXISTS (SELECT FROM ONLY %s)', part.partition) INTO has_rows;
            IF NOT has_rows THEN
                others := others || format('%s kept empty', part.name);
                CONTINUE;
            END IF;
        ELSIF is_stuck OR marked > most_marked THEN
            others := others || format('%s busy, to be tried again', part.name);
            CONTINUE;
        END IF;
        BEGIN
            -- Readers do not wait. Rows are not amended from here on.
            EXECUTE format('LOCK TABLE ONLY %s IN SHARE ROW EXCLUSIVE MODE', part.partition);
            PERFORM keysmith_private.usage_fold();
            marked := marked + keysmith_private.usage_mark_gone(part.starts, part.ends);
            -- All sessions queue behind the next locks. So it waits for them only briefly.
            PERFORM set_config('lock_timeout', '50ms', true);
            IF part.is_needed THEN
                EXECUTE format('TRUNCATE ONLY %s', part.partition);
                others := others || format('%s emptied', part.name);
            ELSE
                is_stuck := true;
                LOCK TABLE ONLY keysmith_private.usage_event IN ACCESS EXCLUSIVE MODE;
                is_stuck := false;
                EXECUTE format('DROP TABLE %s', part.partition);
                DELETE FROM keysmith_private.usage_partition u WHERE u.name = part.name;
                dropped := dropped + 1;
                RAISE NOTICE 'dropped %', part.name;
            END IF;
        EXCEPTION
            WHEN lock_not_available OR deadlock_detected THEN
                others := others || format('%s busy, to be tried again', part.name);
            WHEN OTHERS THEN
                others := others || format('%s failed: %s', part.name, SQLERRM);
                RAISE WARNING 'keysmith: % can''t be dropped: %', part.name, SQLERRM;
        END;
    END LOOP;
    RETURN array_to_string(format('%s partitions dropped', dropped) || others, ', ');
END $$;
COMMENT ON FUNCTION keysmith_private.usage_drop_old(timestamptz) IS
'Drops the partitions that end at a time or before; a partition on which objects depend is emptied';

CREATE FUNCTION keysmith.maintain(OUT task text, OUT outcome text) RETURNS SETOF record
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms'
SET jit = off AS $$
DECLARE
    later     constant text := 'busy, to be tried again';
    oldest    constant timestamptz := keysmith_private.usage_kept_from();
    forgotten bigint;
BEGIN
    -- If a task fails, the others are done all the same. Dropping comes last: it locks usage_event
    -- until the commit.
    FOREACH task IN ARRAY '{partitions,totals,touches,requests without a known key,idle keys,key ends,credit events,ledgers,charges,retention}'::text[] LOOP
        BEGIN
            CASE task
                WHEN 'partitions' THEN
                    outcome := keysmith_private.usage_prepare() || ' made';
                WHEN 'totals' THEN
                    outcome := coalesce(keysmith_private.usage_fold() || ' deltas folded', later);
                WHEN 'touches' THEN
                    outcome := keysmith_private.sum_up_touches(oldest) || ' summed up';
                WHEN 'requests without a known key' THEN
                    DELETE FROM keysmith_private.usage_unknown WHERE hour < oldest;
                    GET DIAGNOSTICS forgotten = ROW_COUNT;
                    outcome := forgotten || ' counts dropped';
                WHEN 'idle keys' THEN
                    outcome := keysmith_private.disable_all_idle_keys();
                WHEN 'key ends' THEN
                    outcome := keysmith_private.note_all_key_ends();
                WHEN 'credit events' THEN
                    outcome := keysmith_private.note_credit_events() || ' noted';
                WHEN 'ledgers' THEN
                    outcome := keysmith_private.close_ledgers() || ' differences taken into blocks';
                WHEN 'charges' THEN
                    -- A subscriber has those that the publisher has. Ids begin with the time, in milliseconds.
                    forgotten := 0;
                    IF NOT keysmith_private.is_subscribed('keysmith_private.charge') THEN
                        DELETE FROM keysmith_private.charge WHERE request_id < (lpad(to_hex(
                            (extract(epoch FROM clock_timestamp() - interval '24 hours') * 1000)::bigint),
                            12, '0') || repeat('0', 20))::uuid;
                        GET DIAGNOSTICS forgotten = ROW_COUNT;
                    END IF;
                    outcome := forgotten || ' dropped';
                WHEN 'retention' THEN
                    outcome := keysmith_private.usage_drop_old(oldest);
            END CASE;
        EXCEPTION
            WHEN lock_not_available OR deadlock_detected THEN
                outcome := later;
            WHEN OTHERS THEN
                outcome := 'failed: ' || SQLERRM;
                RAISE WARNING 'keysmith: maintain: %: %', task, SQLERRM;
        END;
        RETURN NEXT;
    END LOOP;
END $$;
COMMENT ON FUNCTION keysmith.maintain() IS
'Maintains the tables of usage, and disables idle keys; see keysmith.usage_retention';
