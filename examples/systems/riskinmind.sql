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
    display => '{"id": "key_{random:5}", "snippet": "{prefix}...{end:4}"}',
    -- Its answers have a field that says whether they are of success. The page shows no error.
    error_body => '{"success": false, "code": "{code}", "message": "{message}"}');

-- There are no scopes: each endpoint needs only the customer's key.
SELECT keysmith.define_route('riskinmind', 'GET', '/api/v1/keys/', '');
SELECT keysmith.define_route('riskinmind', 'POST', '/api/v1/keys/generate', '');
SELECT keysmith.define_route('riskinmind', 'POST', '/api/v1/keys/regenerate', '');
SELECT keysmith.define_route('riskinmind', 'POST', '/api/v1/keys/revoke', '');
-- usage_logs has the logs, by page; if a customer has rate limits, also the requests that they
-- refused.
SELECT keysmith.define_route('riskinmind', 'GET', '/api/v1/keys/logs', '');
SELECT keysmith.define_route('riskinmind', 'POST', '/api/v1/loans/predict', '');

-- Where the page shows an answer, it names no status: a plain 200. A customer without a key generates
-- one when signed in to the web site, which calls act_as.
SELECT keysmith.define_endpoint('riskinmind', 'GET', '/api/v1/keys/', 'show_key',
    response => '{"success": true,
                  "data": {"keyId": "{display_id}", "keySnippet": "{key_snippet}",
                           "status": "{status:upper}", "createdAt": "{created_at}"}}');
SELECT keysmith.define_endpoint('riskinmind', 'POST', '/api/v1/keys/generate', 'mint',
    request => '{"label": "label"}', status => 200,
    response => '{"success": true,
                  "data": {"apiKey": "{api_key}", "createdAt": "{created_at}"}}');
SELECT keysmith.define_endpoint('riskinmind', 'POST', '/api/v1/keys/regenerate', 'regenerate',
    request => '{}',
    response => '{"success": true,
                  "data": {"apiKey": "{api_key}", "message": "Key regenerated successfully."}}');
SELECT keysmith.define_endpoint('riskinmind', 'POST', '/api/v1/keys/revoke', 'revoke',
    request => '{}',
    response => '{"success": true, "message": "API Key revoked successfully."}');
SELECT keysmith.define_endpoint('riskinmind', 'GET', '/api/v1/keys/logs', 'usage_logs',
    -- They go on when the key is regenerated.
    request => '{"page": "page", "per_page": "limit", "all_keys": {"is": true}}',
    response => '{"success": true,
                  "data": [{"endpoint": "{endpoint}", "method": "{method}",
                            "statusCode": "{status}", "timestamp": "{at}"}],
                  "meta": {"total": "{total}", "page": "{page}", "limit": "{limit}"}}');

COMMIT;
