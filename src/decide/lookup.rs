//! Finding the rows of a key, its tenant and its owner: at the places that the directory has, or by
//! the indexes.

use super::allowlists::{self, KeysAllowlists};
use super::presented::{Presented, Sought};
use crate::catalog::directory::Known;
use crate::catalog::policy::Policy;
use crate::catalog::{Catalog, columns};
use crate::pepper;
use crate::verdict::Account;
use crate::verdict::Holder;
use columns::{key, member, tenant};
use keysmith_core::directory::{KeyEntry, Place, Places};
use keysmith_core::key::digest::KeyDigest;
use keysmith_core::key::foreign::Hashings;
use keysmith_core::policy::allowlist::Allowlists;
use keysmith_core::policy::lifetime::Life;
use keysmith_core::policy::rules::{Found, Instant, Kind};
use keysmith_core::policy::scope::HeldScopes;
use keysmith_core::policy::verdict::Reason;
use keysmith_core::token::verify::Token;
use pg::error::Result;
use pg::scan::{Pinned, Relation, Room, Row, ScanKey, Snapshot, Varlena};
use std::cell::{Cell, OnceCell};
use std::rc::Rc;

/// A snapshot, and the tables that are read under it. Each table is opened when it is first needed,
/// and stays open for the rest of a batch.
pub struct Reader<'a> {
    pub catalog: &'a Catalog,
    snapshot: OnceCell<Snapshot>,
    keys: OnceCell<Relation>,
    keys_by_id: OnceCell<Relation>,
    tenants: OnceCell<Relation>,
    members: OnceCell<Relation>,
    /// Whether the directory lacked the key that was looked for last.
    is_miss: Cell<bool>,
    /// Space for the rows of one key at a time.
    rooms: Rooms,
}

#[derive(Default)]
struct Rooms {
    key: Room,
    tenant: Room,
    member: Room,
}

impl<'a> Reader<'a> {
    /// The snapshot is taken when it is first needed.
    #[inline]
    pub fn new(catalog: &'a Catalog) -> Reader<'a> {
        Reader {
            catalog,
            snapshot: OnceCell::new(),
            keys: OnceCell::new(),
            keys_by_id: OnceCell::new(),
            tenants: OnceCell::new(),
            members: OnceCell::new(),
            is_miss: Cell::new(false),
            rooms: Rooms::default(),
        }
    }

    #[inline]
    pub fn snapshot(&self) -> &Snapshot {
        self.snapshot.get_or_init(Snapshot::now)
    }

    /// The value of `invalidation::changes` when the catalog was opened.
    pub fn changes(&self) -> u64 {
        self.catalog.changes
    }

    /// The policy of a keyspace under the reader's snapshot.
    pub fn policy(&self, keyspace: &[u8]) -> Result<Rc<Policy>> {
        self.catalog.policy_under(self.snapshot(), keyspace)
    }

    /// Returns the policy to decide by, and the bytes to look the key up by or a reason to refuse
    /// it. A key that is refused before any row is read is refused by the cached policy. Otherwise
    /// the reader takes its snapshot, and the policy is the one that this snapshot sees: also for a
    /// request without a key, which a public route lets through, and for a token, which must have the
    /// issuer of the policy.
    #[inline]
    pub fn sought<'p>(
        &self,
        keyspace: &[u8],
        presented: impl Fn(&Policy) -> Presented<'p>,
    ) -> Result<(Rc<Policy>, std::result::Result<Sought<'p>, Reason>)> {
        let policy = match self.catalog.remembered(keyspace) {
            Some(policy) => {
                let sought = presented(&policy).sought(&policy, keyspace);
                let is_refused = sought
                    .as_ref()
                    .is_err_and(|reason| !matches!(reason, Reason::Missing | Reason::TokenInvalid));
                if is_refused || self.catalog.is_seen(&policy, self.snapshot(), keyspace) {
                    return Ok((policy, sought));
                }
                self.catalog.read_policy(self.snapshot(), keyspace)?
            }
            None => self.policy(keyspace)?,
        };
        let sought = presented(&policy).sought(&policy, keyspace);
        Ok((policy, sought))
    }

