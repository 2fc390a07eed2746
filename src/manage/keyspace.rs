//! Keyspaces, and the scopes and roles that are defined in them.

use super::authority;
use super::event::{self, Subject};
use super::key;
use super::patch::{self, Change, Patch};
use super::sql::{self, Param};
use crate::call::{Call, sql_functions};
use crate::catalog::Catalog;
use crate::catalog::policy::Policy;
use crate::error::{Code, Error, Result};
use keysmith_core::key::format;
use keysmith_core::policy::name::{IDENTIFIER_RULE, NAME_RULE, is_identifier, is_name};
use keysmith_core::policy::rules::Kind;
use keysmith_core::policy::scope::{SCOPE_RULE, is_scope};
use pgrx::pg_sys::Datum;
use serde_json::Value;
use std::rc::Rc;

sql_functions! {
    keysmith_create_keyspace => create_keyspace;
    keysmith_alter_keyspace => alter_keyspace;
    keysmith_event_channel => event_channel;
    keysmith_define_scope => define_scope;
    keysmith_define_role => define_role;
}

/// The keyspace that is there from the start. Its row is written when it is first
/// needed: a row that CREATE EXTENSION wrote would collide with a dump's.
const DEFAULT: &str = "default";

const DEFAULT_PREFIXES: [[&str; 3]; 4] = [
    ["secret", "live", "sk_live_"],
    ["secret", "test", "sk_test_"],
    ["publishable", "live", "pk_live_"],
    ["publishable", "test", "pk_test_"],
];

/// The policy of a keyspace that must be there, with all changes up to now.
pub fn policy(keyspace: &str) -> Result<Rc<Policy>> {
    let current = || Catalog::open()?.policy(keyspace.as_bytes());
    let policy = current()?;
    if policy.exists {
        return Ok(policy);
    }
    if keyspace != DEFAULT {
        let shown: String = keyspace.chars().take(63).collect();
        return Err(Error::not_found(format!("keyspace {shown:?} does not exist"))
            .hint("Make it with keysmith.create_keyspace."));
    }
    insert(DEFAULT)?;
    set_prefixes(DEFAULT, &DEFAULT_PREFIXES.map(|row| row.map(String::from)))?;
    current()
}

/// Writes the row of a keyspace. False if it was there.
fn insert(keyspace: &str) -> Result<bool> {
    let inserted = sql::execute(
        "INSERT INTO keysmith.keyspace (keyspace) VALUES ($1) ON CONFLICT DO NOTHING",
        &[Param::text(keyspace)],
    )?;
    Ok(inserted == 1)
}

fn set_prefixes(keyspace: &str, prefixes: &[[String; 3]]) -> Result<()> {
    sql::execute(
        "DELETE FROM keysmith.keyspace_prefix WHERE keyspace = $1",
        &[Param::text(keyspace)],
    )?;
    for [kind, environment, prefix] in prefixes {
        sql::execute(
            "INSERT INTO keysmith.keyspace_prefix (keyspace, kind, environment, prefix)
             VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
            &[
                Param::text(keyspace),
                Param::text(kind),
                Param::text(environment),
                Param::text(prefix),
            ],
        )?;
    }
    Ok(())
}

/// What may be chosen for a keyspace. `None` leaves it as it is.
struct Options {
    prefixes: Option<Vec<[String; 3]>>,
    empty_scopes: Option<String>,
    default_scopes: Option<Vec<String>>,
    max_active_keys: Change<i32>,
    at_max: Option<String>,
    label_length: Option<i32>,
}

impl Options {
    fn check(&self) -> Result<()> {
        one_of("empty_scopes", self.empty_scopes.as_deref(), &["all", "defaults", "none"])?;
        one_of("at_max", self.at_max.as_deref(), &["error", "replace"])?;
        within("max_active_keys", self.max_active_keys.flatten(), 1_000_000)?;
        within("label_length", self.label_length, 1000)?;
        key::check_grants("default_scopes", self.default_scopes.as_deref().unwrap_or_default())
    }

