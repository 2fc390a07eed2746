-- Whose rows the caller may see.

CREATE FUNCTION keysmith.sees_everything() RETURNS boolean
LANGUAGE sql STABLE AS $$ SELECT coalesce(pg_catalog.current_setting('standin.tenant', true), '') = '' $$;
COMMENT ON FUNCTION keysmith.sees_everything() IS 'Whether the caller may see the rows of every tenant';

CREATE FUNCTION keysmith.own_tenants() RETURNS uuid[]
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN pg_catalog.current_setting('standin.tenant', true) <> ''
                THEN ARRAY[pg_catalog.current_setting('standin.tenant', true)::uuid] ELSE '{}' END $$;
COMMENT ON FUNCTION keysmith.own_tenants() IS 'The tenants whose rows the caller may see';
