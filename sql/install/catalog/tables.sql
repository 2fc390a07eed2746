-- Tables. Only the functions of this extension read and write them.
--
-- Names are compared as bytes (COLLATE "C"): probes are faster, and an index
-- stays valid when the operating system's collations change.
--
-- Keyspaces are referred to by name: it is what callers pass, it never changes,
-- and no probe is needed to compare it.

CREATE TABLE keysmith_private.keyspace (
    keyspace        text COLLATE "C" PRIMARY KEY
                    CHECK (keyspace ~ '^[a-z][a-z0-9_-]{0,62}$'),
    event_channel   text COLLATE "C" NOT NULL UNIQUE
                    DEFAULT 'keysmith_' || pg_catalog.replace(pg_catalog.gen_random_uuid()::text, '-', ''),
    empty_scopes    text COLLATE "C" NOT NULL DEFAULT 'all'
                    CHECK (empty_scopes IN ('all', 'defaults', 'none')),
    default_scopes  text[] COLLATE "C" NOT NULL DEFAULT '{}',
    max_active_keys integer CHECK (max_active_keys BETWEEN 1 AND 1000000),
    at_max          text COLLATE "C" NOT NULL DEFAULT 'error'
                    CHECK (at_max IN ('error', 'replace')),
    label_length    integer NOT NULL DEFAULT 100 CHECK (label_length BETWEEN 1 AND 1000),
    wildcards       boolean NOT NULL DEFAULT true,
    schemes         text[] COLLATE "C" NOT NULL DEFAULT '{bearer,key,x_api_key}'
                    CHECK (schemes <@ '{bearer,key,x_api_key}' AND pg_catalog.cardinality(schemes) > 0),
    unlisted_routes text COLLATE "C" NOT NULL DEFAULT 'any_key'
                    CHECK (unlisted_routes IN ('any_key', 'refuse')),
    managed_by      text COLLATE "C" NOT NULL DEFAULT 'any_secret'
                    CHECK (length(managed_by) BETWEEN 1 AND 128),
    display_id      text COLLATE "C" CHECK (length(display_id) <= 64),
    display_prefix  text COLLATE "C" NOT NULL DEFAULT '{prefix}{secret:5}'
                    CHECK (length(display_prefix) <= 64),
    display_snippet text COLLATE "C" NOT NULL DEFAULT '{prefix}...{end:4}'
                    CHECK (length(display_snippet) <= 64),
    has_imports     boolean NOT NULL DEFAULT false,
    generation      smallint NOT NULL DEFAULT 0 CHECK (generation >= 0),
    created_at      timestamptz NOT NULL DEFAULT pg_catalog.now(),
    limits          text COLLATE "C" CHECK (length(limits) BETWEEN 1 AND 4000),
    charges         text[] COLLATE "C" NOT NULL DEFAULT '{live}'
                    CHECK (pg_catalog.array_position(charges, NULL) IS NULL),
    usage_log       text COLLATE "C" NOT NULL DEFAULT 'everything'
                    CHECK (usage_log IN ('everything', 'refusals', 'nothing')),
    usage_details   boolean NOT NULL DEFAULT true,
    has_bar_imports boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE keysmith_private.keyspace IS 'One product''s keys: their formats, defaults and bounds';
COMMENT ON COLUMN keysmith_private.keyspace.event_channel IS 'The NOTIFY channel of its events; a name that cannot be guessed';
COMMENT ON COLUMN keysmith_private.keyspace.empty_scopes IS 'What a key without scopes may do: all that its role allows, the defaults, or nothing';
COMMENT ON COLUMN keysmith_private.keyspace.default_scopes IS 'What a key without scopes gets where empty_scopes is defaults';
COMMENT ON COLUMN keysmith_private.keyspace.max_active_keys IS 'How many keys a tenant may have at once; null for any number';
COMMENT ON COLUMN keysmith_private.keyspace.at_max IS 'What the next mint does then: error, or replace the oldest';
COMMENT ON COLUMN keysmith_private.keyspace.label_length IS 'Most characters of a label';
COMMENT ON COLUMN keysmith_private.keyspace.wildcards IS 'Whether keys may hold * and family:*, besides scopes by name';
COMMENT ON COLUMN keysmith_private.keyspace.schemes IS 'In which headers keys are looked for';
COMMENT ON COLUMN keysmith_private.keyspace.unlisted_routes IS 'Who may use routes that are not listed: any_key, or refuse';
COMMENT ON COLUMN keysmith_private.keyspace.managed_by IS 'Which keys manage their tenant''s keys: any_secret, nobody, or those that hold scopes, by an expression';
COMMENT ON COLUMN keysmith_private.keyspace.display_id IS 'Template of the ids that the product shows for its keys, such as key_{random:8}';
COMMENT ON COLUMN keysmith_private.keyspace.display_prefix IS 'Template of key_prefix';
COMMENT ON COLUMN keysmith_private.keyspace.display_snippet IS 'Template of key_snippet';
COMMENT ON COLUMN keysmith_private.keyspace.has_imports IS 'Whether keys of other formats may be stored, so that checksums cannot refuse them';
COMMENT ON COLUMN keysmith_private.keyspace.has_bar_imports IS 'Whether keys may be stored by a hash of only the part behind a |';
COMMENT ON COLUMN keysmith_private.keyspace.limits IS 'Rate limits of all its keys of an environment together; a line each: calls, window, burst, name';
COMMENT ON COLUMN keysmith_private.keyspace.charges IS 'The environments in which credits are spent';
COMMENT ON COLUMN keysmith_private.keyspace.usage_log IS 'Which requests leave a record: everything, refusals or nothing';
COMMENT ON COLUMN keysmith_private.keyspace.usage_details IS 'Whether such records have endpoint and address';
COMMENT ON COLUMN keysmith_private.keyspace.generation IS 'The newest pepper that a key was stored with; older ones store no more';

CREATE TABLE keysmith_private.keyspace_prefix (
    keyspace    text COLLATE "C" NOT NULL REFERENCES keysmith_private.keyspace,
    kind        text COLLATE "C" NOT NULL CHECK (kind IN ('secret', 'publishable')),
    environment text COLLATE "C" NOT NULL CHECK (environment ~ '^[a-z][a-z0-9_-]{0,62}$'),
    prefix      text COLLATE "C" NOT NULL CHECK (prefix ~ '^[a-z0-9_]{1,31}_$'),
    PRIMARY KEY (keyspace, kind, environment)
);
COMMENT ON TABLE keysmith_private.keyspace_prefix IS 'What the keys of a keyspace start with, by kind and environment';

CREATE TABLE keysmith_private.answer (
    keyspace text COLLATE "C" NOT NULL REFERENCES keysmith_private.keyspace,
    answer   text COLLATE "C" NOT NULL,
    status   integer CHECK (status BETWEEN 400 AND 599),
    code     text COLLATE "C" CHECK (length(code) BETWEEN 1 AND 100),
    message  text CHECK (length(message) BETWEEN 1 AND 1000),
    PRIMARY KEY (keyspace, answer)
);
COMMENT ON TABLE keysmith_private.answer IS 'What a keyspace tells the outside world in place of a canonical code';

CREATE TABLE keysmith_private.plan_feature (
    keyspace text COLLATE "C" NOT NULL REFERENCES keysmith_private.keyspace,
    feature  text COLLATE "C" NOT NULL,
    plans    text[] COLLATE "C" NOT NULL,
    PRIMARY KEY (keyspace, feature)
);
COMMENT ON TABLE keysmith_private.plan_feature IS 'Features that only tenants of certain plans may use';

CREATE TABLE keysmith_private.scope (
    keyspace    text COLLATE "C" NOT NULL REFERENCES keysmith_private.keyspace,
    scope       text COLLATE "C" NOT NULL CHECK (scope ~ '^[A-Za-z0-9_./-]+(:[A-Za-z0-9_./-]+)*$' AND length(scope) <= 128),
    description text,
    implies     text[] COLLATE "C" NOT NULL DEFAULT '{}',
    PRIMARY KEY (keyspace, scope)
);
COMMENT ON TABLE keysmith_private.scope IS 'The scopes that keys of a keyspace may hold; any name will do until one is defined';

CREATE TABLE keysmith_private.role (
    keyspace text COLLATE "C" NOT NULL REFERENCES keysmith_private.keyspace,
    role     text COLLATE "C" NOT NULL CHECK (length(role) BETWEEN 1 AND 200),
    scopes   text[] COLLATE "C" NOT NULL,
    PRIMARY KEY (keyspace, role)
);
COMMENT ON TABLE keysmith_private.role IS 'Named sets of scopes';

CREATE TABLE keysmith_private.route (
    keyspace text COLLATE "C" NOT NULL REFERENCES keysmith_private.keyspace,
    method   text COLLATE "C" NOT NULL,
    pattern  text COLLATE "C" NOT NULL,
    variant  text COLLATE "C" NOT NULL DEFAULT '',
    scopes   text COLLATE "C" NOT NULL CHECK (length(scopes) <= 4096),
    kind     text COLLATE "C" CHECK (kind IN ('secret', 'publishable')),
    weight   integer NOT NULL DEFAULT 1 CHECK (weight >= 0),
    limits   text COLLATE "C" CHECK (length(limits) BETWEEN 1 AND 4000),
    PRIMARY KEY (keyspace, method, pattern, variant)
);
COMMENT ON TABLE keysmith_private.route IS 'What a method and path require: an expression of scopes, and a kind';
COMMENT ON COLUMN keysmith_private.route.weight IS 'How many calls one counts for in rate limits';
COMMENT ON COLUMN keysmith_private.route.limits IS 'Rate limits of each key on the route, in place of others of the same name';

CREATE TABLE keysmith_private.tenant (
    tenant_id        uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    suspended_at     timestamptz,
    created_at       timestamptz NOT NULL DEFAULT pg_catalog.now(),
    keyspace         text COLLATE "C" NOT NULL REFERENCES keysmith_private.keyspace,
    name             text COLLATE "C" NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    plan             text COLLATE "C" CHECK (length(plan) BETWEEN 1 AND 200),
    suspended_reason text,
    metadata         jsonb NOT NULL DEFAULT '{}' CHECK (pg_catalog.jsonb_typeof(metadata) = 'object'),
    limits           text COLLATE "C" CHECK (length(limits) BETWEEN 1 AND 4000),
    UNIQUE (keyspace, name),
    UNIQUE (tenant_id, keyspace),
    CHECK (suspended_at IS NOT NULL OR suspended_reason IS NULL)
);
COMMENT ON TABLE keysmith_private.tenant IS 'The customers of a keyspace; they own keys';
COMMENT ON COLUMN keysmith_private.tenant.limits IS 'Rate limits of all its keys of an environment together';

CREATE TABLE keysmith_private.member (
    tenant_id uuid NOT NULL,
    keyspace  text COLLATE "C" NOT NULL,
    member    text COLLATE "C" NOT NULL CHECK (length(member) BETWEEN 1 AND 200),
    role      text COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant_id, member),
    FOREIGN KEY (tenant_id, keyspace) REFERENCES keysmith_private.tenant (tenant_id, keyspace),
    FOREIGN KEY (keyspace, role) REFERENCES keysmith_private.role
);
COMMENT ON TABLE keysmith_private.member IS 'Persons and service accounts of a tenant; keys may be theirs';