    fn apply(&self, keyspace: &str) -> Result<()> {
        if let Some(prefixes) = &self.prefixes {
            set_prefixes(keyspace, prefixes)?;
        }
        let scopes = self.default_scopes.as_deref();
        sql::execute(
            "UPDATE keysmith.keyspace SET
                 empty_scopes = coalesce($2, empty_scopes),
                 default_scopes = CASE WHEN $3 THEN $4 ELSE default_scopes END,
                 max_active_keys = CASE WHEN $5 THEN $6 ELSE max_active_keys END,
                 at_max = coalesce($7, at_max),
                 label_length = coalesce($8, label_length)
             WHERE keyspace = $1",
            &[
                Param::text(keyspace),
                Param::text_or_null(self.empty_scopes.as_deref()),
                Param::boolean(scopes.is_some()),
                Param::texts(scopes.unwrap_or_default()),
                Param::boolean(self.max_active_keys.is_some()),
                Param::integer(self.max_active_keys.flatten()),
                Param::text_or_null(self.at_max.as_deref()),
                Param::integer(self.label_length),
            ],
        )?;
        Ok(())
    }
}

fn one_of(name: &str, value: Option<&str>, choices: &[&str]) -> Result<()> {
    match value {
        Some(value) if !choices.contains(&value) => {
            Err(Error::argument(name, format!("must be one of: {}", choices.join(", "))))
        }
        _ => Ok(()),
    }
}

fn within(name: &str, value: Option<i32>, most: i32) -> Result<()> {
    match value {
        Some(value) if !(1..=most).contains(&value) => {
            Err(Error::argument(name, format!("must be from 1 to {most}, not {value}")))
        }
        _ => Ok(()),
    }
}

