-- Tables. Only the functions of this extension read and write them.
--
-- Names are compared as bytes (COLLATE "C"): probes are faster, and an index
-- stays valid when the operating system's collations change.
--
-- Other tables refer to a keyspace by its name: callers pass it, it never changes, and
-- it is compared without a look-up.

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
                    CHECK (pg_catalog.cardinality(schemes) > 0),
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
                    CHECK (usage_log IN ('everything', 'totals', 'refusals', 'nothing')),
    usage_details   boolean NOT NULL DEFAULT true,
    has_bar_imports boolean NOT NULL DEFAULT false,
    has_last_part_imports boolean NOT NULL DEFAULT false,
    has_sha512_imports boolean NOT NULL DEFAULT false,
    error_body      text COLLATE "C" NOT NULL DEFAULT 'plain' CHECK (length(error_body) <= 10000),
    -- Lifetimes are of hours: a day in them has 24, whatever the time zone.
    default_lifetime interval CHECK (default_lifetime BETWEEN '1 second' AND '876000 hours'),
    max_lifetime     interval CHECK (max_lifetime BETWEEN '1 second' AND '876000 hours'),
    require_label    boolean NOT NULL DEFAULT false,
    unique_labels    boolean NOT NULL DEFAULT false,
    max_idle         interval CHECK (max_idle BETWEEN '1 hour' AND '876000 hours'),
    max_idle_since   timestamptz,
    allowlist        cidr[]
                     CHECK (pg_catalog.cardinality(allowlist) BETWEEN 1 AND 1000
                            AND pg_catalog.array_position(allowlist, NULL) IS NULL),
    key_limits       text COLLATE "C" CHECK (length(key_limits) BETWEEN 1 AND 4000),
    key_credits      bigint CHECK (key_credits >= 0),
    issuer           text COLLATE "C" CHECK (length(issuer) BETWEEN 1 AND 255),
    expiring_notice  interval NOT NULL DEFAULT '7 days' CHECK (expiring_notice BETWEEN '0' AND '876000 hours'),
    failure_limit    text COLLATE "C" CHECK (length(failure_limit) BETWEEN 1 AND 100),
    usage_tags       text[] COLLATE "C"
                     CHECK (pg_catalog.cardinality(usage_tags) BETWEEN 1 AND 4
                            AND pg_catalog.array_position(usage_tags, NULL) IS NULL)
);
COMMENT ON TABLE keysmith_private.keyspace IS 'One product''s keys: their formats, defaults and bounds';
COMMENT ON COLUMN keysmith_private.keyspace.event_channel IS 'The NOTIFY channel of its events; a name that cannot be guessed';
COMMENT ON COLUMN keysmith_private.keyspace.empty_scopes IS 'The scopes of a key that is given no scopes: all of its role, the defaults, or none';
COMMENT ON COLUMN keysmith_private.keyspace.default_scopes IS 'The scopes that empty_scopes = defaults gives';
COMMENT ON COLUMN keysmith_private.keyspace.max_active_keys IS 'How many keys a tenant may have at once; null for any number';
COMMENT ON COLUMN keysmith_private.keyspace.at_max IS 'At that number, mint raises an error, or revokes the oldest key: error or replace';
COMMENT ON COLUMN keysmith_private.keyspace.label_length IS 'The greatest length of a label, in characters';
COMMENT ON COLUMN keysmith_private.keyspace.wildcards IS 'Whether keys may have the wildcards * and family:*, besides scopes by name';
COMMENT ON COLUMN keysmith_private.keyspace.schemes IS 'The headers in which authenticate looks for keys';
COMMENT ON COLUMN keysmith_private.keyspace.unlisted_routes IS 'The rule for routes that are not listed: any_key lets every valid key use them, refuse no key';
COMMENT ON COLUMN keysmith_private.keyspace.managed_by IS 'The keys that may manage the keys of their tenant: any_secret, nobody, or an expression of scopes that they must meet';
COMMENT ON COLUMN keysmith_private.keyspace.display_id IS 'A template for the ids that the product shows for its keys, such as key_{random:8}';
COMMENT ON COLUMN keysmith_private.keyspace.display_prefix IS 'A template for key_prefix';
COMMENT ON COLUMN keysmith_private.keyspace.display_snippet IS 'A template for key_snippet';
COMMENT ON COLUMN keysmith_private.keyspace.default_lifetime IS 'The lifetime of a new key that is given no expiry; null for no end';
COMMENT ON COLUMN keysmith_private.keyspace.max_lifetime IS 'How long keys live from their creation on, at most; null for no end';
COMMENT ON COLUMN keysmith_private.keyspace.require_label IS 'Whether keys must have a label';
COMMENT ON COLUMN keysmith_private.keyspace.unique_labels IS 'Whether a tenant''s keys of an environment must have different labels';
COMMENT ON COLUMN keysmith_private.keyspace.max_idle IS 'How long a key may be unused before it is disabled; null for any time';
COMMENT ON COLUMN keysmith_private.keyspace.max_idle_since IS 'The time when max_idle got its value; no key is disabled earlier than so long after it';
COMMENT ON COLUMN keysmith_private.keyspace.allowlist IS 'The networks that keys may be used from, whatever else their own allowlists name; null for all';
COMMENT ON COLUMN keysmith_private.keyspace.key_limits IS 'The rate limits of a new key that is given none, one per line: number, unit and per, window, burst, name';
COMMENT ON COLUMN keysmith_private.keyspace.key_credits IS 'The credits of a new key that is given none; null for none';
COMMENT ON COLUMN keysmith_private.keyspace.expiring_notice IS 'How long before the end of a key its event key.expiring is; 0 for no such event';
COMMENT ON COLUMN keysmith_private.keyspace.issuer IS 'Who issues its tokens; null for the keyspace itself';
COMMENT ON COLUMN keysmith_private.keyspace.failure_limit IS 'How many requests of an address may present no valid key in a window; null for any number';
COMMENT ON COLUMN keysmith_private.keyspace.usage_tags IS 'The tags of log_request that totals are kept by; null for none';
COMMENT ON COLUMN keysmith_private.keyspace.has_imports IS 'Whether keys of other formats may be stored; then a key without a valid checksum is looked up';
COMMENT ON COLUMN keysmith_private.keyspace.has_bar_imports IS 'Whether keys may be stored by a hash over only the part after a |';
COMMENT ON COLUMN keysmith_private.keyspace.has_last_part_imports IS 'Whether keys may be stored by a hash over only the part after the last _ or .';
COMMENT ON COLUMN keysmith_private.keyspace.has_sha512_imports IS 'Whether keys may be stored by their SHA-512';
COMMENT ON COLUMN keysmith_private.keyspace.limits IS 'The rate limits that all its keys of an environment share, one per line: number, unit and per, window, burst, name';
COMMENT ON COLUMN keysmith_private.keyspace.charges IS 'The environments in which credits are spent';
COMMENT ON COLUMN keysmith_private.keyspace.usage_log IS 'The requests that are recorded: everything, totals, refusals or nothing';
COMMENT ON COLUMN keysmith_private.keyspace.usage_details IS 'Whether records have the endpoint and the address of the client';
COMMENT ON COLUMN keysmith_private.keyspace.error_body IS 'The body of errors over HTTP: plain, problem, or a template as JSON text';
COMMENT ON COLUMN keysmith_private.keyspace.generation IS 'The newest pepper that a key was stored with; new keys are never stored with an older one';

