//! A keyspace's policy: what its keys may look like and what their scopes mean.

use super::columns;
use super::scan::{Relation, Row, ScanKey, Snapshot, Varlena};
use super::tables::{Table, Tables};
use crate::error::Result;
use crate::varlena::ArrayView;
use keysmith_core::policy::scope::{self, GrantList, Held, Implications};
use std::collections::HashMap;

type Bytes = Box<[u8]>;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum EmptyScopes {
    All,
    Defaults,
    None,
}

pub struct Prefix {
    pub kind: String,
    pub environment: String,
    pub prefix: String,
}

pub struct Policy {
    /// Whether the keyspace was made. A policy of one that wasn't is the default.
    pub exists: bool,
    pub empty_scopes: EmptyScopes,
    pub default_scopes: Vec<Bytes>,
    pub max_active_keys: Option<i32>,
    pub replaces_at_max: bool,
    pub label_length: usize,
    pub has_imports: bool,
    /// Of the newest pepper that a key was stored with.
    pub generation: i16,
    pub scopes: Vec<Bytes>,
    pub prefixes: Vec<Prefix>,
    roles: HashMap<Bytes, Vec<Bytes>>,
    implications: Implications,
}

impl Policy {
    pub fn load(tables: &Tables, keyspace: &[u8]) -> Result<Policy> {
        use columns::keyspace as column;
        let mut policy = Policy {
            exists: false,
            empty_scopes: EmptyScopes::All,
            default_scopes: Vec::new(),
            max_active_keys: None,
            replaces_at_max: false,
            label_length: 100,
            has_imports: false,
            generation: 0,
            scopes: Vec::new(),
            prefixes: Vec::new(),
            roles: HashMap::new(),
            implications: Implications::default(),
        };
        let snapshot = Snapshot::now(tables.keyspace);
        each_row(tables.keyspace, &snapshot, keyspace, |row| {
            policy.exists = true;
            policy.empty_scopes = match row.bytes(column::empty_scopes) {
                Some(b"all") => EmptyScopes::All,
                Some(b"defaults") => EmptyScopes::Defaults,
                _ => EmptyScopes::None,
            };
            policy.default_scopes = texts(row.array(column::default_scopes));
            policy.max_active_keys = row.integer(column::max_active_keys);
            policy.replaces_at_max = row.bytes(column::at_max) == Some(b"replace");
            policy.label_length = row
                .integer(column::label_length)
                .and_then(|length| usize::try_from(length).ok())
                .unwrap_or(policy.label_length);
            policy.has_imports = row.boolean(column::has_imports);
            policy.generation = row.smallint(column::generation).unwrap_or_default();
        });
        if policy.exists {
            policy.load_prefixes(tables, &snapshot, keyspace);
            policy.load_scopes(tables, &snapshot, keyspace);
            policy.load_roles(tables, &snapshot, keyspace);
        }
        Ok(policy)
    }

    fn load_prefixes(&mut self, tables: &Tables, snapshot: &Snapshot, keyspace: &[u8]) {
        use columns::keyspace_prefix as column;
        each_row(tables.prefix, snapshot, keyspace, |row| {
            // All three columns are ASCII, as the table's constraints have it.
            let text =
                |column| row.bytes(column).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
            let columns = (text(column::kind), text(column::environment), text(column::prefix));
            if let (Some(kind), Some(environment), Some(prefix)) = columns {
                self.prefixes.push(Prefix { kind, environment, prefix });
            }
        });
    }

    fn load_scopes(&mut self, tables: &Tables, snapshot: &Snapshot, keyspace: &[u8]) {
        use columns::scope as column;
        let mut implied: Vec<(Bytes, Vec<Bytes>)> = Vec::new();
        each_row(tables.scope, snapshot, keyspace, |row| {
            if let Some(scope) = row.bytes(column::scope) {
                self.scopes.push(scope.into());
                implied.push((scope.into(), texts(row.array(column::implies))));
            }
        });
        implied.retain(|(_, scopes)| !scopes.is_empty());
        self.implications = Implications::new(
            implied.iter().map(|(scope, list)| (&**scope, list.iter().map(|s| &**s).collect())),
        );
    }

    fn load_roles(&mut self, tables: &Tables, snapshot: &Snapshot, keyspace: &[u8]) {
        use columns::role as column;
        each_row(tables.role, snapshot, keyspace, |row| {
            if let Some(role) = row.bytes(column::role) {
                self.roles.insert(role.into(), texts(row.array(column::scopes)));
            }
        });
    }

    pub fn has_role(&self, role: &[u8]) -> bool {
        self.roles.contains_key(role)
    }

    /// Whether a grant names something. While a keyspace has no catalogue of scopes,
    /// every name will do.
    pub fn knows_grant(&self, grant: &[u8]) -> bool {
        self.scopes.is_empty()
            || grant == b"*"
            || self.scopes.iter().any(|known| scope::covers(grant, known))
    }

    /// What a key holds by its own scopes, its role and the role of its owner. A role
    /// that is no longer defined holds nothing.
    #[inline]
    pub fn held<'a>(&'a self, own: &'a [&'a [u8]], roles: [Option<&[u8]>; 2]) -> Held<'a> {
        let own = match (own, self.empty_scopes) {
            ([], EmptyScopes::All) => None,
            ([], EmptyScopes::Defaults) => Some(GrantList::Owned(&self.default_scopes)),
            (own, _) => Some(GrantList::Borrowed(own)),
        };
        let [role, owners] = roles.map(|role| {
            role.map(|role| GrantList::Owned(self.roles.get(role).map_or(&[], Vec::as_slice)))
        });
        Held { within: [own, role, owners], implications: &self.implications }
    }
}

/// All rows of a policy table that belong to a keyspace, its indexes' first column.
fn each_row(table: Table, snapshot: &Snapshot, keyspace: &[u8], mut with: impl FnMut(&Row)) {
    const KEYSPACE: i16 = columns::keyspace::keyspace;
    let relation = Relation::open(table);
    let name = Varlena::new(keyspace);
    let mut scan = relation.scan(snapshot, [ScanKey::text(KEYSPACE, &name)]);
    while let Some(row) = scan.next() {
        with(&row);
    }
}

fn texts(array: Option<ArrayView>) -> Vec<Bytes> {
    array.map(|array| array.iter().flatten().map(Bytes::from).collect()).unwrap_or_default()
}
