-- The keys of rimp, an API for images and videos: live and test keys, scopes that
-- narrow a key, roles that it inherits, and networks for the enterprise plan.

BEGIN;

SELECT keysmith.create_keyspace('rimp',
    prefixes => '{"secret": {"live": "sk_live_", "test": "sk_test_"}}',
    -- A key without scopes may do everything that its owner's role allows.
    empty_scopes => 'all',
    schemes => '{bearer}',
    -- The last route matches all requests that are not listed before it, except "/", which is
    -- refused.
    unlisted_routes => 'refuse',
    -- Its requests name keys as key_abc.
    display => '{"id": "key_{random:8}"}',
    codes => '{"insufficient_scope": "insufficient_role"}',
    plan_features => '{"allowlist": ["enterprise"]}',
    -- Requests with live keys are billed: the server passes their cost as spend. It may do so
    -- with test keys too, which are not charged.
    charges => '{live}',
    -- An admin's key makes, restricts and revokes keys.
    managed_by => 'admin');

SELECT keysmith.define_scope('rimp', 'images:write', 'Make images, and compare images');
SELECT keysmith.define_scope('rimp', 'videos:write', 'Make videos');
SELECT keysmith.define_scope('rimp', 'generations:read', 'See what was made');
SELECT keysmith.define_scope('rimp', 'webhooks:manage', 'Make, see, change and remove webhooks');
-- Tiers are plans. The page has no numbers, and each customer's limits are given with the plan,
-- such as keysmith.create_tenant('acme', keyspace => 'rimp', plan => 'starter', limits =>
-- '[{"name": "tier", "limit": 1000, "window": "1 hour"}]', credits => '5000'). Calls of live and
-- test keys are counted separately.

-- Not in rimp's list: a scope for acts outside its four scopes, such as managing keys.
SELECT keysmith.define_scope('rimp', 'admin', 'All that no other scope allows');

-- Keys inherit the role of their owner. The page mentions an admin's key; it names no other
-- roles, so these are examples.
SELECT keysmith.define_role('rimp', 'admin', '{*}');
SELECT keysmith.define_role('rimp', 'developer',
    '{images:write,videos:write,generations:read,webhooks:manage}');
SELECT keysmith.define_role('rimp', 'viewer', '{generations:read}');

SELECT keysmith.define_route('rimp', 'POST', '/v1/images', 'images:write');
SELECT keysmith.define_route('rimp', 'POST', '/v1/videos', 'videos:write');
SELECT keysmith.define_route('rimp', 'GET', '/v1/generations/{id}', 'generations:read');
SELECT keysmith.define_route('rimp', '*', '/v1/webhooks', 'webhooks:manage');
SELECT keysmith.define_route('rimp', '*', '/v1/webhooks/*', 'webhooks:manage');

-- The body says whether a comparison is of images only: the server reads it, and passes the
-- variant. The page does not say what other comparisons need. They include videos, so they need
-- both scopes.
SELECT keysmith.define_route('rimp', 'POST', '/v1/comparisons', 'images:write',
    variant => 'image-only');
SELECT keysmith.define_route('rimp', 'POST', '/v1/comparisons', 'images:write & videos:write');

-- Any key may read the catalogue.
SELECT keysmith.define_route('rimp', 'GET', '/v1/models', '');
-- A narrowed key may do only what its scopes allow; this includes /v1/api-keys.
SELECT keysmith.define_route('rimp', 'POST', '/v1/api-keys', 'admin');
SELECT keysmith.define_route('rimp', 'PATCH', '/v1/api-keys/{id}', 'admin');
SELECT keysmith.define_route('rimp', 'DELETE', '/v1/api-keys/{id}', 'admin');
SELECT keysmith.define_route('rimp', '*', '/*', 'admin');

-- The page shows these requests without their answers. Scopes are set in the dashboard.
SELECT keysmith.define_endpoint('rimp', 'POST', '/v1/api-keys', 'mint',
    request => '{"label": "name"}',
    response => '{"id": "{display_id}", "name": "{label}", "key": "{api_key}",
                  "createdAt": "{created_at}"}');
SELECT keysmith.define_endpoint('rimp', 'PATCH', '/v1/api-keys/{id}', 'alter_key',
    request => '{"allowlist": "ipAllowlist"}',
    response => '{"id": "{display_id}", "name": "{label}", "ipAllowlist": "{allowlist}"}');
SELECT keysmith.define_endpoint('rimp', 'DELETE', '/v1/api-keys/{id}', 'revoke',
    response => '{"id": "{display_id}", "name": "{label}", "revokedAt": "{revoked_at}"}');

COMMIT;