-- What a decision reads of most keys comes first, fixed widths before others:
-- such columns are reached without walking the row.
CREATE TABLE keysmith_private.key (
    key_id         uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    tenant_id      uuid NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    expires_at     timestamptz,
    disabled_at    timestamptz,
    revoked_at     timestamptz,
    generation     smallint NOT NULL CHECK (generation >= 0),
    digest         bytea NOT NULL CHECK (pg_catalog.octet_length(digest) = 32),
    keyspace       text COLLATE "C" NOT NULL,
    environment    text COLLATE "C" NOT NULL CHECK (environment ~ '^[a-z][a-z0-9_-]{0,62}$'),
    kind           text COLLATE "C" NOT NULL CHECK (kind IN ('secret', 'publishable')),
    role           text COLLATE "C",
    owner          text COLLATE "C" CHECK (length(owner) BETWEEN 1 AND 200),
    scopes         text[] COLLATE "C" NOT NULL DEFAULT '{}'
                   CHECK (pg_catalog.cardinality(scopes) <= 1000
                          AND pg_catalog.array_position(scopes, NULL) IS NULL),
    allowlist      cidr[]
                   CHECK (pg_catalog.cardinality(allowlist) BETWEEN 1 AND 1000
                          AND pg_catalog.array_position(allowlist, NULL) IS NULL),
    metadata       jsonb NOT NULL DEFAULT '{}' CHECK (pg_catalog.jsonb_typeof(metadata) = 'object'),
    label          text CHECK (length(label) <= 1000),
    key_prefix     text COLLATE "C" CHECK (length(key_prefix) <= 64),
    key_snippet    text COLLATE "C" CHECK (length(key_snippet) <= 64),
    created_by     text NOT NULL,
    revoked_reason text CHECK (length(revoked_reason) <= 1000),
    rotated_to     uuid,
    display_id     text COLLATE "C" CHECK (length(display_id) BETWEEN 1 AND 100),
    regenerated    boolean NOT NULL DEFAULT false,
    imported       boolean NOT NULL DEFAULT false,
    origin         uuid,
    limits         text COLLATE "C" CHECK (length(limits) BETWEEN 1 AND 4000),
    shared_limits  text COLLATE "C" CHECK (length(shared_limits) BETWEEN 1 AND 20000),
    purse          uuid,
    UNIQUE (digest, keyspace),
    UNIQUE (keyspace, display_id),
    FOREIGN KEY (tenant_id, keyspace) REFERENCES keysmith_private.tenant (tenant_id, keyspace),
    FOREIGN KEY (keyspace, role) REFERENCES keysmith_private.role,
    CHECK ((revoked_at IS NULL) = (revoked_reason IS NULL)),
    -- A key that has a successor is over, or has a time at which it will be.
    CHECK (rotated_to IS NULL OR revoked_at IS NOT NULL OR expires_at IS NOT NULL)
);
-- A long allowlist is fetched once and remembered by the place where it is stored, so
-- it must not be compressed into the row.
ALTER TABLE keysmith_private.key ALTER COLUMN allowlist SET STORAGE EXTERNAL;
CREATE INDEX key_of_tenant ON keysmith_private.key (tenant_id, created_at);
COMMENT ON TABLE keysmith_private.key IS 'Keys, as digests of digests; the keys themselves are nowhere';
COMMENT ON COLUMN keysmith_private.key.generation IS 'Of the pepper that the digest was made with; 0 for none';
COMMENT ON COLUMN keysmith_private.key.digest IS 'SHA-256 or HMAC-SHA-256 over the SHA-256 of the key';
COMMENT ON COLUMN keysmith_private.key.origin IS 'The first key of the line that it was rotated in; limits and credits are the line''s';
COMMENT ON COLUMN keysmith_private.key.limits IS 'Its rate limits; a line each: calls, window, burst, name';
COMMENT ON COLUMN keysmith_private.key.shared_limits IS 'Rate limits of the keys that gave it, which count its calls too; a line each: first key of that line, calls, window, burst, name';
COMMENT ON COLUMN keysmith_private.key.purse IS 'The first key of the line whose credits it spends: that of the key that gave it; null for its own or its tenant''s';
COMMENT ON COLUMN keysmith_private.key.regenerated IS 'Whether regenerate() made it, and so replaces it';

