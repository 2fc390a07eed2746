SELECT keysmith.grant_access(:'app', 'verifier'), keysmith.grant_access(:'app', 'issuer');
GRANT SELECT, INSERT, UPDATE, DELETE ON photo TO :"app";
GRANT USAGE ON SEQUENCE photo_id_seq TO :"app";
SELECT keysmith.alter_keyspace('default', '{"unlisted_routes": "refuse",
    "limits": [{"name": "minute", "limit": 600, "window": "1 minute", "per": "key"}]}');
SELECT keysmith.define_route('default', method, pattern, scopes)
FROM (VALUES ('GET', '/photos', 'photos:read'), ('GET', '/photos/{id}', 'photos:read'), ('POST', '/photos', 'photos:write'),
             ('PATCH', '/photos/{id}', 'photos:write'), ('DELETE', '/photos/{id}', 'photos:write')) AS r (method, pattern, scopes);
SELECT keysmith.define_endpoint('default', method, pattern, operation)
FROM (VALUES ('POST', '/keys', 'mint'), ('GET', '/keys', 'list_keys'), ('GET', '/keys/{id}', 'show_key'),
             ('PATCH', '/keys/{id}', 'alter_key'), ('DELETE', '/keys/{id}', 'revoke'), ('POST', '/keys/{id}/rotate', 'rotate'))
     AS e (method, pattern, operation);
