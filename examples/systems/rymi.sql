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

-- There are no scopes. Managing secret keys needs a secret key. whoami gives the profile of a key
-- and of its account; the tenant's metadata has the telephony provider and similar data.
SELECT keysmith.define_route('rymi', 'GET', '/v1/auth/me', '');
SELECT keysmith.define_route('rymi', 'GET', '/v1/auth/api-keys', '', kind => 'secret');
SELECT keysmith.define_route('rymi', 'POST', '/v1/auth/api-keys', '', kind => 'secret');
SELECT keysmith.define_route('rymi', 'DELETE', '/v1/auth/api-keys/{id}', '', kind => 'secret');
SELECT keysmith.define_route('rymi', 'POST', '/v1/auth/regenerate-key', '', kind => 'secret');

COMMIT;
