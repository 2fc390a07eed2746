-- The audit, as it is shown.

-- Under an identity, what was done to keys of another environment is out of sight. Only who
-- sees a part has to look up whose an entry is.
CREATE VIEW keysmith_private.all_audit AS
SELECT a.keyspace, a.entry, a.at, a.action, c.tenant, c.key_id, c.role, c.session_role, c.acting_key,
       c.client, c.before, c.after, pg_catalog.encode(a.hash, 'hex') AS hash,
       (SELECT t.tenant_id FROM keysmith_private.tenant t
        WHERE t.keyspace = a.keyspace AND t.name = c.tenant) AS tenant_id,
       (SELECT k.environment FROM keysmith_private.key k WHERE k.key_id = c.key_id) AS environment
FROM keysmith_private.audit_entry a
LEFT JOIN keysmith_private.audit_content c ON c.digest = a.content;
SELECT keysmith_private.publish('audit', '{tenant_id,environment}');
COMMENT ON VIEW keysmith.audit IS 'What was done, by whom, when and from where; before and after, without secrets';
COMMENT ON COLUMN keysmith.audit.keyspace IS '* for what concerns no keyspace alone';
COMMENT ON COLUMN keysmith.audit.entry IS 'Its number in the chain of the keyspace, counted from 1';
COMMENT ON COLUMN keysmith.audit.at IS 'When it was done';
COMMENT ON COLUMN keysmith.audit.action IS 'What was done, such as mint or define_role';
COMMENT ON COLUMN keysmith.audit.tenant IS 'The name of the tenant that it concerns';
COMMENT ON COLUMN keysmith.audit.key_id IS 'The id of the key that it is about';
COMMENT ON COLUMN keysmith.audit.role IS 'The role that acted';
COMMENT ON COLUMN keysmith.audit.session_role IS 'The role that logged in';
COMMENT ON COLUMN keysmith.audit.acting_key IS 'The key that the transaction acted for';
COMMENT ON COLUMN keysmith.audit.client IS 'Where the session came from; null for a socket';
COMMENT ON COLUMN keysmith.audit.before IS 'What there was before, without secrets; null for nothing';
COMMENT ON COLUMN keysmith.audit.after IS 'What there was afterwards, without secrets; null for nothing';
COMMENT ON COLUMN keysmith.audit.hash IS 'The seal: a hash over the entry and the hash before it, in hexadecimal';