/// `{"secret": {"live": "sk_live_", "test": "sk_test_"}, "publishable": …}`
fn read_prefixes(value: Value) -> Result<Vec<[String; 3]>> {
    let mistyped = || {
        Error::argument("prefixes", "must be an object of kinds, environments and prefixes")
            .hint(r#"Such as {"secret": {"live": "sk_live_", "test": "sk_test_"}}."#)
    };
    let Value::Object(kinds) = value else { return Err(mistyped()) };
    let mut prefixes = Vec::new();
    for (kind, environments) in kinds {
        if Kind::parse(kind.as_bytes()).is_none() {
            return Err(Error::argument(
                "prefixes",
                "must be for the kinds secret and publishable",
            ));
        }
        let Value::Object(environments) = environments else { return Err(mistyped()) };
        for (environment, prefix) in environments {
            let Value::String(prefix) = prefix else { return Err(mistyped()) };
            if !is_identifier(&environment) {
                let rule = format!("has an environment that {IDENTIFIER_RULE}");
                return Err(Error::argument("prefixes", rule));
            }
            if !format::is_prefix(prefix.as_bytes()) {
                return Err(Error::argument(
                    "prefixes",
                    "must have 2 to 32 characters of a-z, 0-9 and _, the last of them _",
                ));
            }
            prefixes.push([kind.clone(), environment, prefix]);
        }
    }
    if prefixes.is_empty() {
        return Err(mistyped());
    }
    Ok(prefixes)
}

fn create_keyspace(call: &Call) -> Result<Option<Datum>> {
    let name = call.required_text(0, "name")?;
    if !is_identifier(&name) {
        return Err(Error::argument("name", IDENTIFIER_RULE));
    }
    let prefixes = match call.datum(1) {
        None => DEFAULT_PREFIXES.map(|row| row.map(String::from)).to_vec(),
        Some(json) => read_prefixes(patch::parse("prefixes", json)?)?,
    };
    let options = Options {
        prefixes: Some(prefixes),
        empty_scopes: call.text(2, "empty_scopes")?,
        default_scopes: Some(call.strings(3, "default_scopes")?),
        max_active_keys: Some(call.integer(4)),
        at_max: call.text(5, "at_max")?,
        label_length: call.integer(6),
    };
    options.check()?;
    authority::act(|_| {
        if !insert(&name)? {
            return Err(Error::new(Code::Conflict, format!("keyspace {name:?} already exists")));
        }
        options.apply(&name)
    })?;
    Ok(None)
}

fn alter_keyspace(call: &Call) -> Result<Option<Datum>> {
    let name = call.required_text(0, "name")?;
    let mut patch = Patch::read("changes", call.datum(1))?;
    let options = Options {
        prefixes: patch.value("prefixes")?.map(read_prefixes).transpose()?,
        empty_scopes: patch.text("empty_scopes")?.map(|choice| choice.unwrap_or("all".into())),
        default_scopes: patch.texts("default_scopes")?,
        max_active_keys: patch.integer("max_active_keys")?,
        at_max: patch.text("at_max")?.map(|choice| choice.unwrap_or("error".into())),
        label_length: patch.integer("label_length")?.map(|length| length.unwrap_or(100)),
    };
    patch.finish()?;
    options.check()?;
    authority::act(|_| {
        policy(&name)?;
        options.apply(&name)?;
        event::send("alter_keyspace", &name, Subject::default())
    })?;
    Ok(None)
}

fn event_channel(call: &Call) -> Result<Option<Datum>> {
    let name = call.required_text(0, "keyspace")?;
    authority::act(|_| {
        policy(&name)?;
        let rows = sql::query(
            "SELECT event_channel FROM keysmith.keyspace WHERE keyspace = $1",
            &[Param::text(&name)],
        )?;
        Ok(rows.first().and_then(|row| row.transferred(1)))
    })
}

fn define_scope(call: &Call) -> Result<Option<Datum>> {
    let keyspace = call.required_text(0, "keyspace")?;
    let scope = call.required_text(1, "scope")?;
    let description = call.text(2, "description")?;
    let implies = call.strings(3, "implies")?;
    if !is_scope(&scope) {
        return Err(Error::argument("scope", SCOPE_RULE));
    }
    key::check_length("description", description.as_deref(), 1000)?;
    if implies.len() > key::MAX_SCOPES {
        return Err(Error::argument(
            "implies",
            format!("must have at most {} scopes", key::MAX_SCOPES),
        ));
    }
    if !implies.iter().all(|implied| is_scope(implied)) {
        return Err(Error::argument("implies", format!("has a scope that {SCOPE_RULE}")));
    }
    authority::act(|_| {
        policy(&keyspace)?;
        sql::execute(
            "INSERT INTO keysmith.scope (keyspace, scope, description, implies)
             VALUES ($1, $2, $3, $4)
             ON CONFLICT (keyspace, scope)
             DO UPDATE SET description = excluded.description, implies = excluded.implies",
            &[
                Param::text(&keyspace),
                Param::text(&scope),
                Param::text_or_null(description.as_deref()),
                Param::texts(&implies),
            ],
        )?;
        event::send("define_scope", &keyspace, Subject::default())
    })?;
    Ok(None)
}

fn define_role(call: &Call) -> Result<Option<Datum>> {
    let keyspace = call.required_text(0, "keyspace")?;
    let role = call.required_text(1, "role")?;
    let scopes = call.strings(2, "scopes")?;
    if !is_name(&role) {
        return Err(Error::argument("role", NAME_RULE));
    }
    authority::act(|_| {
        key::check_known_grants(&*policy(&keyspace)?, &scopes)?;
        sql::execute(
            "INSERT INTO keysmith.role (keyspace, role, scopes) VALUES ($1, $2, $3)
             ON CONFLICT (keyspace, role) DO UPDATE SET scopes = excluded.scopes",
            &[Param::text(&keyspace), Param::text(&role), Param::texts(&scopes)],
        )?;
        event::send("define_role", &keyspace, Subject::default())
    })?;
    Ok(None)
}