    /// Finds the rows of a key, and notes their places in the directory.
    #[inline(always)]
    pub fn find(
        &self,
        sought: Sought,
        keyspace: &[u8],
    ) -> std::result::Result<KeyRows<'_>, Reason> {
        let known = sought.known(keyspace);
        if let Some(known) = &known
            && let Some(entry) = known.entry
            && let Some(key) = self.key_at(&entry, keyspace)
            && is_of(&key, &sought)
        {
            let mut rows = self.gather(key, entry.places);
            known.note(&KeyEntry { places: rows.places(), ..entry });
            if let Sought::Token(token) = sought {
                rows.token = Some(token);
            }
            return Ok(rows);
        }
        self.is_miss.set(known.is_some());
        let rows = self.find_sought(sought, keyspace)?;
        if let Some(known) = &known {
            rows.note(known);
        }
        Ok(rows)
    }

    /// Whether the directory lacked the key of the last `find`, if nothing has asked since.
    #[inline]
    pub fn take_miss(&self) -> bool {
        self.is_miss.take()
    }

    /// Finds the rows of a key that may be stored by one of several digests.
    #[cold]
    fn find_by_any(
        &self,
        key: &[u8],
        hashings: Hashings,
        keyspace: &[u8],
    ) -> std::result::Result<KeyRows<'_>, Reason> {
        let mut reason = Reason::NotFound;
        for digest in hashings.digests(key) {
            match self.find_by_digest(&digest, keyspace) {
                Ok(rows) => return Ok(rows),
                Err(Reason::WrongKeyspace) => reason = Reason::WrongKeyspace,
                Err(_) => {}
            }
        }
        Err(reason)
    }

    /// Finds the rows of a key, in every way in which it may be stored, without the directory.
    #[inline]
    pub fn find_sought(
        &self,
        sought: Sought,
        keyspace: &[u8],
    ) -> std::result::Result<KeyRows<'_>, Reason> {
        match sought {
            Sought::Imported(key, hashings) => self.find_by_any(key, hashings, keyspace),
            Sought::Key(key) => self.find_by_digest(&KeyDigest::of(key), keyspace),
            Sought::Digest(digest) => self.find_by_digest(&digest, keyspace),
            Sought::Token(token) => self.find_by_token(token, keyspace),
        }
    }

    /// Finds the rows of the key that a token was made from.
    #[cold]
    #[inline(never)]
    fn find_by_token(
        &self,
        token: Rc<Token>,
        keyspace: &[u8],
    ) -> std::result::Result<KeyRows<'_>, Reason> {
        let rows = self.find_by_id(&token.key_id);
        let rows = rows.filter(|rows| rows.key.bytes(key::keyspace) == Some(keyspace));
        Ok(rows.ok_or(Reason::TokenInvalid)?.with(Some(token)))
    }

    /// Finds the rows of a key by the index on digests.
    fn find_by_digest(
        &self,
        digest: &KeyDigest,
        keyspace: &[u8],
    ) -> std::result::Result<KeyRows<'_>, Reason> {
        let mut reason = Reason::NotFound;
        for (generation, stored) in pepper::peppers().candidates(digest) {
            let stored = Varlena::new(&stored);
            let by_digest = [ScanKey::bytes(key::digest, &stored)];
            let found = self.keys().first(self.snapshot(), &self.rooms.key, by_digest, |row| {
                let is_it = row.smallint(key::generation) == Some(generation);
                let is_here = row.bytes(key::keyspace) == Some(keyspace);
                if is_it && !is_here {
                    reason = Reason::WrongKeyspace;
                }
                is_it && is_here
            });
            if let Some(key) = found {
                return Ok(self.gather(key, Places::default()));
            }
        }
        Err(reason)
    }

    /// Finds the rows of a key by its id.
    pub fn find_by_id(&self, key_id: &[u8; 16]) -> Option<KeyRows<'_>> {
        let keys = self.keys_by_id.get_or_init(|| self.catalog.tables.key_by_id.open());
        let by_id = [ScanKey::uuid(key::key_id, key_id)];
        let key = keys.first(self.snapshot(), &self.rooms.key, by_id, |_| true)?;
        Some(self.gather(key, Places::default()))
    }

    /// Finds the rows of a person of a tenant: of a member, or of the tenant as a whole.
    pub fn find_person(
        &self,
        tenant_id: &[u8; 16],
        member: Option<&[u8]>,
    ) -> std::result::Result<PersonRows<'_>, Reason> {
        let tenant = self.tenant(tenant_id, Place::default()).ok_or(Reason::NotFound)?;
        if !tenant.is_null(tenant::suspended_at) {
            return Err(Reason::TenantSuspended);
        }
        let member = member
            .map(|name| self.member(tenant_id, name, Place::default()).ok_or(Reason::OwnerGone));
        Ok(PersonRows { tenant, member: member.transpose()? })
    }

    #[inline]
    fn keys(&self) -> &Relation {
        self.keys.get_or_init(|| self.catalog.tables.key.open())
    }

    /// The key's row, if it is still at the place that the directory has.
    #[inline]
    fn key_at(&self, entry: &KeyEntry, keyspace: &[u8]) -> Option<Pinned<'_>> {
        let row = self.keys().fetch(self.snapshot(), entry.places.key, &self.rooms.key)?;
        let is_it = row.bytes(key::digest) == Some(&entry.digest)
            && row.smallint(key::generation) == Some(entry.generation)
            && row.bytes(key::keyspace) == Some(keyspace);
        is_it.then_some(row)
    }

    /// Adds the rows of the key's tenant and owner, which are looked for at these places first.
    #[inline]
    fn gather<'r>(&'r self, key: Pinned<'r>, places: Places) -> KeyRows<'r> {
        let tenant_id = key.uuid(key::tenant_id).unwrap_or_default();
        let tenant = self.tenant(&tenant_id, places.tenant);
        let owner =
            key.bytes(key::owner).and_then(|owner| self.member(&tenant_id, owner, places.member));
        KeyRows { key, tenant, owner, token: None }
    }

    #[inline]
    fn tenant(&self, tenant_id: &[u8; 16], place: Place) -> Option<Pinned<'_>> {
        let tenants = self.tenants.get_or_init(|| self.catalog.tables.tenant.open());
        if let Some(row) = tenants.fetch(self.snapshot(), place, &self.rooms.tenant)
            && row.uuid(tenant::tenant_id).as_ref() == Some(tenant_id)
        {
            return Some(row);
        }
        let by_id = [ScanKey::uuid(tenant::tenant_id, tenant_id)];
        tenants.first(self.snapshot(), &self.rooms.tenant, by_id, |_| true)
    }

    fn member(&self, tenant_id: &[u8; 16], name: &[u8], place: Place) -> Option<Pinned<'_>> {
        let members = self.members.get_or_init(|| self.catalog.tables.member.open());
        if let Some(row) = members.fetch(self.snapshot(), place, &self.rooms.member)
            && row.uuid(member::tenant_id).as_ref() == Some(tenant_id)
            && row.bytes(member::member) == Some(name)
        {
            return Some(row);
        }
        let name = Varlena::new(name);
        let by_name =
            [ScanKey::uuid(member::tenant_id, tenant_id), ScanKey::text(member::member, &name)];
        members.first(self.snapshot(), &self.rooms.member, by_name, |_| true)
    }
}

