//! The operations of endpoints, by our own SQL functions: with their privileges, their rules, and
//! their errors. Tenant and keyspace are the identity's.

use super::failure::Failure;
use super::statement::Statement;
use crate::identity::{self, Identity};
use crate::manage::authority;
use crate::manage::level::Needs;
use crate::manage::listing;
use crate::manage::usage;
use crate::signing;
use keysmith_core::http::operation::{Kind, Named, Operation};
use keysmith_core::http::time::in_seconds;
use keysmith_core::policy::verdict::Answer;
use pg::attempt::unless_canceled;
use pg::error::{Code, Error, Result};
use pg::input;
use pg::text::lossy;
use serde_json::{Map, Value, json};
use std::rc::Rc;

type Object = Map<String, Value>;

/// The values of an answer.
#[derive(Default)]
pub struct Values {
    pub whole: Object,
    pub rows: Vec<Object>,
}

/// Runs an operation in a subtransaction, and forms the answer there, too: if that fails, nothing was
/// done.
pub fn run<T>(
    operation: Operation,
    keyspace: &[u8],
    id: Option<&str>,
    arguments: Object,
    form: impl FnOnce(&Values) -> Result<T>,
) -> Result<T, Failure> {
    let outcome = unless_canceled(|| {
        if operation == Operation::Jwks {
            return form(&jwks(keyspace)?).map(Ok);
        }
        let Some(identity) = identity::current()? else {
            return Ok(Err(Failure::of(Answer::MissingAuthorization)));
        };
        // Everyone can read a publishable key, but the tenant's requests are not for everyone.
        if matches!(operation, Operation::UsageLogs | Operation::UsageTotals)
            && identity.key.as_ref().is_some_and(|key| !key.is_secret)
        {
            return Ok(Err(Failure::of(Answer::InsufficientKind)));
        }
        // That is for the operator to know, and not for the client.
        if let Some(needs) = needs(operation)
            && !authority::may(needs)?
        {
            return Ok(Err(Failure::of_access(operation)));
        }
        if operation == Operation::DeriveToken && signing::keys_of(keyspace).newest().is_none() {
            return Ok(Err(Failure::of_signing()));
        }
        let values = Act { operation, identity, arguments }.done(id)?;
        form(&values).map(Ok)
    });
    outcome.unwrap_or_else(|failure| Err(Failure::caused_by(failure)))
}

/// The access that an operation takes, as its SQL function does.
fn needs(operation: Operation) -> Option<Needs> {
    match operation {
        // These need only the right to decide.
        Operation::Whoami | Operation::DeriveToken | Operation::Jwks => None,
        _ if operation.only_reads() => Some(Needs::Sight),
        _ => Some(Needs::Keys),
    }
}

struct Act {
    operation: Operation,
    identity: Rc<Identity>,
    arguments: Object,
}

impl Act {
    fn done(&self, id: Option<&str>) -> Result<Values> {
        match self.operation {
            Operation::Mint => self
                .new_key(self.of_tenant(), "SELECT m.key_id, m.api_key FROM keysmith.mint({}) m"),
            Operation::Regenerate => self.new_key(
                self.of_tenant(),
                "SELECT m.key_id, m.api_key FROM keysmith.regenerate({}) m",
            ),
            Operation::Rotate => self
                .new_key(self.of_key(id)?, "SELECT m.key_id, m.api_key FROM keysmith.rotate({}) m"),
            Operation::Revoke => self.change(id, "SELECT keysmith.revoke({})"),
            Operation::Disable => self.change(id, "SELECT keysmith.disable({})"),
            Operation::Enable => self.change(id, "SELECT keysmith.enable({})"),
            Operation::AlterKey => {
                let key_id = self.key(id)?;
                let changes = Value::Object(self.arguments.clone());
                Statement::new()
                    .uuid("key_id", key_id)
                    .json("changes", &changes)
                    .run("SELECT FROM keysmith.alter_key({})", |_| ())?;
                self.listed(&key_id)
            }
            Operation::ShowKey => {
                let shown = listing::shown(&self.key(id)?)?;
                self.whole(shown.as_deref())
            }
            Operation::ListKeys => self.list(),
            Operation::Whoami => Statement::new().run("SELECT keysmith.whoami()", |rows| {
                self.whole(rows.first().and_then(|row| row.text(1)).as_deref())
            })?,
            Operation::UsageLogs => self.usage_logs(id),
            Operation::UsageTotals => self.usage_totals(id),
            Operation::DeriveToken => {
                let call = Statement::new().arguments(&self.arguments, |name| self.kind(name));
                call.run(
                    "SELECT pg_catalog.to_jsonb(t) FROM keysmith.derive_token({}) t",
                    |rows| self.whole(rows.first().and_then(|row| row.text(1)).as_deref()),
                )?
            }
            // It takes no identity.
            Operation::Jwks => jwks(&self.identity.keyspace),
        }
    }

