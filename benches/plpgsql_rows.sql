-- The usual way to record a key's use: after the same decision (see plpgsql_peer.sql), the time
-- of the key's last use, and a row for the request. It keeps no totals, makes no partitions, and
-- limits nothing.

ALTER TABLE peer_key ADD COLUMN last_used_at timestamptz;
-- An update finds room on its row's page, so that it changes no index.
ALTER TABLE peer_key SET (fillfactor = 50);

CREATE TABLE peer_log (
    at         timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    request_id uuid NOT NULL,
    key_id     uuid NOT NULL,
    tenant_id  uuid NOT NULL,
    status     integer NOT NULL,
    outcome    text NOT NULL,
    ip         inet
);
CREATE INDEX peer_log_of_key ON peer_log (key_id, at);
CREATE INDEX peer_log_of_tenant ON peer_log (tenant_id, at);

CREATE FUNCTION peer_verify_with_rows(api_key text, required text[] DEFAULT '{}', ip inet DEFAULT NULL)
RETURNS peer_verdict LANGUAGE plpgsql AS $$
DECLARE
    verdict public.peer_verdict;
BEGIN
    verdict := public.peer_verify(api_key, required, ip);
    IF verdict.key_id IS NOT NULL THEN
        UPDATE public.peer_key SET last_used_at = pg_catalog.clock_timestamp()
        WHERE digest = pg_catalog.sha256(pg_catalog.convert_to(api_key, 'UTF8'));
        INSERT INTO public.peer_log (request_id, key_id, tenant_id, status, outcome, ip)
        VALUES (verdict.request_id, verdict.key_id, verdict.tenant_id, verdict.status, verdict.reason, ip);
    END IF;
    RETURN verdict;
END $$;
