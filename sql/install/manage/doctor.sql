-- doctor() finds problems, and says what to do. Each of the functions below checks one part, and
-- returns a row for each problem. They run as the owner of the extension. A remedy is a statement, or
-- it begins with a small letter and is for people.

CREATE FUNCTION keysmith_private.doctor_library(
    is_preloaded boolean, version text, pepper_problem text, lost_peppers text[], newest_pepper integer,
    signing_problem text,
    OUT level text, OUT subject text, OUT finding text, OUT remedy text
) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN EXISTS (SELECT FROM keysmith_private.key WHERE limits IS NOT NULL AND revoked_at IS NULL)
                  OR EXISTS (SELECT FROM keysmith_private.tenant WHERE limits IS NOT NULL)
                  OR EXISTS (SELECT FROM keysmith_private.keyspace WHERE limits IS NOT NULL OR generation > 0)
                THEN 'error' ELSE 'warning' END,
           'library', 'it is not preloaded: no rate limits, no peppers, and each transaction writes its usage',
           'set shared_preload_libraries = ''keysmith'', and restart'
    WHERE NOT is_preloaded
    UNION ALL
    SELECT 'error', 'library', format('it has version %s, and the extension version %s', version, e.extversion),
           'run ALTER EXTENSION keysmith UPDATE, or restart if the library is older'
    FROM pg_extension e WHERE e.extname = 'keysmith' AND e.extversion <> version
    UNION ALL
    SELECT 'error', 'library', format('trigger %I of %s is disabled, or enabled in another mode', t.tgname, t.tgrelid::regclass),
           format('ALTER TABLE %s ENABLE %s TRIGGER %I', t.tgrelid::regclass, m.mode, t.tgname)
    FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
    -- ENABLE TRIGGER ALL, as pg_restore --disable-triggers calls it, forgets these modes.
    JOIN (VALUES ('policy_changed', 'A', 'ALWAYS'), ('keep_on_publisher', 'R', 'REPLICA'),
                 ('usage_incarnation_arrives', 'R', 'REPLICA'), ('usage_partition_arrives', 'R', 'REPLICA'),
                 ('heartbeat_arrives', 'R', 'REPLICA')
         ) AS m (function, enabled, mode) ON m.function = p.proname
    WHERE p.pronamespace = 'keysmith_private'::regnamespace AND t.tgenabled <> m.enabled::"char"
    UNION ALL
    SELECT 'error', 'library', format('index %s is not valid', i.indexrelid::regclass),
           format('REINDEX INDEX %s', i.indexrelid::regclass)
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE c.relnamespace = 'keysmith_private'::regnamespace AND NOT (i.indisvalid AND i.indisready)
    UNION ALL
    SELECT 'error', 'pepper', 'the file ' || pepper_problem, 'see "Peppers" in SECURITY.md'
    WHERE pepper_problem IS NOT NULL
    UNION ALL
    SELECT 'error', 'signing', 'the file ' || signing_problem, 'see "Signing secrets" in SECURITY.md'
    WHERE signing_problem IS NOT NULL
    UNION ALL
    SELECT 'error', 'pepper', CASE p WHEN '0' THEN 'keys without a pepper are refused: the file does not allow them'
               ELSE format('keys of pepper %s are refused: the file does not have it', p) END,
           CASE p WHEN '0' THEN 'add the line 0:unpeppered until these keys are rotated'
               ELSE 'put it back into the file, and reload the configuration' END
    FROM unnest(lost_peppers) AS p
    UNION ALL
    SELECT 'warning', 'pepper', format('%s active keys are stored with an older pepper than %s',
                                       count(*), newest_pepper),
           'rotate them: keysmith.rotate() moves a key to the newest'
    FROM keysmith_private.key k
    WHERE k.generation < newest_pepper AND k.revoked_at IS NULL AND k.rotated_to IS NULL
      AND NOT k.generation::text = ANY (lost_peppers)
    HAVING count(*) > 0
    UNION ALL
    SELECT 'warning', 'pepper', format('%s imported keys have no pepper: who steals a dump can guess short ones', count(*)),
           'set keysmith.pepper_file, and rotate the keys'
    FROM keysmith_private.key k
    WHERE newest_pepper = 0 AND k.imported AND k.revoked_at IS NULL
    HAVING count(*) > 0
    UNION ALL
    SELECT 'error', 'server', format('%s is off: a crash can bring revoked keys back', s.name),
           format('ALTER SYSTEM SET %s = on', s.name)
    FROM pg_settings s WHERE s.name IN ('fsync', 'full_page_writes') AND s.setting = 'off'
    UNION ALL
    -- By another server, or by this one before its clock was set back.
    SELECT 'warning', 'server', format('the clock is %s behind the newest act or commit: keys expire late',
                                       date_trunc('second', newest.at - clock_timestamp())),
           'synchronize the clocks of all servers'
    FROM (SELECT greatest(
              (SELECT max(a.at) FROM (SELECT keyspace FROM keysmith_private.keyspace UNION ALL SELECT '*') k,
                   LATERAL (SELECT e.at FROM keysmith_private.audit_entry e WHERE e.keyspace = k.keyspace
                            ORDER BY e.entry DESC LIMIT 1) a),
              (SELECT max(greatest(k.created_at, k.disabled_at, k.revoked_at)) FROM keysmith_private.key k),
              pg_last_xact_replay_timestamp(),
              CASE WHEN current_setting('track_commit_timestamp') = 'on'
                   THEN (SELECT c.timestamp FROM pg_last_committed_xact() c) END)) AS newest (at)
    WHERE newest.at > clock_timestamp() + '1 second'
    UNION ALL
    SELECT 'warning', 'server', 'ssl is off, and other machines can connect: keys travel in plain text',
           'set ssl = on, and use hostssl in pg_hba.conf'
    FROM pg_settings l, pg_settings s
    WHERE s.name = 'ssl' AND s.setting = 'off' AND l.name = 'listen_addresses'
      AND EXISTS (SELECT FROM regexp_split_to_table(l.setting, '\s*,\s*') AS a
                  WHERE a NOT IN ('', 'localhost', '::1') AND a NOT LIKE '127.%')
    UNION ALL
    -- A few keys are a trial. Ten are a product.
    SELECT 'warning', 'keyspace',
           format('keys of keyspace %s start with %s, as in every installation: '
                  'a secret scanner cannot tell that they are yours', p.keyspace, p.prefix),
           -- SQL joins strings on two lines.
           format(E'SELECT keysmith.alter_keyspace(%L,\n''{"prefixes": {"secret":''\n'' {"live": "yours_live_"}}}'')', p.keyspace)
    FROM keysmith_private.keyspace_prefix p
    WHERE p.kind = 'secret' AND p.prefix IN ('ks_live_', 'ks_test_')
      AND (SELECT count(*) FROM (
               SELECT FROM keysmith_private.key k
               WHERE k.keyspace = p.keyspace AND k.environment = p.environment AND k.kind = p.kind
                 AND k.revoked_at IS NULL AND NOT k.imported AND starts_with(k.key_prefix, p.prefix)
               LIMIT 10) AS first_ten) = 10