    /// A call for the identity's tenant.
    fn of_tenant(&self) -> Statement {
        Statement::new()
            .server_text("tenant", &self.identity.tenant)
            .server_text("keyspace", &self.identity.keyspace)
            .arguments(&self.arguments, |name| self.kind(name).filter(|_| name != "all_keys"))
    }

    /// A call for a key.
    fn of_key(&self, id: Option<&str>) -> Result<Statement> {
        let call = Statement::new().uuid("key_id", self.key(id)?);
        Ok(call.arguments(&self.arguments, |name| self.kind(name)))
    }

    fn kind(&self, argument: &str) -> Option<Kind> {
        self.operation.argument(argument).map(|argument| argument.kind)
    }

    /// The key that a request names. Without a name it is the acting key; for a person, the only
    /// active key of the tenant.
    fn key(&self, id: Option<&str>) -> Result<[u8; 16]> {
        let unknown = || Error::not_found("there is no such key");
        match id {
            None => match &self.identity.key {
                Some(key) => Ok(key.id),
                None => listing::only_active(&self.identity.tenant_id),
            },
            Some(id) => match input::uuid(id) {
                Some(key_id) => Ok(key_id),
                None => {
                    let Identity { tenant_id, keyspace, .. } = &*self.identity;
                    listing::named(tenant_id, keyspace, id)?.ok_or_else(unknown)
                }
            },
        }
    }

    fn new_key(&self, call: Statement, statement: &str) -> Result<Values> {
        let made = call.run(statement, |rows| {
            let row = rows.first()?;
            Some((row.uuid(1)?, row.text(2)?))
        })?;
        let Some((key_id, api_key)) = made else { return Ok(Values::default()) };
        let mut values = self.listed(&key_id)?;
        values.whole.insert("api_key".into(), api_key.into());
        Ok(values)
    }

    fn change(&self, id: Option<&str>, statement: &str) -> Result<Values> {
        let key_id = self.key(id)?;
        let call = Statement::new().uuid("key_id", key_id);
        call.arguments(&self.arguments, |name| self.kind(name)).run(statement, |_| ())?;
        self.listed(&key_id)
    }

    /// A key that this operation was allowed to change, as it is now.
    fn listed(&self, key_id: &[u8; 16]) -> Result<Values> {
        self.whole(listing::as_json(key_id)?.as_deref())
    }

    fn whole(&self, json: Option<&str>) -> Result<Values> {
        let whole = json.map(object).transpose()?.unwrap_or_default();
        Ok(Values { whole: shown(whole, self.operation.values()), rows: Vec::new() })
    }

    fn keyspace(&self) -> String {
        lossy(&self.identity.keyspace)
    }

    fn is_set(&self, argument: &str) -> bool {
        self.arguments.get(argument) == Some(&Value::Bool(true))
    }

    fn text(&self, argument: &str) -> Option<&str> {
        self.arguments.get(argument).and_then(Value::as_str)
    }

    /// A number of a page, or of rows on a page.
    fn counter(&self, argument: &str, usual: i64, most: i64) -> Result<i64> {
        let given = self.arguments.get(argument).and_then(Value::as_i64).unwrap_or(usual);
        match (1..=most).contains(&given) {
            true => Ok(given),
            false => Err(Error::argument(argument, format!("must be from 1 to {most}"))),
        }
    }