CREATE TABLE keysmith_private.access (
    role       regrole NOT NULL,
    level      text COLLATE "C" NOT NULL CHECK (level IN ('verifier', 'issuer', 'auditor', 'admin')),
    tenant_id  uuid REFERENCES keysmith_private.tenant,
    granted_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    UNIQUE (role, level, tenant_id),
    CHECK (tenant_id IS NULL OR level = 'issuer')
);
COMMENT ON TABLE keysmith_private.access IS 'What grant_access gave to which role; who may execute what is PostgreSQL''s to say';
COMMENT ON COLUMN keysmith_private.access.tenant_id IS 'Whose keys an issuer manages; null for those of the tenant that is signed in';

CREATE TABLE keysmith_private.audit_entry (
    keyspace   text COLLATE "C" NOT NULL,
    entry      bigint NOT NULL,
    at         timestamptz NOT NULL,
    action     text COLLATE "C" NOT NULL,
    generation smallint NOT NULL,
    content    bytea NOT NULL,
    hash       bytea NOT NULL,
    PRIMARY KEY (keyspace, entry)
);
COMMENT ON TABLE keysmith_private.audit_entry IS 'That something was done, in a chain for each keyspace; * is the chain of what concerns none alone';
COMMENT ON COLUMN keysmith_private.audit_entry.content IS 'The digest of what was done, by which it is found in audit_content';
COMMENT ON COLUMN keysmith_private.audit_entry.hash IS 'Over the entry and the hash before it; see docs/architecture.md';

