//! Finding a key, its tenant and its owner.

use crate::catalog::policy::Policy;
use crate::catalog::{Catalog, columns};
use crate::pepper;
use keysmith_core::directory::{Entry, Places};
use keysmith_core::key::digest::KeyDigest;
use pg::error::Result;
use pg::scan::{Pinned, Relation, Row, ScanKey, Snapshot, Varlena};
use std::cell::{Cell, OnceCell};
use std::rc::Rc;

/// The moment at which tables are read, and the tables, each opened when it is needed
/// first and kept for the rest of a batch.
pub struct Reader<'a> {
    pub catalog: &'a Catalog,
    snapshot: OnceCell<Snapshot>,
    keys: OnceCell<Relation>,
    tenants: OnceCell<Relation>,
    members: OnceCell<Relation>,
}

/// How a look-up by digest ends.
pub enum Lookup<T> {
    Here(T),
    InOtherKeyspace,
    Nowhere,
}

impl<'a> Reader<'a> {
    /// The moment is when something is read first.
    #[inline]
    pub fn new(catalog: &'a Catalog) -> Reader<'a> {
        Reader {
            catalog,
            snapshot: OnceCell::new(),
            keys: OnceCell::new(),
            tenants: OnceCell::new(),
            members: OnceCell::new(),
        }
    }

    #[inline]
    pub fn snapshot(&self) -> &Snapshot {
        self.snapshot.get_or_init(|| Snapshot::now())
    }

    /// How many changes had been learned of before.
    pub fn changes(&self) -> u64 {
        self.catalog.changes
    }

    /// The policy of a keyspace at that moment.
    pub fn policy(&self, keyspace: &[u8]) -> Result<Rc<Policy>> {
        self.catalog.policy_under(self.snapshot(), keyspace)
    }

    #[inline]
    fn keys(&self) -> &Relation {
        self.keys.get_or_init(|| self.catalog.tables.key.open())
    }

    /// The key's row, if it still lies where it did.
    #[inline]
    pub fn key_at(&self, entry: &Entry, keyspace: &[u8]) -> Option<Pinned<'_>> {
        use columns::key as column;
        let row = self.keys().fetch(self.snapshot(), entry.places.key)?;
        let is_it = row.bytes(column::digest) == Some(&entry.digest)
            && row.smallint(column::generation) == Some(entry.generation)
            && row.bytes(column::keyspace) == Some(keyspace);
        is_it.then_some(row)
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
                self.keys().scan(self.snapshot(), [ScanKey::bytes(column::digest, &stored)]);
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

    /// Finds a key by its id.
    pub fn key_with_id<T>(&self, key_id: &[u8; 16], with: impl FnOnce(&Row) -> T) -> Option<T> {
        let keys = self.catalog.tables.key_by_id.open();
        let key = ScanKey::uuid(columns::key::key_id, key_id);
        let mut scan = keys.scan(self.snapshot(), [key]);
        scan.next().as_ref().map(with)
    }

    /// Hands on the row of a tenant: from where it lay, or else by the index.
    #[inline]
    pub fn tenant<T>(
        &self,
        tenant_id: &[u8; 16],
        places: &Cell<Places>,
        with: impl FnOnce(Option<&Row>) -> T,
    ) -> T {
        use columns::tenant as column;
        let tenants = self.tenants.get_or_init(|| self.catalog.tables.tenant.open());
        if let Some(row) = tenants.fetch(self.snapshot(), places.get().tenant)
            && row.uuid(column::tenant_id).as_ref() == Some(tenant_id)
        {
            return with(Some(&row));
        }
        let mut scan = tenants.scan(self.snapshot(), [ScanKey::uuid(column::tenant_id, tenant_id)]);
        let row = scan.next();
        if let Some(row) = &row {
            places.set(Places { tenant: row.place(), ..places.get() });
        }
        with(row.as_ref())
    }

    /// Hands on the row of a tenant's member: from where it lay, or else by the index.
    pub fn member<T>(
        &self,
        tenant_id: &[u8; 16],
        member: &[u8],
        places: &Cell<Places>,
        with: impl FnOnce(Option<&Row>) -> T,
    ) -> T {
        use columns::member as column;
        let members = self.members.get_or_init(|| self.catalog.tables.member.open());
        if let Some(row) = members.fetch(self.snapshot(), places.get().member)
            && row.uuid(column::tenant_id).as_ref() == Some(tenant_id)
            && row.bytes(column::member) == Some(member)
        {
            return with(Some(&row));
        }
        let name = Varlena::new(member);
        let keys =
            [ScanKey::uuid(column::tenant_id, tenant_id), ScanKey::text(column::member, &name)];
        let mut scan = members.scan(self.snapshot(), keys);
        let row = scan.next();
        if let Some(row) = &row {
            places.set(Places { member: row.place(), ..places.get() });
        }
        with(row.as_ref())
    }
}
