//! `act_as`: signs in a person whom the application has authenticated by other means.
//!
//! It writes nothing itself, so it works on standbys, too. Like a decision, it leaves a record of
//! usage. The audit says for which member an act was done.

use super::authority;
use super::errors::unknown_member;
use super::keyspace::check_known;
use super::level::functions;
use super::tenant::Tenant;
use crate::catalog::Catalog;
use crate::decide::lookup::Reader;
use crate::identity::{self, Identity, person_is_over};
use crate::{request_id, usage};
use keysmith_core::event::Person;
use keysmith_core::policy::verdict::Reason;
use pg::call::Call;
use pg::clock;
use pg::error::{Code, Error, Result};
use pg::text::to_server;
use pgrx::pg_sys::Datum;

functions! {
    keysmith_act_as => act_as: Host;
}

fn act_as(call: &Call) -> Result<Option<Datum>> {
    let tenant = call.required_text(0, "tenant")?;
    let member = call.text(1, "member")?;
    let keyspace = call.required_text(2, "keyspace")?;
    identity::must_be_free()?;
    authority::sign_in(needs::act_as, |caller| {
        caller.must_host_some_of(&keyspace)?;
        check_known(&keyspace)?;
        let tenant_id = Tenant::find(caller, &tenant, &keyspace)?.id;
        let now = clock::now();
        let request_id = request_id::next(now);
        let (space, name) = (to_server(&keyspace), member.as_deref().map(to_server));
        let (space, name) = (space.as_bytes(), name.as_ref().map(|name| name.as_bytes()));
        let catalog = Catalog::open()?;
        let reader = Reader::new(&catalog);
        let found = Identity::of_person(&reader, tenant_id, space, name, request_id)?;
        let identity = found.map_err(|reason| match reason {
            Reason::OwnerGone => unknown_member("member", member.as_deref().unwrap_or_default()),
            Reason::TenantSuspended => {
                Error::new(Code::NotAllowed, format!("tenant {tenant:?} is suspended"))
                    .hint("keysmith.resume_tenant ends that.")
            }
            reason => person_is_over(reason),
        })?;
        let role = to_server(&caller.actor.role);
        let person =
            Person { member: identity.person().unwrap_or_default(), role: role.as_bytes() };
        usage::signed_in(space, tenant_id, request_id, person, now);
        identity::sign_in(Some(identity));
        Ok(())
    })?;
    Ok(None)
}
