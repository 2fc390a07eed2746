-- What there is, in numbers.

CREATE FUNCTION keysmith.status(
    OUT topic text,
    OUT name text,
    OUT value text
) RETURNS SETOF record
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'keys', k.keyspace || ', ' || k.status, pg_catalog.count(*)::text
    FROM keysmith.key_listing k GROUP BY k.keyspace, k.status
    UNION ALL
    SELECT 'peppers',
           CASE k.generation WHEN 0 THEN 'without a pepper' ELSE 'pepper ' || k.generation END,
           pg_catalog.count(*) || ' keys'
    FROM keysmith.key k WHERE k.revoked_at IS NULL GROUP BY k.generation
    UNION ALL
    SELECT 'limits', l.name, l.value FROM keysmith.limit_status() l
    UNION ALL
    SELECT 'usage', u.name, u.value FROM keysmith.usage_status() u
    ORDER BY 1, 2
$$;
COMMENT ON FUNCTION keysmith.status() IS
'Counters: keys by state and by pepper, rate limits since the last start, usage and its worker';