CREATE TABLE keysmith_private.keyspace_prefix (
    keyspace    text COLLATE "C" NOT NULL REFERENCES keysmith_private.keyspace,
    kind        text COLLATE "C" NOT NULL CHECK (kind IN ('secret', 'publishable')),
    environment text COLLATE "C" NOT NULL CHECK (environment ~ '^[a-z][a-z0-9_-]{0,62}$'),
    prefix      text COLLATE "C" NOT NULL CHECK (prefix ~ '^[a-z0-9_]{1,31}_$'),
    PRIMARY KEY (keyspace, kind, environment)
);
COMMENT ON TABLE keysmith_private.keyspace_prefix IS 'The prefixes of the keys of a keyspace, by kind and environment';

CREATE TABLE keysmith_private.answer (
    keyspace text COLLATE "C" NOT NULL REFERENCES keysmith_private.keyspace,
    answer   text COLLATE "C" NOT NULL,
    status   integer CHECK (status BETWEEN 400 AND 599),
    code     text COLLATE "C" CHECK (length(code) BETWEEN 1 AND 100),
    message  text CHECK (length(message) BETWEEN 1 AND 1000),
    PRIMARY KEY (keyspace, answer)
);
COMMENT ON TABLE keysmith_private.answer IS 'The status, code and message that a keyspace returns in place of a canonical code';

