-- The plpgsql that a careful team writes for the same job: the key's shape, its digest, its row
-- and tenant by index, then every rule, and a row to answer with.
-- It avoids what would slow it down: it acts with its caller's rights instead of its owner's,
-- qualifies names instead of setting a search path, tests the shape without a regular expression
-- and without the checksum, and knows neither keyspaces nor roles.

CREATE TABLE peer_tenant (
    tenant_id    uuid PRIMARY KEY,
    name         text COLLATE "C" NOT NULL,
    suspended_at timestamptz
);

CREATE TABLE peer_key (
    digest      bytea PRIMARY KEY,
    key_id      uuid NOT NULL,
    tenant_id   uuid NOT NULL REFERENCES peer_tenant,
    environment text COLLATE "C" NOT NULL,
    kind        text COLLATE "C" NOT NULL,
    owner       text COLLATE "C",
    scopes      text[] COLLATE "C" NOT NULL,
    allowlist   cidr[],
    metadata    jsonb NOT NULL,
    expires_at  timestamptz,
    disabled_at timestamptz,
    revoked_at  timestamptz
);

CREATE TYPE peer_verdict AS (
    ok          boolean,
    status      integer,
    code        text,
    reason      text,
    key_id      uuid,
    tenant      text,
    tenant_id   uuid,
    environment text,
    kind        text,
    owner       text,
    scopes      text[],
    metadata    jsonb,
    expires_at  timestamptz,
    request_id  uuid
);

CREATE FUNCTION peer_verify(api_key text, required text[] DEFAULT '{}', ip inet DEFAULT NULL)
RETURNS peer_verdict LANGUAGE plpgsql AS $$
DECLARE
    found_key record;
    status integer;
    reason text;
BEGIN
    IF pg_catalog.octet_length(api_key) <> 57 OR NOT pg_catalog.starts_with(api_key, 'ks_') THEN
        RETURN ROW(false, 401, 'invalid_api_key', 'malformed_key', NULL, NULL, NULL, NULL, NULL,
                   NULL, NULL, NULL, NULL, pg_catalog.gen_random_uuid())::public.peer_verdict;
    END IF;
    SELECT k.*, t.name, t.suspended_at INTO found_key
    FROM public.peer_key k JOIN public.peer_tenant t USING (tenant_id)
    WHERE k.digest = pg_catalog.sha256(pg_catalog.convert_to(api_key, 'UTF8'));
    IF NOT FOUND THEN
        RETURN ROW(false, 401, 'invalid_api_key', 'not_found', NULL, NULL, NULL, NULL, NULL,
                   NULL, NULL, NULL, NULL, pg_catalog.gen_random_uuid())::public.peer_verdict;
    END IF;
    IF found_key.revoked_at IS NOT NULL THEN
        status := 401;
        reason := 'revoked';
    ELSIF found_key.expires_at <= pg_catalog.clock_timestamp() THEN
        status := 401;
        reason := 'expired';
    ELSIF found_key.disabled_at IS NOT NULL THEN
        status := 401;
        reason := 'disabled';
    ELSIF found_key.suspended_at IS NOT NULL THEN
        status := 401;
        reason := 'tenant_suspended';
    ELSIF found_key.allowlist IS NOT NULL
          AND (ip <<= ANY (found_key.allowlist)) IS NOT TRUE THEN
        status := 403;
        reason := 'ip_not_allowed';
    ELSIF NOT required <@ found_key.scopes THEN
        status := 403;
        reason := 'insufficient_scope';
    ELSE
        status := 200;
        reason := 'ok';
    END IF;
    RETURN ROW(status = 200, status,
               CASE WHEN status = 401 THEN 'invalid_api_key' ELSE reason END, reason,
               found_key.key_id, found_key.name, found_key.tenant_id, found_key.environment,
               found_key.kind, found_key.owner, found_key.scopes, found_key.metadata,
               found_key.expires_at, pg_catalog.gen_random_uuid())::public.peer_verdict;
END $$;

INSERT INTO peer_tenant
SELECT tenant_id, name, suspended_at FROM keysmith_private.tenant;

-- A key is stored as a digest of its digest, by which its row is found.
INSERT INTO peer_key
SELECT pg_catalog.sha256(pg_catalog.convert_to(s.api_key, 'UTF8')),
       k.key_id, k.tenant_id, k.environment, k.kind, k.owner,
       k.scopes, k.allowlist, k.metadata, k.expires_at, k.disabled_at, k.revoked_at
FROM plaintext s JOIN keysmith_private.key k
     ON k.digest = pg_catalog.sha256(pg_catalog.convert_to('keysmith.key.v1', 'UTF8') || '\x00'
                                     || pg_catalog.sha256(pg_catalog.convert_to(s.api_key, 'UTF8')));