$$;
COMMENT ON FUNCTION keysmith_private.doctor_library(boolean, text, text, text[], integer, text) IS
'The part of doctor() that looks at the library, the files of secrets and the server';

-- Other sessions start with the values that this session would have after RESET ALL, or with
-- values that ALTER ROLE or ALTER DATABASE has set.
CREATE FUNCTION keysmith_private.doctor_logging(
    OUT level text, OUT subject text, OUT finding text, OUT remedy text
) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH settings AS (
        SELECT s.name, s.reset_val AS value, '' AS whose, 0 AS role, 'SYSTEM' AS place FROM pg_settings s
        UNION ALL
        SELECT split_part(c, '=', 1), substr(c, strpos(c, '=') + 1),
               coalesce(' of role ' || quote_ident(r.rolname), ' of this database'), d.setrole::bigint,
               coalesce('ROLE ' || quote_ident(r.rolname),
                        'DATABASE ' || quote_ident(current_database()))
        FROM pg_db_role_setting d CROSS JOIN unnest(d.setconfig) AS c
        LEFT JOIN pg_roles r ON r.oid = d.setrole
        WHERE d.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
    ), valued AS (
        SELECT s.*, coalesce(
                   (SELECT o.value FROM settings o WHERE o.name = 'log_parameter_max_length'
                      AND o.whose = s.whose LIMIT 1),
                   (SELECT o.value FROM settings o WHERE o.name = 'log_parameter_max_length'
                      AND o.whose = '')) AS longest
        FROM settings s
    )
    SELECT 'warning', 'logging', format('%s = %s%s writes bound values to the log, and so keys',
                                        v.name, v.value, v.whose),
           format('ALTER %s SET log_parameter_max_length = 0', v.place)
    FROM valued v
    WHERE (v.name = 'log_statement' AND v.value = 'all'
           OR v.name IN ('log_min_duration_statement', 'log_min_duration_sample') AND v.value <> '-1'
           OR v.name = 'log_transaction_sample_rate' AND v.value <> '0')
      AND v.longest <> '0'
    UNION ALL
    SELECT 'warning', 'logging', format('%s = %s%s writes bound values of failed statements to the log',
                                        v.name, v.value, v.whose),
           format('ALTER %s SET %s = 0', v.place, v.name)
    FROM valued v WHERE v.name = 'log_parameter_max_length_on_error' AND v.value <> '0'
    UNION ALL
    SELECT 'warning', 'logging', format('auto_explain writes arguments of functions to the log, by %s%s',
                                        o.name, o.whose),
           format('ALTER %s SET %s = %s', o.place, o.name, CASE o.name WHEN 'auto_explain.log_verbose' THEN 'off' ELSE '0' END)
    FROM valued o
    WHERE (o.name = 'auto_explain.log_verbose' AND o.value IN ('on', 'true', '1', 'yes')
           OR o.name = 'auto_explain.log_parameter_max_length' AND o.value <> '0')
      AND EXISTS (SELECT FROM settings m
                  WHERE m.name = 'auto_explain.log_min_duration' AND m.value <> '-1')
    UNION ALL
    SELECT 'warning', 'logging', format('%s = %s%s writes bound values to the log, and so keys', v.name, v.value, v.whose),
           format('ALTER %s SET pgaudit.log_parameter = off', v.place)
    FROM valued v WHERE v.name = 'pgaudit.log_parameter' AND v.value IN ('on', 'true', '1', 'yes')
    UNION ALL
    -- The texts of other statements are stored without constants.
    SELECT 'warning', 'logging', format('%s = %s%s keeps texts of utility statements, and so keys', v.name, v.value, v.whose),
           format('ALTER %s SET pg_stat_statements.track_utility = off', v.place)
    FROM valued v
    WHERE v.name = 'pg_stat_statements.track_utility' AND v.value IN ('on', 'true', '1', 'yes')
      AND EXISTS (SELECT FROM settings t WHERE t.name = 'pg_stat_statements.track' AND t.value <> 'none')
