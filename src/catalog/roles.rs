//! The roles that a user has the privileges of. Access is looked up for each of them, since
//! they are few and the table of access may be large.

use pg::major;
use pg::role::has_privileges;
use pg::scan::{Relation, ScanKey, Snapshot};
use pgrx::pg_sys::Oid;
use std::collections::BTreeSet;

/// PostgreSQL's table of memberships, and its index by member.
const PG_AUTH_MEMBERS: u32 = 1261;
const BY_MEMBER: u32 = 2695;

/// The owner of the database is a member of this role, without a row in the table.
const PG_DATABASE_OWNER: u32 = 6171;

/// A superuser has the privileges of all roles, and is not listed as a member of them.
pub fn of(user: Oid) -> Vec<Oid> {
    let snapshot = Snapshot::now();
    let members = Relation::open(PG_AUTH_MEMBERS.into(), BY_MEMBER.into());
    let mut found = BTreeSet::from([user.to_u32(), PG_DATABASE_OWNER]);
    let mut next: Vec<u32> = found.iter().copied().collect();
    while let Some(member) = next.pop() {
        let key = ScanKey::oid(major::MEMBERSHIP_MEMBER, member.into());
        let mut scan = members.scan(&snapshot, [key]);
        while let Some(row) = scan.next() {
            let role = row.oid(major::MEMBERSHIP_ROLE).map(Oid::to_u32);
            next.extend(role.filter(|role| found.insert(*role)));
        }
    }
    // PostgreSQL says whether a member has the privileges, or must SET ROLE first.
    let has = |role: &Oid| has_privileges(user, *role);
    found.into_iter().map(Oid::from).filter(has).collect()
}
