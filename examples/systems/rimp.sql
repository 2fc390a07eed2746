-- The keys of rimp, an API for images and videos: live and test keys, scopes that
-- narrow a key, roles that it inherits, and networks for the enterprise plan.

BEGIN;

SELECT keysmith.create_keyspace('rimp',
    prefixes => '{"secret": {"live": "sk_live_", "test": "sk_test_"}}',
    -- A key without scopes does all that its owner's role allows.
    empty_scopes => 'all',
    schemes => '{bearer}',
    -- What is not listed below is the last route's; only "/" is left to refuse.
    unlisted_routes => 'refuse',
    -- Its requests name keys as key_abc.
    display => '{"id": "key_{random:8}"}',
    codes => '{"insufficient_scope": "insufficient_role"}',
    plan_features => '{"allowlist": ["enterprise"]}',
    -- Requests with live keys are billed: their server passes what they cost as spend. It
    -- may do so with test keys too, which are charged nothing.
    charges => '{live}',
    -- An admin's key makes, restricts and revokes keys.
    managed_by => 'admin');

SELECT keysmith.define_scope('rimp', 'images:write', 'Make images, and compare images');
SELECT keysmith.define_scope('rimp', 'videos:write', 'Make videos');
SELECT keysmith.define_scope('rimp', 'generations:read', 'See what was made');
SELECT keysmith.define_scope('rimp', 'webhooks:manage', 'Make, see, change and remove webhooks');
-- Tiers are plans. The page has no numbers, and each customer's limits are given with the
-- plan, such as keysmith.create_tenant('acme', keyspace => 'rimp', plan => 'starter',
-- limits => '[{"name": "tier", "limit": 1000, "window": "1 hour"}]', credits => '5000').
-- Calls of live and of test keys are counted apart.

-- Not in rimp's list: a name for what none of its scopes allows, such as managing keys.
SELECT keysmith.define_scope('rimp', 'admin', 'All that no other scope allows');

-- Keys inherit the role of their owner. The page speaks of an admin's key; it has no
-- names for other roles, so these are examples.
SELECT keysmith.define_role('rimp', 'admin', '{*}');
SELECT keysmith.define_role('rimp', 'developer',
    '{images:write,videos:write,generations:read,webhooks:manage}');
SELECT keysmith.define_role('rimp', 'viewer', '{generations:read}');

SELECT keysmith.define_route('rimp', 'POST', '/v1/images', 'images:write');
SELECT keysmith.define_route('rimp', 'POST', '/v1/videos', 'videos:write');
SELECT keysmith.define_route('rimp', 'GET', '/v1/generations/{id}', 'generations:read');
SELECT keysmith.define_route('rimp', '*', '/v1/webhooks', 'webhooks:manage');
SELECT keysmith.define_route('rimp', '*', '/v1/webhooks/*', 'webhooks:manage');

-- Whether a comparison is of images only is in its body: the server looks, and passes
-- the variant. What others need is not said. They are of videos too, so both scopes.
SELECT keysmith.define_route('rimp', 'POST', '/v1/comparisons', 'images:write',
    variant => 'image-only');
SELECT keysmith.define_route('rimp', 'POST', '/v1/comparisons', 'images:write & videos:write');

-- The catalogue is for whoever has a key.
SELECT keysmith.define_route('rimp', 'GET', '/v1/models', '');
-- A narrowed key does what its scopes allow and nothing else; /v1/api-keys is in this.
SELECT keysmith.define_route('rimp', '*', '/*', 'admin');

COMMIT;