/// Whether a row is that of the key of a token, if one is sought. Another key may have the same digest
/// now, at the same place, if the token's key was removed by hand.
#[inline]
fn is_of(key: &Row, sought: &Sought) -> bool {
    match sought {
        Sought::Token(token) => key.uuid(key::key_id) == Some(token.key_id),
        _ => true,
    }
}

/// The rows of a person. They stay pinned while this lives.
pub struct PersonRows<'a> {
    tenant: Pinned<'a>,
    member: Option<Pinned<'a>>,
}

impl PersonRows<'_> {
    /// The tenant's name.
    pub fn tenant(&self) -> &[u8] {
        self.tenant.bytes(tenant::name).unwrap_or_default()
    }

    /// The name of the member, and its role. Both are `None` for the tenant as a whole.
    pub fn member(&self) -> [Option<&[u8]>; 2] {
        let of_member =
            |column| self.member.as_ref().map(|row| row.bytes(column).unwrap_or_default());
        [of_member(member::member), of_member(member::role)]
    }
}

/// All rows that a decision about a key needs. They stay pinned while this lives.
pub struct KeyRows<'a> {
    key: Pinned<'a>,
    /// A foreign key makes sure that this row exists. Without it the key is refused.
    tenant: Option<Pinned<'a>>,
    /// The member that owns the key.
    owner: Option<Pinned<'a>>,
    /// The token that was presented in place of the key.
    token: Option<Rc<Token>>,
}