CREATE TABLE keysmith_private.plan_feature (
    keyspace text COLLATE "C" NOT NULL REFERENCES keysmith_private.keyspace,
    feature  text COLLATE "C" NOT NULL,
    plans    text[] COLLATE "C" NOT NULL,
    PRIMARY KEY (keyspace, feature)
);
COMMENT ON TABLE keysmith_private.plan_feature IS 'Features that only tenants of certain plans may use';

CREATE TABLE keysmith_private.scope (
    keyspace    text COLLATE "C" NOT NULL REFERENCES keysmith_private.keyspace,
    scope       text COLLATE "C" NOT NULL CHECK (scope ~ '^[A-Za-z0-9_./-]+(:([A-Za-z0-9_./-]+|\{[A-Za-z0-9_]+\}))*$'
                       AND length(scope) <= 128),
    description text,
    implies     text[] COLLATE "C" NOT NULL DEFAULT '{}',
    PRIMARY KEY (keyspace, scope)
);
COMMENT ON TABLE keysmith_private.scope IS 'The scopes that keys of a keyspace may have, {id} standing for any id; before the first is defined, any name is allowed';

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
    is_public boolean NOT NULL DEFAULT false,
    PRIMARY KEY (keyspace, method, pattern, variant)
);
COMMENT ON TABLE keysmith_private.route IS 'The scopes, as an expression, and the kind of key that a method and path require';
COMMENT ON COLUMN keysmith_private.route.weight IS 'The number of calls that a request counts for in rate limits';
COMMENT ON COLUMN keysmith_private.route.limits IS 'The rate limits of each key on the route; they replace limits of the same name';

CREATE TABLE keysmith_private.endpoint (
    keyspace  text COLLATE "C" NOT NULL REFERENCES keysmith_private.keyspace,
    method    text COLLATE "C" NOT NULL,
    pattern   text COLLATE "C" NOT NULL,
    operation text COLLATE "C" NOT NULL,
    request   text CHECK (length(request) <= 10000),
    response  text CHECK (length(response) <= 10000),
    status    integer CHECK (status BETWEEN 200 AND 299),
    PRIMARY KEY (keyspace, method, pattern)
);
COMMENT ON TABLE keysmith_private.endpoint IS 'The requests that serve() answers itself, each by an operation on keys';
COMMENT ON COLUMN keysmith_private.endpoint.request IS 'JSON: the field of a body or query that each argument comes from; null for the arguments by their names';
COMMENT ON COLUMN keysmith_private.endpoint.response IS 'JSON: the template of the answer; null for the usual one';

CREATE TABLE keysmith_private.tenant (
    tenant_id        uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    suspended_at     timestamptz,
    created_at       timestamptz NOT NULL DEFAULT pg_catalog.now(),
    max_lifetime     interval CHECK (max_lifetime BETWEEN '1 second' AND '876000 hours'),
    keyspace         text COLLATE "C" NOT NULL REFERENCES keysmith_private.keyspace,
    name             text COLLATE "C" NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    plan             text COLLATE "C" CHECK (length(plan) BETWEEN 1 AND 200),
    suspended_reason text,
    metadata         jsonb NOT NULL DEFAULT '{}' CHECK (pg_catalog.jsonb_typeof(metadata) = 'object'),
    limits           text COLLATE "C" CHECK (length(limits) BETWEEN 1 AND 4000),
    erased_at        timestamptz,
    allowlist        cidr[]
                     CHECK (pg_catalog.cardinality(allowlist) BETWEEN 1 AND 1000
                            AND pg_catalog.array_position(allowlist, NULL) IS NULL),
    scopes           text[] COLLATE "C"
                     CHECK (pg_catalog.cardinality(scopes) <= 1000
                            AND pg_catalog.array_position(scopes, NULL) IS NULL),
    UNIQUE (keyspace, name),
    UNIQUE (tenant_id, keyspace),
    CHECK (suspended_at IS NOT NULL OR suspended_reason IS NULL)
);
ALTER TABLE keysmith_private.tenant ALTER COLUMN allowlist SET STORAGE EXTERNAL;
COMMENT ON TABLE keysmith_private.tenant IS 'The customers of a keyspace; they own keys';
COMMENT ON COLUMN keysmith_private.tenant.max_lifetime IS 'How long its keys live from their creation on, at most';
COMMENT ON COLUMN keysmith_private.tenant.limits IS 'The rate limits that all its keys of an environment share';
COMMENT ON COLUMN keysmith_private.tenant.allowlist IS 'The networks that its keys may be used from; null for all. Long ones are stored out of line, as those of keys';
COMMENT ON COLUMN keysmith_private.tenant.scopes IS 'The scopes that none of its keys goes beyond; null for all';
COMMENT ON COLUMN keysmith_private.tenant.erased_at IS 'The time when it was erased; its requests are recorded without address and member since then';