    fn list(&self) -> Result<Values> {
        /// The most keys of one answer.
        const MOST: i64 = 1000;
        let (page, limit) =
            (self.counter("page", 1, i32::MAX.into())?, self.counter("per_page", MOST, MOST)?);
        let filter = listing::Filter {
            include_revoked: self.is_set("include_revoked"),
            status: self.text("status"),
            kind: self.text("kind"),
            environment: self.text("environment"),
        };
        let (total, keys) = listing::page(
            &self.identity.tenant_id,
            &self.keyspace(),
            &filter,
            limit,
            (page - 1) * limit,
        )?;
        let of_rows = self.operation.rows().unwrap_or_default();
        let row = |json: String| object(&json).map(|row| shown(row, of_rows));
        Ok(Values {
            whole: page_of(page, limit, total),
            rows: keys.into_iter().map(row).collect::<Result<_>>()?,
        })
    }

    /// The key whose requests are asked for; `None` for those of the whole tenant. Without a name it
    /// is the acting key. A person without a name asks for the tenant.
    fn key_of_usage(&self, id: Option<&str>) -> Result<Option<[u8; 16]>> {
        let is_whole = self.identity.key.is_none() || self.is_set("all_keys");
        if id.is_none() && is_whole { Ok(None) } else { self.key(id).map(Some) }
    }

    fn usage_logs(&self, id: Option<&str>) -> Result<Values> {
        let mut call = self.of_tenant();
        if let Some(key_id) = self.key_of_usage(id)? {
            call = call.uuid("key_id", key_id);
        }
        let rows = self.operation.rows().unwrap_or_default();
        call.run("SELECT keysmith.usage_logs({})", |found| {
            let json = found.first().and_then(|row| row.text(1)).unwrap_or_default();
            let mut logs: Object = serde_json::from_str(&json).unwrap_or_default();
            let object = |row: Value| match row {
                Value::Object(row) => Some(shown(row, rows)),
                _ => None,
            };
            let data = match logs.remove("data") {
                Some(Value::Array(data)) => data.into_iter().filter_map(object).collect(),
                _ => Vec::new(),
            };
            let whole = match logs.remove("meta") {
                Some(Value::Object(meta)) => meta,
                _ => Object::new(),
            };
            Values { whole, rows: data }
        })
    }

    fn usage_totals(&self, id: Option<&str>) -> Result<Values> {
        let key_id = self.key_of_usage(id)?;
        let per = self.text("per").unwrap_or("day");
        let (since, until) = (self.text("since"), self.text("until"));
        let totals = usage::totals(
            &self.identity.tenant_id,
            &self.keyspace(),
            key_id.as_ref(),
            per,
            since,
            until,
        )?;
        let row = |total: usage::Total| {
            Ok(Object::from_iter([
                ("at".into(), in_seconds(&total.at).into()),
                ("requests".into(), total.requests.into()),
                ("refused".into(), total.refused.into()),
                ("spend".into(), total.spend.into()),
                ("units".into(), Value::Object(object(&total.units)?)),
            ]))
        };
        let rows = totals.into_iter().map(row).collect::<Result<_>>()?;
        Ok(Values { whole: Object::new(), rows })
    }
}

/// The public keys of a keyspace.
fn jwks(keyspace: &[u8]) -> Result<Values> {
    let call = Statement::new().server_text("keyspace", keyspace);
    let set =
        call.run("SELECT keysmith.jwks({})", |rows| rows.first().and_then(|row| row.text(1)))?;
    Ok(Values {
        whole: set.as_deref().map(object).transpose()?.unwrap_or_default(),
        rows: Vec::new(),
    })
}

/// An object that PostgreSQL wrote.
fn object(json: &str) -> Result<Object> {
    serde_json::from_str(json)
        .map_err(|why| Error::new(Code::Installation, format!("a row is not plain JSON: {why}")))
}

fn page_of(page: i64, limit: i64, total: i64) -> Object {
    match json!({"page": page, "limit": limit, "total": total}) {
        Value::Object(page) => page,
        _ => Object::new(),
    }
}

/// The values in the form in which answers show them. Others may be among them: a template names
/// only those that it may.
fn shown(mut object: Object, values: &[Named]) -> Object {
    for value in values.iter().filter(|value| value.kind == Kind::Moment) {
        if let Some(Value::String(time)) = object.get_mut(value.name) {
            *time = in_seconds(time);
        }
    }
    object
}