CREATE TABLE keysmith_private.audit_content (
    digest       bytea PRIMARY KEY,
    salt         bytea NOT NULL,
    role         text COLLATE "C" NOT NULL,
    session_role text COLLATE "C" NOT NULL,
    acting_key   uuid,
    client       inet,
    tenant       text COLLATE "C",
    key_id       uuid,
    before       jsonb,
    after        jsonb
);
COMMENT ON TABLE keysmith_private.audit_content IS 'What was done, by whom, to whom: all of an entry that may tell who someone is';
COMMENT ON COLUMN keysmith_private.audit_content.digest IS 'Over the salt and the other columns; see docs/architecture.md';
COMMENT ON COLUMN keysmith_private.audit_content.salt IS 'Random, so that nothing can be guessed from a digest alone';

-- Spending updates a balance in place: pages are left half empty, so that the new row
-- finds room beside the old one and no index changes.
CREATE TABLE keysmith_private.credit (
    credit_id   uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    key_id      uuid UNIQUE REFERENCES keysmith_private.key,
    tenant_id   uuid UNIQUE REFERENCES keysmith_private.tenant,
    balance     bigint NOT NULL CHECK (balance >= 0),
    refill      bigint CHECK (refill >= 1),
    every       text COLLATE "C" CHECK (every IN ('day', 'month')),
    refilled_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    CHECK (pg_catalog.num_nonnulls(key_id, tenant_id) = 1),
    CHECK ((refill IS NULL) = (every IS NULL))
) WITH (fillfactor = 50);
COMMENT ON TABLE keysmith_private.credit IS 'What keys and tenants have to spend';
COMMENT ON COLUMN keysmith_private.credit.key_id IS 'The first key of a line of rotations';
COMMENT ON COLUMN keysmith_private.credit.refill IS 'What a refill raises the balance to, if it is lower';
COMMENT ON COLUMN keysmith_private.credit.refilled_at IS 'A refill is due when a day or month of UTC has begun since';

-- A role that was dropped leaves a number behind, which may be another role's where the
-- dump is restored.
SELECT pg_catalog.pg_extension_config_dump('keysmith_private.access',
    'WHERE role::pg_catalog.oid IN (SELECT oid FROM pg_catalog.pg_roles)');

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY '{keyspace,keyspace_prefix,answer,plan_feature,scope,role,route,tenant,member,key,credit,audit_entry,audit_content}'::text[] LOOP
        PERFORM pg_catalog.pg_extension_config_dump('keysmith_private.' || name, '');
    END LOOP;
END $$;