CREATE TABLE keysmith_private.member (
    tenant_id uuid NOT NULL,
    keyspace  text COLLATE "C" NOT NULL,
    member    text COLLATE "C" NOT NULL CHECK (length(member) BETWEEN 1 AND 200),
    role      text COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant_id, member, keyspace),
    FOREIGN KEY (tenant_id, keyspace) REFERENCES keysmith_private.tenant (tenant_id, keyspace),
    FOREIGN KEY (keyspace, role) REFERENCES keysmith_private.role
);
COMMENT ON TABLE keysmith_private.member IS 'The persons and service accounts of a tenant; a key may have one as its owner';

-- The columns that most decisions read come first, and those of fixed width before the
-- others: their offsets are constants.
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
    idempotency_digest bytea CHECK (pg_catalog.octet_length(idempotency_digest) = 32),
    arguments_digest   bytea CHECK (pg_catalog.octet_length(arguments_digest) = 32),
    enabled_at      timestamptz,
    disabled_reason text CHECK (disabled_reason = 'idle'),
    UNIQUE (digest, keyspace),
    UNIQUE (keyspace, display_id),
    FOREIGN KEY (tenant_id, keyspace) REFERENCES keysmith_private.tenant (tenant_id, keyspace),
    FOREIGN KEY (keyspace, role) REFERENCES keysmith_private.role,
    CHECK ((revoked_at IS NULL) = (revoked_reason IS NULL)),
    CHECK (disabled_at IS NOT NULL OR disabled_reason IS NULL),
    -- A key with a successor is revoked, or expires at some time.
    CHECK (rotated_to IS NULL OR revoked_at IS NOT NULL OR expires_at IS NOT NULL)
);
-- A backend fetches a long allowlist once, and remembers it by its TOAST pointer. So it must
-- be stored out of line, and not be compressed into the row.
ALTER TABLE keysmith_private.key ALTER COLUMN allowlist SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX key_of_call ON keysmith_private.key (tenant_id, idempotency_digest)
    WHERE idempotency_digest IS NOT NULL;
CREATE INDEX key_of_tenant ON keysmith_private.key (tenant_id, created_at);
COMMENT ON TABLE keysmith_private.key IS 'Keys, as digests of digests; the keys themselves are not stored';
COMMENT ON COLUMN keysmith_private.key.generation IS 'The generation of the pepper that the digest was made with; 0 if without a pepper';
COMMENT ON COLUMN keysmith_private.key.digest IS 'SHA-256 or HMAC-SHA-256 over the SHA-256 of the key';
COMMENT ON COLUMN keysmith_private.key.origin IS 'The first key of its line of rotations; the keys of a line share limits and credits';
COMMENT ON COLUMN keysmith_private.key.limits IS 'Its rate limits, one per line: number, unit and per, window, burst, name';
COMMENT ON COLUMN keysmith_private.key.shared_limits IS 'The rate limits of the keys that made it, which count its calls too, one per line: first key of that line, calls, window, burst, name';
COMMENT ON COLUMN keysmith_private.key.purse IS 'The first key of the line whose credits it spends, if a key made it; null if it spends its own or its tenant''s';
COMMENT ON COLUMN keysmith_private.key.idempotency_digest IS 'A digest of the idempotency_key of the call that made it';
COMMENT ON COLUMN keysmith_private.key.arguments_digest IS 'A digest of the other arguments of that call';
COMMENT ON COLUMN keysmith_private.key.enabled_at IS 'The time of the last call of enable()';
COMMENT ON COLUMN keysmith_private.key.disabled_reason IS 'idle if the key was disabled because it was not used; null if somebody disabled it';
COMMENT ON COLUMN keysmith_private.key.regenerated IS 'Whether regenerate() made it, and so replaces it';

