//! `erase_tenant`: deletes what may identify the people of a tenant. See `keysmith_private.erase`.

use super::authority;
use super::errors;
use super::keyspace::policy;
use super::level::functions;
use super::tenant::{Tenant, already_exists};
use crate::audit::{self, Act, Subject, erasure};
use pg::attempt::unless_twice;
use pg::call::Call;
use pg::error::{Code, Error, Result};
use pg::notice::warning;
use pg::spi::{self, Param, saved};
use pgrx::pg_sys::Datum;

functions! {
    keysmith_erase_tenant => erase_tenant: Admin;
}

fn erase_tenant(call: &Call) -> Result<Option<Datum>> {
    let tenant = call.required_text(0, "tenant")?;
    let keyspace = call.required_text(1, "keyspace")?;
    authority::act(needs::erase_tenant, |caller| {
        policy(caller, &keyspace)?;
        must_see_everything()?;
        let id = Tenant::lock(caller, &tenant, &keyspace)?.id;
        let act = Act::made(&caller.actor, &keyspace, Subject::Tenant(&id));
        let done = unless_twice(|| {
            spi::execute(saved!("SELECT keysmith_private.erase($1)"), &[Param::uuid(&id)])
        });
        done.ok_or_else(|| already_exists(&errors::shown(&id), &keyspace))??;
        let erased = erasure::erase(&keyspace, &id)?;
        tell_what_stays(&erased.changed, &keyspace);
        // As PostgreSQL writes it.
        let after = format!("{{\"entries\": {:?}}}", ranges(&erased.entries));
        act.done_with("erase_tenant", &after)
    })?;
    Ok(None)
}

/// Numbers in ascending order, as ranges.
fn ranges(entries: &[i64]) -> Vec<[i64; 2]> {
    let ranges = entries.chunk_by(|entry, next| entry + 1 == *next);
    ranges.filter_map(|range| Some([*range.first()?, *range.last()?])).collect()
}

/// Content that was changed by hand is evidence of that.
fn tell_what_stays(changed: &[i64], keyspace: &str) {
    if !changed.is_empty() {
        let message = format!(
            "entries of the audit of keyspace {keyspace:?} were changed by hand, and keep their content: {:?}",
            ranges(changed)
        );
        warning(message, Some("Look at them, and delete their rows by hand.".into()));
    }
}

/// An act that deletes everything must see what others have just done.
pub fn must_see_others(what: &str) -> Result<()> {
    let level = "SELECT pg_catalog.current_setting('transaction_isolation') = 'read committed'";
    if !spi::first(level, &[], |row| Some(row.boolean(1)))?.unwrap_or_default() {
        return Err(Error::new(Code::Conflict, format!("{what} at READ COMMITTED only")));
    }
    Ok(())
}

/// An erasure must see the numbers of all entries, too.
fn must_see_everything() -> Result<()> {
    must_see_others("a tenant is erased")?;
    if audit::has_acted() {
        return Err(Error::new(
            Code::Conflict,
            "a tenant can't be erased after other changes in the same transaction",
        )
        .hint("Commit first."));
    }
    Ok(())
}