$$;
COMMENT ON FUNCTION keysmith_private.doctor_logging() IS
'The part of doctor() that looks for settings that write keys to the server''s log or keep them';

CREATE FUNCTION keysmith_private.doctor_access(
    OUT level text, OUT subject text, OUT finding text, OUT remedy text
) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'error', 'access', format('role number %s was dropped, and still has the level %s: a new role may get that number',
                                     a.role::oid, string_agg(DISTINCT a.level, ', ')),
           format('DELETE FROM keysmith_private.access WHERE role = %s', a.role::oid)
    FROM keysmith_private.access a
    WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = a.role) GROUP BY a.role::oid
    UNION ALL
    SELECT 'error', 'access', format('%s has rights on %s, which only keysmith should use',
                                     CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE x.grantee::regrole::text END,
                                     c.oid::regclass),
           format('REVOKE ALL ON %s FROM %s', c.oid::regclass,
                  CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE x.grantee::regrole::text END)
    FROM pg_class c CROSS JOIN LATERAL (
        SELECT a.grantee FROM aclexplode(c.relacl) a
        UNION SELECT a.grantee FROM pg_attribute t, aclexplode(t.attacl) a WHERE t.attrelid = c.oid) x
    WHERE c.relnamespace = 'keysmith_private'::regnamespace AND c.relkind IN ('r', 'p', 'S') AND x.grantee <> c.relowner
    UNION ALL
    SELECT 'error', 'access', format('PUBLIC may call %s', p.oid::regprocedure),
           format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', p.oid::regprocedure)
    FROM pg_proc p
    WHERE p.pronamespace IN ('keysmith'::regnamespace, 'keysmith_private'::regnamespace)
      AND p.proname NOT IN ('current_tenant', 'current_tenant_id', 'current_keyspace', 'current_key',
                            'current_environment', 'current_owner', 'has_scope', 'require_identity', 'whoami')
      AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
                  WHERE a.grantee = 0)
      AND EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid
                    AND d.deptype = 'e')
    UNION ALL
    SELECT 'error', 'access', format('%s may make objects in the schema %s',
                                     CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE x.grantee::regrole::text END, n.nspname),
           format('REVOKE CREATE ON SCHEMA %s FROM %s', n.nspname,
                  CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE x.grantee::regrole::text END)
    FROM pg_namespace n, aclexplode(n.nspacl) x
    WHERE n.nspname IN ('keysmith', 'keysmith_private') AND x.privilege_type = 'CREATE' AND x.grantee <> n.nspowner
    UNION ALL
    SELECT 'error', 'access', format('%s may use the schema keysmith_private, and so lock its tables',
                                     CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE x.grantee::regrole::text END),
           format('REVOKE USAGE ON SCHEMA keysmith_private FROM %s',
                  CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE x.grantee::regrole::text END)
    FROM pg_namespace n, aclexplode(n.nspacl) x
    WHERE n.nspname = 'keysmith_private' AND x.privilege_type = 'USAGE' AND x.grantee <> n.nspowner
    UNION ALL
    -- The server looks for the library in these folders.
    SELECT 'warning', 'access', format('%s may set dynamic_library_path, and so replace the library',
                                       CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE x.grantee::regrole::text END),
           format('REVOKE SET ON PARAMETER dynamic_library_path FROM %s',
                  CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE x.grantee::regrole::text END)
    FROM pg_parameter_acl p, aclexplode(p.paracl) x
    LEFT JOIN pg_roles r ON r.oid = x.grantee
    WHERE p.parname = 'dynamic_library_path' AND NOT coalesce(r.rolsuper, false)
    UNION ALL
    SELECT 'warning', 'access', format('role %s, which has access, is also a member of %s', a.role, p.rolname),
           format('REVOKE %s FROM %s', p.rolname, a.role)
    FROM (SELECT DISTINCT role FROM keysmith_private.access) a
    JOIN pg_roles r ON r.oid = a.role AND NOT r.rolsuper
    JOIN pg_roles p ON p.rolname IN ('pg_read_all_data', 'pg_write_all_data', 'pg_read_server_files',
                                     'pg_write_server_files', 'pg_execute_server_program', 'pg_maintain')
     AND pg_has_role(r.oid, p.oid, 'MEMBER')
    UNION ALL
    SELECT 'warning', 'access', 'no role has a level: only superusers and the owner can use keysmith',
           'give the role of your application a level: see keysmith.help(''grant_access'')'
    WHERE NOT EXISTS (SELECT FROM pg_proc p, aclexplode(p.proacl) a
                      WHERE p.pronamespace = 'keysmith'::regnamespace AND a.grantee NOT IN (0, p.proowner))
      AND (SELECT count(*) FROM (SELECT FROM keysmith_private.key k LIMIT 10) AS first_ten) = 10