-- An end that was moved and moved back is the same end.
CREATE TABLE keysmith_private.key_notice (
    key_id  uuid NOT NULL REFERENCES keysmith_private.key ON DELETE CASCADE,
    ends_at timestamptz NOT NULL,
    event   text COLLATE "C" NOT NULL CHECK (event IN ('key.expiring', 'key.expired')),
    at      timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (key_id, ends_at, event)
);
COMMENT ON TABLE keysmith_private.key_notice IS 'The events about the ends of keys that are in the audit already';

CREATE TABLE keysmith_private.access (
    role       regrole NOT NULL,
    level      text COLLATE "C" NOT NULL CHECK (level IN ('verifier', 'host', 'issuer', 'auditor', 'admin')),
    tenant_id  uuid REFERENCES keysmith_private.tenant,
    keyspace   text COLLATE "C" REFERENCES keysmith_private.keyspace,
    granted_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    UNIQUE (role, level, tenant_id),
    CHECK (tenant_id IS NULL OR level IN ('issuer', 'host')),
    CHECK (keyspace IS NULL OR level IN ('verifier', 'host') AND tenant_id IS NULL)
);
COMMENT ON TABLE keysmith_private.access IS 'The access levels that grant_access gave to roles; PostgreSQL''s privileges decide who may execute a function';
COMMENT ON COLUMN keysmith_private.access.tenant_id IS 'The only tenant that an issuer or host reaches; null for the tenant that is signed in, or for any';
COMMENT ON COLUMN keysmith_private.access.keyspace IS 'The only keyspace that a verifier or host reaches; null for all, or if a tenant is named';

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
COMMENT ON TABLE keysmith_private.audit_entry IS 'The acts of management, in a chain for each keyspace; acts that concern several are in the chain *';
COMMENT ON COLUMN keysmith_private.audit_entry.content IS 'The digest that the row in audit_content has';
COMMENT ON COLUMN keysmith_private.audit_entry.hash IS 'A hash over the entry and the hash of the entry before it; see docs/architecture.md';

CREATE TABLE keysmith_private.audit_content (
    digest       bytea PRIMARY KEY,
    salt         bytea NOT NULL,
    role         text COLLATE "C" NOT NULL,
    session_role text COLLATE "C" NOT NULL,
    acting_key   uuid,
    acting_member text COLLATE "C",
    client       inet,
    tenant       text COLLATE "C",
    tenant_id    uuid,
    key_id       uuid,
    before       jsonb,
    after        jsonb
);
COMMENT ON TABLE keysmith_private.audit_content IS 'The parts of an entry that may identify a person: who acted, on whom, and what changed';
COMMENT ON COLUMN keysmith_private.audit_content.digest IS 'A digest over the salt and the other columns; see docs/architecture.md';
COMMENT ON COLUMN keysmith_private.audit_content.tenant IS 'The name that the tenant had at that time';
COMMENT ON COLUMN keysmith_private.audit_content.salt IS 'Random bytes, so that the content cannot be guessed from the digest';