impl<'a> KeyRows<'a> {
    /// The rows, narrowed by a token of the key.
    pub fn with(self, token: Option<Rc<Token>>) -> KeyRows<'a> {
        KeyRows { token, ..self }
    }

    /// The key's own row.
    pub fn key(&self) -> &Row<'a> {
        &self.key
    }

    fn places(&self) -> Places {
        let place = |row: &Option<Pinned>| row.as_ref().map_or(Place::default(), |row| row.place());
        Places { key: self.key.place(), tenant: place(&self.tenant), member: place(&self.owner) }
    }

    /// Notes the places of the rows in the directory.
    fn note(&self, known: &Known) {
        let digest = self.key.bytes(key::digest).and_then(|digest| digest.try_into().ok());
        if let (Some(digest), Some(generation)) = (digest, self.key.smallint(key::generation)) {
            known.note(&KeyEntry { digest, generation, places: self.places() });
        }
    }

    /// The key's own scopes.
    #[inline]
    pub fn scopes(&self) -> Vec<&[u8]> {
        match self.key.array(key::scopes) {
            Some(scopes) if !scopes.is_empty() => scopes.iter().flatten().collect(),
            _ => Vec::new(),
        }
    }

    /// What the key holds, or the part of it that its token gives. `own` and `bound` are the key's own
    /// scopes and those of its tenant.
    #[inline]
    pub fn held<'f>(
        &'f self,
        policy: &'f Policy,
        own: &'f [&'f [u8]],
        bound: Option<&'f [&'f [u8]]>,
    ) -> HeldScopes<'f> {
        let held = policy.held(own, self.roles()).bounded(bound);
        match &self.token {
            None => held,
            Some(token) => held.narrowed(token.scopes()),
        }
    }

    /// The roles of the key and of its owner.
    #[inline]
    pub fn roles(&self) -> [Option<&[u8]>; 2] {
        let owners = self.owner.as_ref().and_then(|owner| owner.bytes(member::role));
        [self.key.bytes(key::role), owners]
    }

    /// The scopes that no key of the tenant goes beyond, if the tenant has such a list.
    #[inline]
    pub fn tenants_scopes(&self) -> Option<Vec<&[u8]>> {
        let scopes = self.tenant.as_ref()?.array(tenant::scopes)?;
        Some(scopes.iter().flatten().collect())
    }

    /// The allowlists that hold for the key; `None` if no list is set.
    #[inline]
    pub fn allowlists<'f>(&'f self, policy: &'f Policy) -> Option<KeysAllowlists<'f>> {
        let own = self.key.stored(key::allowlist);
        let tenants = self.tenant.as_ref().and_then(|row| row.stored(tenant::allowlist));
        let keyspaces = policy.allowlist.as_ref();
        let tokens = self.token.as_ref().and_then(|token| token.allowlist());
        if own.is_none() && tenants.is_none() && keyspaces.is_none() && tokens.is_none() {
            return None;
        }
        Some(KeysAllowlists {
            own: own.map(|list| allowlists::of_row(self.key_id(), list)),
            tenants: tenants.map(|list| {
                let tenant_id = self.key.uuid(key::tenant_id).unwrap_or_default();
                allowlists::of_row(tenant_id, list)
            }),
            keyspaces,
            tokens,
        })
    }

    #[inline]
    fn key_id(&self) -> [u8; 16] {
        self.key.uuid(key::key_id).unwrap_or_default()
    }

    /// The bounds of the key's life.
    #[inline]
    pub fn life(&self, policy: &Policy) -> Life {
        Life {
            created_at: self.key.timestamp(key::created_at).unwrap_or(Instant::MIN),
            expires_at: self.key.timestamp(key::expires_at),
            tenants: self.tenant.as_ref().and_then(|row| row.microseconds(tenant::max_lifetime)),
            keyspaces: policy.max_lifetime,
        }
    }

    #[inline]
    fn disabled(&self) -> Option<Reason> {
        let is_idle = || self.key.bytes(key::disabled_reason) == Some(b"idle");
        let is_disabled = !self.key.is_null(key::disabled_at);
        is_disabled.then(|| if is_idle() { Reason::Idle } else { Reason::Disabled })
    }

    /// The facts that the rules decide by.
    #[inline]
    pub fn found<'f>(
        &'f self,
        expires_at: Option<Instant>,
        held: HeldScopes<'f>,
        allowlists: Option<&'f KeysAllowlists<'_>>,
    ) -> Found<'f> {
        let is_suspended = |tenant: &Pinned| !tenant.is_null(tenant::suspended_at);
        Found {
            environment: self.key.bytes(key::environment).unwrap_or_default(),
            kind: self.key.bytes(key::kind).and_then(Kind::parse),
            revoked_at: self.key.timestamp(key::revoked_at),
            expires_at,
            disabled: self.disabled(),
            tenant_suspended: self.tenant.as_ref().is_none_or(is_suspended),
            owner_gone: self.owner.is_none() && !self.key.is_null(key::owner),
            allowlists: allowlists.map(|lists| lists as &dyn Allowlists),
            held,
            token: self.token.as_deref(),
        }
    }

    /// The facts that verdicts, identities and usage records contain. `expires_at` is the end of the
    /// key: a token may end earlier.
    #[inline]
    pub fn holder<'h>(
        &'h self,
        expires_at: Option<Instant>,
        keyspace: &'h [u8],
        own: &'h [&'h [u8]],
        bound: Option<&'h [&'h [u8]]>,
        effective: &'h [&'h [u8]],
    ) -> Holder<'h> {
        let of_tenant = |column| self.tenant.as_ref().and_then(|tenant| tenant.bytes(column));
        let key_id = self.key_id();
        let tenant_id = self.key.uuid(key::tenant_id).unwrap_or_default();
        let environment = self.key.bytes(key::environment).unwrap_or_default();
        let roles = self.roles();
        Holder {
            key_id,
            tenant: of_tenant(tenant::name),
            tenant_id,
            keyspace,
            environment,
            kind: self.key.bytes(key::kind).unwrap_or_default(),
            owner: self.key.bytes(key::owner),
            role: roles[0].or(roles[1]),
            label: self.key.bytes(key::label),
            plan: of_tenant(tenant::plan),
            own,
            bound,
            roles,
            scopes: effective,
            metadata: self.key.jsonb(key::metadata),
            expires_at: match &self.token {
                None => expires_at,
                Some(token) => {
                    Some(expires_at.map_or(token.expires_at, |at| at.min(token.expires_at)))
                }
            },
            token: self.token.as_ref(),
            account: Account {
                keyspace,
                environment,
                key: self.key.uuid(key::origin).unwrap_or(key_id),
                tenant: tenant_id,
                member: self.key.bytes(key::owner),
                purse: self.key.uuid(key::purse),
                limits: self.key.bytes(key::limits),
                shared_limits: self.key.bytes(key::shared_limits),
                tenants_limits: of_tenant(tenant::limits),
            },
        }
    }
}
