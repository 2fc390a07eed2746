-- The keys of rymi, an API for voice agents: several labelled keys per account, beside
-- one legacy key that is regenerated.

BEGIN;

SELECT keysmith.create_keyspace('rymi',
    -- There are publishable keys; the page does not say what they look like.
    prefixes => '{"secret": {"live": "rymi_"}, "publishable": {"live": "rymi_pk_"}}',
    label_length => 100,
    -- Publishable keys can't manage secret keys: 403.
    managed_by => 'any_secret',
    schemes => '{bearer}',
    codes => '{"insufficient_kind": {"message": "Publishable keys manage no secret keys."}}',
    -- rymi_abcd1 in lists. The profile shows rymi_live_..., the same for every key.
    display => '{"prefix": "{prefix}{secret:5}", "snippet": "{prefix}live_..."}');

-- There are no scopes. Managing secret keys needs a secret key.
SELECT keysmith.define_route('rymi', 'GET', '/v1/auth/me', '');
SELECT keysmith.define_route('rymi', 'GET', '/v1/auth/api-keys', '', kind => 'secret');
SELECT keysmith.define_route('rymi', 'POST', '/v1/auth/api-keys', '', kind => 'secret');
SELECT keysmith.define_route('rymi', 'DELETE', '/v1/auth/api-keys/{id}', '', kind => 'secret');
SELECT keysmith.define_route('rymi', 'POST', '/v1/auth/regenerate-key', '', kind => 'secret');

-- A profile is of the account: the tenant's metadata has its telephony provider and the like.
-- The list has active secret keys.
SELECT keysmith.define_endpoint('rymi', 'GET', '/v1/auth/me', 'whoami',
    response => '{"id": "{tenant_id}", "api_key_prefix": "{key_snippet}",
                  "telephony_provider": "{metadata.telephony_provider}",
                  "plivo_connected": "{metadata.plivo_connected}",
                  "plivo_account_name": "{metadata.plivo_account_name}",
                  "plivo_account_country": "{metadata.plivo_account_country}"}');
SELECT keysmith.define_endpoint('rymi', 'GET', '/v1/auth/api-keys', 'list_keys',
    request => '{"kind": {"is": "secret"}, "status": {"is": "active"}}',
    response => '{"keys": [{"id": "{key_id}", "key_prefix": "{key_prefix}", "label": "{label}",
                            "last_used_at": "{last_used_at}", "created_at": "{created_at}"}]}');
SELECT keysmith.define_endpoint('rymi', 'POST', '/v1/auth/api-keys', 'mint',
    request => '{"label": "label"}',
    response => '{"id": "{key_id}", "api_key": "{api_key}", "key_prefix": "{key_prefix}",
                  "label": "{label}", "created_at": "{created_at}"}');
SELECT keysmith.define_endpoint('rymi', 'DELETE', '/v1/auth/api-keys/{id}', 'revoke',
    request => '{}', response => '{"success": true}');
SELECT keysmith.define_endpoint('rymi', 'POST', '/v1/auth/regenerate-key', 'regenerate',
    request => '{}', response => '{"api_key": "{api_key}"}');

COMMIT;