-- Spending updates a balance. Pages are left half empty, so that the new row version fits
-- on the page of the old one, and no index changes (HOT).
CREATE TABLE keysmith_private.credit (
    credit_id   uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    key_id      uuid UNIQUE REFERENCES keysmith_private.key,
    tenant_id   uuid UNIQUE REFERENCES keysmith_private.tenant,
    balance     bigint NOT NULL,
    refill      bigint CHECK (refill >= 1),
    every       text COLLATE "C" CHECK (every IN ('hour', 'day', 'week', 'month')),
    refilled_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    anchor      timestamptz CHECK (pg_catalog.isfinite(anchor)),
    low         bigint CHECK (low >= 0),
    told        boolean NOT NULL DEFAULT false,
    told_low    boolean NOT NULL DEFAULT false,
    CHECK (pg_catalog.num_nonnulls(key_id, tenant_id) = 1),
    CHECK ((refill IS NULL) = (every IS NULL)),
    CHECK (anchor IS NULL OR every IS NOT NULL)
) WITH (fillfactor = 50);
COMMENT ON TABLE keysmith_private.credit IS 'The credits of keys and tenants';
COMMENT ON COLUMN keysmith_private.credit.key_id IS 'The first key of a line of rotations, if the credits are a key''s';
COMMENT ON COLUMN keysmith_private.credit.refill IS 'A refill raises the balance to this, unless it is higher';
COMMENT ON COLUMN keysmith_private.credit.refilled_at IS 'The time of the last refill; the next is due when the next period begins';
COMMENT ON COLUMN keysmith_private.credit.balance IS 'What is left; less than 0 if requests cost more than was known before';
COMMENT ON COLUMN keysmith_private.credit.anchor IS 'A moment when a period begins; null for the periods of the calendar, in UTC';
COMMENT ON COLUMN keysmith_private.credit.low IS 'The event credits.low is made when the balance falls to this';
COMMENT ON COLUMN keysmith_private.credit.told IS 'Whether the event credits.exhausted was made since credits were last added or refilled';
COMMENT ON COLUMN keysmith_private.credit.told_low IS 'Whether the event credits.low was made since then, with this threshold';

-- A row for each request that spent. It is found by the id alone, which begins with the time: so old
-- rows are the first of the index.
CREATE TABLE keysmith_private.charge (
    request_id uuid PRIMARY KEY,
    credit_id  uuid NOT NULL,
    tenant_id  uuid NOT NULL,
    key_id     uuid NOT NULL,
    spend      bigint NOT NULL CHECK (spend >= 0),
    at         timestamptz NOT NULL,
    settled_at timestamptz,
    settled    bigint CHECK (settled >= 0),
    keyspace   text COLLATE "C" NOT NULL,
    environment text COLLATE "C" NOT NULL,
    usage_log  text COLLATE "C" NOT NULL
) WITH (fillfactor = 90);
COMMENT ON TABLE keysmith_private.charge IS 'The requests of the last day that spent credits; settle() may charge what each really cost';
COMMENT ON COLUMN keysmith_private.charge.credit_id IS 'The credits that paid';
COMMENT ON COLUMN keysmith_private.charge.spend IS 'What the request spent when it was decided';
COMMENT ON COLUMN keysmith_private.charge.at IS 'When the request was decided';
COMMENT ON COLUMN keysmith_private.charge.usage_log IS 'What the keyspace recorded of requests then';
COMMENT ON COLUMN keysmith_private.charge.settled IS 'What it cost in all, as settle() was told';

CREATE TABLE keysmith_private.credit_event (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    keyspace  text COLLATE "C" NOT NULL,
    tenant_id uuid NOT NULL,
    key_id    uuid,
    credit_id uuid NOT NULL,
    event     text COLLATE "C" NOT NULL CHECK (event IN ('credits.low', 'credits.exhausted')),
    at        timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    balance   bigint NOT NULL
);
COMMENT ON SEQUENCE keysmith_private.credit_event_id_seq IS 'Numbers of events of credits, in the order in which they came';
COMMENT ON TABLE keysmith_private.credit_event IS 'Credits that fell to their threshold or ran out: events that are not in the audit yet';
COMMENT ON COLUMN keysmith_private.credit_event.key_id IS 'The first key of the line that has the credits; null if the tenant has them';

-- A dropped role leaves its OID in the table. In a restored database that OID may belong to
-- another role.
SELECT pg_catalog.pg_extension_config_dump('keysmith_private.access',
    'WHERE role::pg_catalog.oid IN (SELECT oid FROM pg_catalog.pg_roles)');

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY '{keyspace,keyspace_prefix,answer,plan_feature,scope,role,route,endpoint,tenant,member,key,key_notice,credit,charge,credit_event,credit_event_id_seq,audit_entry,audit_content}'::text[] LOOP
        PERFORM pg_catalog.pg_extension_config_dump('keysmith_private.' || name, '');
    END LOOP;
END $$;
