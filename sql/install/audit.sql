-- The view of the audit.

-- A session that acts for a key does not see acts on keys of other environments. The
-- environment of an entry is looked up only for readers who see a part of the rows.
CREATE VIEW keysmith_private.all_audit AS
SELECT a.keyspace, a.entry, a.at, a.action, c.tenant, c.key_id, c.role, c.session_role, c.acting_key,
       c.acting_member, c.client, c.before, c.after, pg_catalog.encode(a.hash, 'hex') AS hash,
       c.tenant_id,
       (SELECT k.environment FROM keysmith_private.key k WHERE k.key_id = c.key_id) AS environment
FROM keysmith_private.audit_entry a
LEFT JOIN keysmith_private.audit_content c ON c.digest = a.content;
SELECT keysmith_private.publish('audit', '{tenant_id,environment}');
COMMENT ON VIEW keysmith.audit IS 'Acts of management: who did what, when and from where, with the state before and after, without secrets';
COMMENT ON COLUMN keysmith.audit.keyspace IS 'The keyspace of the act; * if it concerns several';
COMMENT ON COLUMN keysmith.audit.entry IS 'Its number in the chain of the keyspace, from 1';
COMMENT ON COLUMN keysmith.audit.at IS 'The time of the act';
COMMENT ON COLUMN keysmith.audit.action IS 'The name of the act, such as mint or define_role';
COMMENT ON COLUMN keysmith.audit.tenant IS 'The tenant that the act concerns, by the name that it had';
COMMENT ON COLUMN keysmith.audit.key_id IS 'The id of the key that the act concerns';
COMMENT ON COLUMN keysmith.audit.role IS 'The role that acted';
COMMENT ON COLUMN keysmith.audit.session_role IS 'The role that logged in';
COMMENT ON COLUMN keysmith.audit.acting_key IS 'The key that the transaction acted for';
COMMENT ON COLUMN keysmith.audit.acting_member IS 'The member that the transaction acted for; empty for the tenant as a whole';
COMMENT ON COLUMN keysmith.audit.client IS 'The address of the client; null for a Unix-domain socket';
COMMENT ON COLUMN keysmith.audit.before IS 'The state before the act, without secrets; null if there was nothing';
COMMENT ON COLUMN keysmith.audit.after IS 'The state after the act, without secrets; null if there is nothing';
COMMENT ON COLUMN keysmith.audit.hash IS 'The seal: a hash over the entry and the hash before it, in hexadecimal';
