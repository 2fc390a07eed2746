-- By a superuser, once for each database. The roles are photos_owner and photos_app.
CREATE EXTENSION IF NOT EXISTS keysmith;
GRANT CREATE ON SCHEMA public TO photos_owner;
SELECT keysmith.grant_access('photos_owner', 'admin'),
       keysmith.grant_access('photos_app', 'verifier'),
       keysmith.grant_access('photos_app', 'issuer');