$$;
COMMENT ON FUNCTION keysmith_private.doctor_access() IS
'The part of doctor() that looks for privileges that no role should have';

-- `raised` has the value of each alarm that is raised, by its name.
CREATE FUNCTION keysmith_private.doctor_usage(
    raised jsonb, OUT level text, OUT subject text, OUT finding text, OUT remedy text
) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH u AS MATERIALIZED (
        SELECT * FROM keysmith.usage_status()
    ), l AS MATERIALIZED (
        SELECT * FROM keysmith.limit_status()
    ), partitions AS MATERIALIZED (
        -- Two days of grace: requests, or a call of maintain(), have them dropped.
        SELECT p.*, p.ends <= k.kept_from - interval '48 hours' AS is_old
        FROM keysmith_private.usage_partitions() p, keysmith_private.usage_kept_from() AS k (kept_from)
    )
    SELECT 'warning', 'usage', u.mode, 'fewer databases with keysmith in this server' FROM u
    WHERE u.mode LIKE 'in place: other databases%'
    UNION ALL
    SELECT 'warning', 'usage', format('%s records were dropped since the server started', u.dropped),
           'a larger keysmith.usage_buffer, or usage_overflow = write-through'
    FROM u WHERE raised ? 'usage_dropped'
    UNION ALL
    SELECT 'warning', 'usage', format('the buffer is filling: %s records of %s wait', u.waiting, u.share),
           'a larger keysmith.usage_buffer; usage_status() tells how the worker fares'
    FROM u WHERE raised ? 'usage_queue_filling'
    UNION ALL
    SELECT 'error', 'usage', CASE u.failed_starts WHEN 0 THEN format('%s records wait, and no worker runs', u.waiting)
               ELSE format('%s records wait, and the worker could not be started %s times', u.waiting, u.failed_starts) END,
           'a larger max_worker_processes, and a restart'
    FROM u WHERE raised ? 'usage_worker_missing'
    UNION ALL
    SELECT 'warning', 'usage', format('%s batches failed; the last error: %s', u.failures, u.last_error),
           'usage_status() and the server''s log tell more'
    FROM u WHERE raised ? 'usage_failing'
    UNION ALL
    SELECT 'warning', 'usage', format('%s records could not be stored in the last 7 days', raised ->> 'usage_quarantined'),
           'SELECT error FROM keysmith_private.usage_set_aside'
    WHERE raised ? 'usage_quarantined'
    UNION ALL
    SELECT 'warning', 'usage', format('a crash may have cost %s records, between %s and %s',
                                      raised ->> 'usage_lost', to_char(min(i.lost_from), 'YYYY-MM-DD HH24:MI'),
                                      to_char(max(i.lost_until), 'YYYY-MM-DD HH24:MI')),
           'usage_durability = commit, if none may be lost'
    FROM keysmith_private.recent_losses() i WHERE raised ? 'usage_lost' HAVING count(*) > 0
    UNION ALL
    SELECT 'warning', 'usage', 'there is no partition for tomorrow''s requests', 'SELECT * FROM keysmith.maintain()'
    WHERE raised ? 'partition_missing'
    UNION ALL
    SELECT 'warning', 'usage', format('%s days are kept beyond keysmith.usage_retention', count(*)),
           'SELECT * FROM keysmith.maintain()'
    FROM partitions p
    WHERE p.is_old AND NOT EXISTS (SELECT FROM keysmith_private.usage_dependents(p.partition))
    HAVING count(*) > 0
    UNION ALL
    SELECT 'warning', 'usage', format('%s can''t be dropped: %s depends on it', p.name, d),
           'drop what depends on it, or detach the partition'
    FROM partitions p, keysmith_private.usage_dependents(p.partition) d WHERE p.is_old
    UNION ALL
    SELECT DISTINCT 'warning', 'usage', format('%s can''t be dropped while %s has it locked', p.name,
                                               keysmith_private.lock_holder(l.pid, l.virtualtransaction)),
           'pg_terminate_backend or ROLLBACK PREPARED, if it is not to go on'
    FROM partitions p
    JOIN pg_locks l ON l.relation IN (p.partition, 'keysmith_private.usage_event'::regclass) AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
     AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    -- Background workers release their locks by themselves.
    WHERE p.is_old AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = l.pid AND a.backend_type <> 'client backend')
    UNION ALL
    SELECT 'warning', 'usage', format('%s changes of totals wait to be added up', count(*)),
           'SELECT * FROM keysmith.maintain()'
    FROM keysmith_private.usage_delta HAVING count(*) > 100000
    UNION ALL
    SELECT 'warning', 'limits', format('the table of limits is nearly full: %s of %s', l.buckets, l.max_buckets),
           'a larger keysmith.max_buckets, and a restart'
    FROM l WHERE raised ? 'limit_buckets_filling'
    UNION ALL
    SELECT 'warning', 'limits', format('%s calls were refused since the start for want of room to count them', l.unavailable),
           'a larger keysmith.max_buckets, and a restart'
    FROM l WHERE raised ? 'limits_unavailable'
    UNION ALL
    SELECT 'warning', 'limits', format('%s failed attempts were not counted since the start for want of room', l.uncounted_failures),
           'a larger keysmith.max_failing_addresses, and a restart'
    FROM l WHERE raised ? 'failures_uncounted'
    UNION ALL
    SELECT 'error', 'audit', CASE WHEN g.entry IS NULL
               THEN format('keyspace %s has no audit, and was made by someone', g.keyspace)
               ELSE format('the chain of keyspace %s has a gap before entry %s', g.keyspace, g.entry) END,
           'SELECT * FROM keysmith.audit_verify()'
    FROM keysmith_private.audit_gaps() g
