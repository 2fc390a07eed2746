//! `add_credits`.

use super::authority;
use super::credits::{CreditHolder, add};
use super::keyspace::policy;
use super::level::functions;
use super::locked_key::LockedKey;
use super::tenant::Tenant;
use crate::audit::{Act, Subject};
use pg::call::{Call, must_not_be_null};
use pg::error::{Error, Result};
use pgrx::pg_sys::Datum;

functions! {
    keysmith_add_credits => add_credits: Admin;
}

fn add_credits(call: &Call) -> Result<Option<Datum>> {
    let amount = call.bigint(0).ok_or_else(|| must_not_be_null("amount"))?;
    let key_id = call.datum(1).map(|_| call.uuid(1, "key_id")).transpose()?;
    let tenant = call.text(2, "tenant")?;
    let keyspace = call.required_text(3, "keyspace")?;
    if amount == 0 {
        return Err(Error::argument("amount", "must not be 0"));
    }
    let balance = authority::act(needs::add_credits, |caller| match (&key_id, &tenant) {
        (Some(key_id), None) => {
            let subject = LockedKey::lock(caller, key_id)?;
            let act = Act::on(&caller.actor, &subject.keyspace, Subject::Key(key_id))?;
            let balance = add(CreditHolder::Key(&subject.purse), amount)?;
            act.done("add_credits")?;
            Ok(balance)
        }
        (None, Some(tenant)) => {
            policy(caller, &keyspace)?;
            let id = Tenant::lock(caller, tenant, &keyspace)?.id;
            let act = Act::on(&caller.actor, &keyspace, Subject::Tenant(&id))?;
            let balance = add(CreditHolder::Tenant(&id), amount)?;
            act.done("add_credits")?;
            Ok(balance)
        }
        _ => Err(Error::argument("key_id", "or tenant must be given, and not both")),
    })?;
    Ok(Some(Datum::from(balance)))
}
