-- The part of doctor() that looks at ledgers.

CREATE FUNCTION keysmith_private.doctor_ledgers(
    lost_peppers text[], OUT level text, OUT subject text, OUT finding text, OUT remedy text
) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE part AS (
        SELECT l.found::regclass AS top, l.found AS part, true AS is_whole
        FROM keysmith_private.known_ledger l JOIN pg_class c ON c.oid = l.found
        UNION
        SELECT p.top, i.inhrelid, NOT c.relispartition
        FROM part p JOIN pg_inherits i ON i.inhparent = p.part JOIN pg_class c ON c.oid = i.inhrelid
    ), trigger AS (
        -- PostgreSQL makes the row triggers of partitions.
        SELECT p.top, p.part, m.name, m.enabled, t.tgenabled
        FROM part p
        JOIN (VALUES ('~keysmith_3_insert', 'O', true), ('~keysmith_3_update', 'O', true),
                     ('~keysmith_3_delete', 'O', true), ('~keysmith_3_truncate', 'A', true),
                     ('~keysmith_3_applied', 'R', false)
             ) AS m (name, enabled, of_partitions) ON m.of_partitions OR p.is_whole
        LEFT JOIN pg_trigger t ON t.tgrelid = p.part AND t.tgname = m.name
             AND t.tgfoid = 'keysmith.ledger_changes()'::regprocedure
    ), bare AS (
        SELECT t.top, t.part FROM trigger t GROUP BY t.top, t.part
        HAVING count(t.tgenabled) = 0 AND t.top <> t.part
    )
    SELECT 'warning', 'ledger',
           format('%s has no triggers for the ledger of %s: changes that name it are not recorded', b.part::regclass, b.top),
           format('SELECT keysmith.ledger(%L)', b.top)
    FROM bare b
    UNION ALL
    SELECT 'error', 'ledger',
           format('triggers of %s for the ledger of %s are missing, disabled, or enabled in another mode: %s',
                  t.part::regclass, t.top, string_agg(t.name, ', ' ORDER BY t.name)),
           format('SELECT keysmith.ledger(%L)', t.top)
    FROM trigger t
    WHERE t.tgenabled IS DISTINCT FROM t.enabled::"char"
      AND NOT EXISTS (SELECT FROM bare b WHERE (b.top, b.part) = (t.top, t.part))
    GROUP BY t.top, t.part
    UNION ALL
    SELECT 'error', 'ledger',
           format('columns of %s have another name or type than when its ledger began', l.found::regclass),
           format('SELECT keysmith.ledger(%L)', l.found::regclass)
    FROM keysmith_private.known_ledger l JOIN pg_class c ON c.oid = l.found
    WHERE NOT l.forms <@ keysmith_private.ledger_forms(l.found, l.columns)
    UNION ALL
    SELECT 'warning', 'ledger', 'a ledger is of a table that was dropped', 'SELECT * FROM keysmith.maintain()'
    FROM keysmith_private.known_ledger l
    WHERE l.is_here AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = l.found)
    UNION ALL
    SELECT 'error', 'ledger',
           format('%s has a ledger, and %s', l.found::regclass,
                  CASE WHEN c.relpersistence <> 'p' THEN 'is not logged' ELSE 'has no primary key' END),
           'restore that, or call unledger'
    FROM keysmith_private.known_ledger l JOIN pg_class c ON c.oid = l.found
    WHERE c.relpersistence <> 'p'
       OR NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'p')
    UNION ALL
    SELECT 'error', 'ledger',
           CASE l.generation WHEN 0 THEN format('the ledger of %s has no pepper: the file does not allow that', l.found::regclass)
               ELSE format('the ledger of %s needs pepper %s, which the file does not have', l.found::regclass, l.generation) END,
           CASE l.generation WHEN 0 THEN 'add the line 0:unpeppered, or call unledger and ledger'
               ELSE 'put it back into the file, and reload the configuration' END
    FROM keysmith_private.known_ledger l WHERE l.found IS NOT NULL AND l.generation::text = ANY (lost_peppers)
$$;
COMMENT ON FUNCTION keysmith_private.doctor_ledgers(text[]) IS
'The part of doctor() that looks at the triggers and the peppers of ledgers';
