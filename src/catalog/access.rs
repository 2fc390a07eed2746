//! Access: the levels that roles have, and the keyspaces and tenants that they are bound to.
//!
//! A decision asks for the keyspaces that its role may decide about. The answer is remembered until
//! an access level or a membership of a role changes. Then each session processes an invalidation
//! with the commit, as for policies.

use super::invalidation;
use super::roles;
use super::{Catalog, columns::access as column};
use pg::error::{Code, Error, Result};
use pg::role::{self, has_privileges};
use pg::scan::{Row, ScanKey, Snapshot};
use pg::text::{lossy, name_of_role, quoted_name};
use pg::trigger::{Returned, TriggerCall, trigger_functions};
use pgrx::pg_sys::Oid;
use std::cell::{Cell, RefCell};

trigger_functions! {
    keysmith_access_changed => access_changed;
}

/// The levels that decide about keys, and those that see the decisions about them.
pub const DECIDING: &[&[u8]] = &[b"verifier", b"admin"];
pub const EXPLAINING: &[&[u8]] = &[b"verifier", b"admin", b"auditor"];

fn access_changed(call: Option<&TriggerCall>) -> Result<Returned> {
    let trigger = call.ok_or_else(|| {
        Error::new(Code::InvalidArgument, "access_changed can be called by triggers alone")
    })?;
    trigger.relation().invalidate();
    Ok(Returned::nothing())
}

/// Passes each row of access of a user's roles to `with`.
pub fn each_of(catalog: &Catalog, user: Oid, mut with: impl FnMut(&Row)) {
    let snapshot = Snapshot::now();
    let access = catalog.tables.access.open();
    for of_user in roles::of(user) {
        let mut scan = access.scan(&snapshot, [ScanKey::oid(column::role, of_user)]);
        while let Some(row) = scan.next() {
            with(&row);
        }
    }
}

/// The keyspaces that a user may decide about.
enum Keyspaces {
    All,
    /// The user's access levels are all bound to keyspaces.
    Only(Vec<Box<[u8]>>),
}

struct Remembered {
    /// The counts of changes before this was read.
    counts: [u64; 2],
    /// A session may decide as several roles, as by SET ROLE for each request.
    users: Vec<(Oid, Keyspaces)>,
}

/// More roles than a session decides as; the others are looked up again.
const MOST_USERS: usize = 16;

thread_local! {
    /// The user who may decide about all keyspaces, and asked last.
    static FREE: Cell<(Oid, [u64; 2])> = const { Cell::new((Oid::INVALID, [u64::MAX; 2])) };
    static REMEMBERED: RefCell<Remembered> =
        const { RefCell::new(Remembered { counts: [u64::MAX; 2], users: Vec::new() }) };
}

/// Checks that the current user may decide about keys of a keyspace. EXECUTE says who may decide;
/// a binding to some keyspaces narrows it.
#[inline]
pub fn must_decide(catalog: &Catalog, keyspace: &[u8]) -> Result<()> {
    if may_decide(catalog, keyspace) { Ok(()) } else { Err(refusal(role::current(), keyspace)) }
}

#[inline]
pub fn may_decide(catalog: &Catalog, keyspace: &[u8]) -> bool {
    let asked = (role::current(), [catalog.changes, invalidation::changes_of_roles()]);
    FREE.get() == asked || ask(catalog, asked, keyspace)
}

#[cold]
fn ask(catalog: &Catalog, (user, counts): (Oid, [u64; 2]), keyspace: &[u8]) -> bool {
    let known = REMEMBERED.with_borrow(|remembered| {
        let mut known = remembered.users.iter().filter(|_| remembered.counts == counts);
        known.find(|(known, _)| *known == user).map(|(_, keyspaces)| keyspaces.have(keyspace))
    });
    known.unwrap_or_else(|| look_again(catalog, user, counts, keyspace))
}

fn look_again(catalog: &Catalog, user: Oid, counts: [u64; 2], keyspace: &[u8]) -> bool {
    let keyspaces = Keyspaces::of(catalog, user, DECIDING);
    let is_theirs = keyspaces.have(keyspace);
    if matches!(keyspaces, Keyspaces::All) {
        FREE.set((user, counts));
    }
    REMEMBERED.with_borrow_mut(|remembered| {
        if remembered.counts != counts || remembered.users.len() >= MOST_USERS {
            *remembered = Remembered { counts, users: Vec::new() };
        }
        remembered.users.push((user, keyspaces));
    });
    is_theirs
}

/// The keyspaces that the current user may decide about; `None` for all.
pub fn decidable(catalog: &Catalog) -> Option<Vec<Box<[u8]>>> {
    match Keyspaces::of(catalog, role::current(), DECIDING) {
        Keyspaces::All => None,
        Keyspaces::Only(bound) => Some(bound),
    }
}

/// The same as `must_decide`, for functions that are called seldom, and for other levels.
pub fn must_reach(catalog: &Catalog, keyspace: &[u8], levels: &[&[u8]]) -> Result<()> {
    let user = role::current();
    match Keyspaces::of(catalog, user, levels).have(keyspace) {
        true => Ok(()),
        false => Err(refusal(user, keyspace)),
    }
}

impl Keyspaces {
    fn of(catalog: &Catalog, user: Oid, levels: &[&[u8]]) -> Keyspaces {
        if has_privileges(user, catalog.owner()) {
            return Keyspaces::All;
        }
        let (mut bound, mut is_free) = (Vec::new(), false);
        each_of(catalog, user, |row| {
            if row.bytes(column::level).is_some_and(|level| levels.contains(&level)) {
                match row.bytes(column::keyspace) {
                    Some(keyspace) => bound.push(Box::from(keyspace)),
                    None => is_free = true,
                }
            }
        });
        // A role without a level may have EXECUTE all the same.
        if is_free || bound.is_empty() { Keyspaces::All } else { Keyspaces::Only(bound) }
    }

    fn have(&self, keyspace: &[u8]) -> bool {
        match self {
            Keyspaces::All => true,
            Keyspaces::Only(bound) => bound.iter().any(|bound| **bound == *keyspace),
        }
    }
}

#[cold]
fn refusal(user: Oid, keyspace: &[u8]) -> Error {
    let (role, keyspace) = (name_of_role(user), lossy(keyspace));
    let shown: String = keyspace.chars().take(63).collect();
    Error::new(
        Code::NotAllowed,
        format!("keyspace must be one that role {role:?} is bound to, which {shown:?} is not"),
    )
    .hint(format!(
        "keysmith.grant_access({}, 'verifier', keyspace => …) gives it another keyspace.",
        pg::text::literal(&quoted_name(&role))
    ))
}
