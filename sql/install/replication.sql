-- Logical replication: how rows are found on subscribers, and what a subscriber does with them.

-- PostgreSQL refuses to update or delete rows of a published table without a replica identity, or
-- if the publication selects rows by a column outside of it. So the tables that have a keyspace
-- have it in their identity. A table whose rows have no key is small, or empty on subscribers.
ALTER TABLE keysmith_private.tenant REPLICA IDENTITY USING INDEX tenant_tenant_id_keyspace_key;
ALTER TABLE keysmith_private.key REPLICA IDENTITY USING INDEX key_digest_keyspace_key;
ALTER TABLE keysmith_private.access REPLICA IDENTITY FULL;
ALTER TABLE keysmith_private.touch REPLICA IDENTITY FULL;
ALTER TABLE keysmith_private.usage_delta REPLICA IDENTITY FULL;
ALTER TABLE keysmith_private.usage_unknown_sample REPLICA IDENTITY FULL;
ALTER TABLE keysmith_private.usage_set_aside REPLICA IDENTITY FULL;
