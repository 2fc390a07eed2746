//! Finding a key, its tenant and its owner.

use crate::catalog::columns;
use crate::catalog::scan::{Relation, Row, ScanKey, Snapshot, Varlena};
use crate::catalog::{Catalog, Table, Tables};
use crate::pepper;
use keysmith_core::key::digest::KeyDigest;

/// The open tables and the moment at which they are read.
pub struct Reader {
    snapshot: Snapshot,
    keys: Relation,
    tenants: Relation,
    members_table: Table,
}

/// How a look-up by digest ends.
pub enum Lookup<T> {
    Here(T),
    InOtherKeyspace,
    Nowhere,
}

impl Reader {
    #[inline]
    pub fn open(catalog: &Catalog) -> Reader {
        let tables: &Tables = &catalog.tables;
        Reader {
            snapshot: Snapshot::now(tables.key),
            keys: Relation::open(tables.key),
            tenants: Relation::open(tables.tenant),
            members_table: tables.member,
        }
    }

    /// Finds a key by its digest and hands its row on, while it is pinned.
    pub fn key<T>(
        &self,
        digest: &KeyDigest,
        keyspace: &[u8],
        with: impl FnOnce(&Row) -> T,
    ) -> Lookup<T> {
        use columns::key as column;
        let mut elsewhere = false;
        for (generation, stored) in pepper::peppers().candidates(digest) {
            let stored = Varlena::new(&stored);
            let mut scan =
                self.keys.scan(&self.snapshot, [ScanKey::bytes(column::digest, &stored)]);
            while let Some(row) = scan.next() {
                if row.smallint(column::generation) != Some(generation) {
                    continue;
                }
                if row.bytes(column::keyspace) == Some(keyspace) {
                    return Lookup::Here(with(&row));
                }
                elsewhere = true;
            }
        }
        if elsewhere { Lookup::InOtherKeyspace } else { Lookup::Nowhere }
    }

    /// Hands on the row of a tenant.
    #[inline]
    pub fn tenant<T>(&self, tenant_id: &[u8; 16], with: impl FnOnce(Option<&Row>) -> T) -> T {
        let key = ScanKey::uuid(columns::tenant::tenant_id, tenant_id);
        let mut scan = self.tenants.scan(&self.snapshot, [key]);
        with(scan.next().as_ref())
    }

    /// Hands on the row of a tenant's member.
    pub fn member<T>(
        &self,
        tenant_id: &[u8; 16],
        member: &[u8],
        with: impl FnOnce(Option<&Row>) -> T,
    ) -> T {
        use columns::member as column;
        let members = Relation::open(self.members_table);
        let member = Varlena::new(member);
        let keys =
            [ScanKey::uuid(column::tenant_id, tenant_id), ScanKey::text(column::member, &member)];
        let mut scan = members.scan(&self.snapshot, keys);
        with(scan.next().as_ref())
    }
}