$$;
COMMENT ON FUNCTION keysmith_private.doctor_usage(jsonb) IS
'The part of doctor() that looks at usage records and their worker, limits and the audit';

CREATE FUNCTION keysmith_private.doctor_events(
    raised jsonb, OUT level text, OUT subject text, OUT finding text, OUT remedy text
) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'warning', 'events',
           format('the queue of notifications is %s percent full, and from %s on no events are sent',
                  round(100 * (raised ->> 'notify_queue_filling')::numeric, 1), y.event_queue_limit),
           'end the session that listens and does not read: PostgreSQL''s log names it'
    FROM keysmith_private.library() y WHERE raised ? 'notify_queue_filling'
    UNION ALL
    SELECT 'warning', 'events',
           format('%s events were not sent, the last of them at %s: the queue of notifications was full',
                  y.events_unsent, y.last_event_unsent_at),
           'have listeners read what there is again; end sessions that listen and do not read'
    FROM keysmith_private.library() y WHERE raised ? 'events_unsent'
$$;
COMMENT ON FUNCTION keysmith_private.doctor_events(jsonb) IS
'The part of doctor() that looks at the queue of notifications';

CREATE FUNCTION keysmith_private.doctor_findings(
    pepper_problem text, lost_peppers text[], lost_by_ledgers text[], signing_problem text,
    OUT level text, OUT subject text, OUT finding text, OUT remedy text
) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH y AS MATERIALIZED (
        SELECT * FROM keysmith_private.library()
    ), alarms AS MATERIALIZED (
        SELECT coalesce(jsonb_object_agg(a.alarm, a.value), '{}') AS raised
        FROM keysmith_private.alarms() a WHERE a.raised
    ), findings AS MATERIALIZED (
        SELECT d.* FROM y, keysmith_private.doctor_library(
            y.preloaded, y.version, pepper_problem, lost_peppers, y.newest_pepper, signing_problem) d
        UNION ALL SELECT * FROM keysmith_private.doctor_logging()
        UNION ALL SELECT * FROM keysmith_private.doctor_isolation()
        UNION ALL SELECT * FROM keysmith_private.doctor_access()
        UNION ALL SELECT d.* FROM alarms a, keysmith_private.doctor_usage(a.raised) d
        UNION ALL SELECT * FROM keysmith_private.doctor_replication()
        UNION ALL SELECT * FROM keysmith_private.doctor_ledgers(lost_by_ledgers)
        UNION ALL SELECT d.* FROM alarms a, keysmith_private.doctor_events(a.raised) d
    )
    -- In psql, a row with these widths fits 100 columns.
    SELECT level, subject, keysmith_private.wrapped(finding, 35), keysmith_private.wrapped(remedy, 36)
    FROM (SELECT * FROM findings ORDER BY array_position('{error,warning}', level), subject, finding) AS ordered
    UNION ALL
    SELECT 'ok', 'keysmith', format('no problem found; preloaded, version %s', y.version), NULL
    FROM y WHERE NOT EXISTS (SELECT FROM findings)
$$;
COMMENT ON FUNCTION keysmith_private.doctor_findings(text, text[], text[], text) IS
'The rows of doctor(), given what only the library knows about the files of secrets';

CREATE FUNCTION keysmith.doctor(
    OUT level text, OUT subject text, OUT finding text, OUT remedy text
) RETURNS SETOF record
LANGUAGE c STABLE ROWS 10 AS 'MODULE_PATHNAME', 'keysmith_doctor';
COMMENT ON FUNCTION keysmith.doctor() IS
'Finds faults of the installation; a row for each, with its remedy, or else one row with the level ok';
