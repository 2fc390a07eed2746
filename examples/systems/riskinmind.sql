-- The keys of riskinmind, an API for credit risk: one active key per customer, which is
-- generated, shown, regenerated and revoked.

BEGIN;

SELECT keysmith.create_keyspace('riskinmind',
    -- The same prefix as that of rimp: keyspaces, not prefixes, keep products apart.
    prefixes => '{"secret": {"live": "sk_live_"}}',
    -- Generating a second key may replace the first or fail, the page says. Here it
    -- fails, so that nobody cuts off a running system by accident: that is what
    -- regenerate is for. Choose 'replace' for the other way.
    max_active_keys => 1,
    at_max => 'error',
    -- A customer's key is generated, regenerated and revoked by requests that carry it.
    managed_by => 'any_secret',
    schemes => '{bearer}',
    display => '{"id": "key_{random:5}", "snippet": "{prefix}...{end:4}"}');

-- There are no scopes: each endpoint needs only the customer's key.
SELECT keysmith.define_route('riskinmind', 'GET', '/api/v1/keys/', '');
SELECT keysmith.define_route('riskinmind', 'POST', '/api/v1/keys/generate', '');
SELECT keysmith.define_route('riskinmind', 'POST', '/api/v1/keys/regenerate', '');
SELECT keysmith.define_route('riskinmind', 'POST', '/api/v1/keys/revoke', '');
-- usage_logs has the logs, by page; if a customer has rate limits, also the requests that they
-- refused.
SELECT keysmith.define_route('riskinmind', 'GET', '/api/v1/keys/logs', '');
SELECT keysmith.define_route('riskinmind', 'POST', '/api/v1/loans/predict', '');

COMMIT;
