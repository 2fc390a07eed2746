//! Keyspaces: one product's keys each.

use super::authority::{self, Caller};
use super::level::{Needs, functions};
use super::options::Options;
use super::turns;
use crate::audit::{Act, Subject};
use crate::catalog::policy::{DEFAULT, Policy};
use crate::catalog::{Catalog, access};
use keysmith_core::policy::name::{IDENTIFIER_RULE, is_identifier};
use pg::call::{Call, sql_functions};
use pg::error::{Code, Error, Result};
use pg::spi::{self, Param};
use pg::transaction;
use pgrx::pg_sys::Datum;
use std::rc::Rc;

functions! {
    keysmith_create_keyspace => create_keyspace: Admin;
    keysmith_alter_keyspace => alter_keyspace: Admin;
}

sql_functions! {
    keysmith_event_channel => event_channel;
}

/// The policy of a keyspace that must exist, with all changes up to now. It is kept.
pub fn policy(caller: &Caller, keyspace: &str) -> Result<Rc<Policy>> {
    turns::keep_keyspace(keyspace)?;
    let current = || Catalog::open()?.policy(keyspace.as_bytes());
    let policy = current()?;
    if policy.exists() {
        return Ok(policy);
    }
    check_known(keyspace)?;
    let act = Act::on(&caller.actor, DEFAULT, Subject::Keyspace)?;
    if insert(DEFAULT)? {
        Options::default().store(DEFAULT)?;
        act.noted("create_keyspace")?;
    }
    current()
}

/// Checks that a keyspace exists, without making its row. The default one exists before its
/// row does.
pub fn check_known(keyspace: &str) -> Result<()> {
    if keyspace == DEFAULT || Catalog::open()?.policy(keyspace.as_bytes())?.exists() {
        return Ok(());
    }
    let shown: String = keyspace.chars().take(63).collect();
    Err(Error::not_found(format!("keyspace {shown:?} does not exist"))
        .hint("Make it with keysmith.create_keyspace."))
}

/// Writes the row of a keyspace. False if there is one already.
fn insert(keyspace: &str) -> Result<bool> {
    let inserted = spi::execute(
        "INSERT INTO keysmith_private.keyspace (keyspace) VALUES ($1) ON CONFLICT DO NOTHING",
        &[Param::text(keyspace)],
    )?;
    Ok(inserted == 1)
}

/// Locks the row of a keyspace. Acts on its definitions take turns, so that each notes the state
/// that the act before it left.
pub fn lock(keyspace: &str) -> Result<()> {
    spi::execute(
        "SELECT FROM keysmith_private.keyspace WHERE keyspace = $1 FOR NO KEY UPDATE",
        &[Param::text(keyspace)],
    )?;
    Ok(())
}

fn create_keyspace(call: &Call) -> Result<Option<Datum>> {
    let name = call.required_text(0, "name")?;
    if !is_identifier(&name) {
        return Err(Error::argument("name", IDENTIFIER_RULE));
    }
    let options = Options::given(call)?;
    authority::act(needs::create_keyspace, |caller| {
        turns::keep_keyspace(&name)?;
        let act = Act::on(&caller.actor, &name, Subject::Keyspace)?;
        if !insert(&name)? {
            return Err(Error::new(Code::Conflict, format!("keyspace {name:?} already exists")));
        }
        options.store(&name)?;
        act.noted("create_keyspace")
    })?;
    Ok(None)
}

fn alter_keyspace(call: &Call) -> Result<Option<Datum>> {
    let name = call.required_text(0, "name")?;
    let options = Options::changed(call, 1)?;
    authority::act(needs::alter_keyspace, |caller| {
        policy(caller, &name)?;
        lock(&name)?;
        let act = Act::on(&caller.actor, &name, Subject::Keyspace)?;
        options.apply(&name)?;
        act.done("alter_keyspace")
    })?;
    Ok(None)
}

fn event_channel(call: &Call) -> Result<Option<Datum>> {
    let name = call.required_text(0, "keyspace")?;
    access::must_reach(&Catalog::open()?, name.as_bytes(), access::EXPLAINING)?;
    let known = authority::look(Needs::Nothing, |_| {
        check_known(&name)?;
        channel(&name)
    })?;
    if known.is_some() {
        return Ok(known);
    }
    if transaction::is_read_only() {
        return Err(Error::not_found(format!("keyspace {name:?} has no channel yet"))
            .hint("Call event_channel once on the primary, in a transaction that can write."));
    }
    authority::act(Needs::Nothing, |caller| {
        policy(caller, &name)?;
        channel(&name)
    })
}

fn channel(keyspace: &str) -> Result<Option<Datum>> {
    spi::first(
        "SELECT event_channel FROM keysmith_private.keyspace WHERE keyspace = $1",
        &[Param::text(keyspace)],
        |row| row.transferred(1),
    )
}
