//! The definitions of a keyspace: scopes, roles, routes.

use super::authority;
use super::draft;
use super::key;
use super::keyspace::{self, policy};
use super::level::{Needs, functions};
use super::limits;
use crate::audit::{Act, Subject};
use keysmith_core::policy::expression::{self, Expression};
use keysmith_core::policy::implications::{self, Direct, Flaw};
use keysmith_core::policy::name::{NAME_RULE, is_name};
use keysmith_core::policy::parameter::{PATTERN_HINT, is_pattern, parameters};
use keysmith_core::policy::route::{self, METHOD_RULE, is_method};
use keysmith_core::policy::scope::SCOPE_RULE;
use keysmith_core::policy::weights::{MAX_WEIGHT, WEIGHT_RULE};
use pg::call::{Call, must_not_be_null};
use pg::error::{Code, Error, Result};
use pg::input;
use pg::spi::{self, Param};
use pg::text::lossy;
use pgrx::pg_sys::Datum;

functions! {
    keysmith_define_scope => define_scope: Admin;
    keysmith_define_role => define_role: Admin;
    keysmith_define_route => define_route: Admin;
    keysmith_define_route_by_text => define_route_by_text: Admin;
    keysmith_remove_route => remove_route: Admin;
}

fn define_scope(call: &Call) -> Result<Option<Datum>> {
    let keyspace = call.required_text(0, "keyspace")?;
    let scope = call.required_text(1, "scope")?;
    let description = call.text(2, "description")?;
    let implies = key::distinct(call.strings(3, "implies")?);
    if !is_pattern(&scope) {
        return Err(Error::argument("scope", SCOPE_RULE).hint(PATTERN_HINT));
    }
    if let Some(twice) =
        parameters(&scope).find(|name| parameters(&scope).filter(|n| n == name).count() > 1)
    {
        return Err(Error::argument("scope", format!("must have {{{twice}}} once")));
    }
    key::check_length("description", description.as_deref(), 1000)?;
    key::check_count("implies", "scopes", implies.len(), key::MAX_SCOPES)?;
    if !implies.iter().all(|implied| is_pattern(implied)) {
        let rule = format!("has a scope that {SCOPE_RULE}");
        return Err(Error::argument("implies", rule).hint(PATTERN_HINT));
    }
    let mut implied = implies.iter().flat_map(|implied| parameters(implied));
    if let Some(unknown) = implied.find(|name| parameters(&scope).all(|known| known != *name)) {
        return Err(Error::argument(
            "implies",
            format!("has {{{unknown}}}, which the scope lacks"),
        ));
    }
    authority::act(needs::define_scope, |caller| {
        policy(caller, &keyspace)?;
        keyspace::lock(&keyspace)?;
        check_no_circle(&keyspace, &scope, &implies)?;
        let act = Act::on(&caller.actor, &keyspace, Subject::Scope(&scope))?;
        spi::execute(
            "INSERT INTO keysmith_private.scope (keyspace, scope, description, implies)
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
        act.done("define_scope")
    })?;
    Ok(None)
}

/// If a scope implied itself through others, they would all be the same scope.
fn check_no_circle(keyspace: &str, scope: &str, implies: &[String]) -> Result<()> {
    let others: Vec<(String, Vec<String>)> = spi::all(
        "SELECT scope, implies FROM keysmith_private.scope
         WHERE keyspace = $1 AND scope <> $2 AND implies <> '{}'",
        &[Param::text(keyspace), Param::text(scope)],
        |row| Some((row.text(1)?, row.texts(2).iter().map(|scope| lossy(scope)).collect())),
    )?;
    let direct = others.iter().map(|(scope, implies)| (scope.as_str(), implies.as_slice()));
    let direct: Vec<Direct> = direct
        .chain([(scope, implies)])
        .map(|(scope, implies)| (scope, implies.iter().map(String::as_str).collect()))
        .collect();
    implications::check(&direct).map_err(|flaw| {
        let rule = match flaw {
            Flaw::Circle => format!("must not lead back to {scope:?}"),
            Flaw::TooMany => "must not lead to more than 10000 scopes".into(),
        };
        Error::argument("implies", rule)
    })
}

fn define_role(call: &Call) -> Result<Option<Datum>> {
    let keyspace = call.required_text(0, "keyspace")?;
    let role = call.required_text(1, "role")?;
    let scopes = key::distinct(call.strings(2, "scopes")?);
    if !is_name(&role) {
        return Err(Error::argument("role", NAME_RULE));
    }
    authority::act(needs::define_role, |caller| {
        key::check_known_grants(&*policy(caller, &keyspace)?, &scopes)?;
        keyspace::lock(&keyspace)?;
        let act = Act::on(&caller.actor, &keyspace, Subject::Role(&role))?;
        spi::execute(
            "INSERT INTO keysmith_private.role (keyspace, role, scopes) VALUES ($1, $2, $3)
             ON CONFLICT (keyspace, role) DO UPDATE SET scopes = excluded.scopes",
            &[Param::text(&keyspace), Param::text(&role), Param::texts(&scopes)],
        )?;
        act.done("define_role")
    })?;
    Ok(None)
}

/// With a list of scopes. A request needs all of them; each may be an expression.
fn define_route(call: &Call) -> Result<Option<Datum>> {
    store_route(call, needs::define_route, call.strings(3, "scopes")?)
}

/// With one expression, or a list in its text form, as a driver or a literal without a type
/// sends it.
fn define_route_by_text(call: &Call) -> Result<Option<Datum>> {
    let text = call.required_text(3, "scopes")?;
    let scopes = if text.trim_start().starts_with('{') {
        read_list(&text)?
    } else if text.trim().is_empty() {
        Vec::new()
    } else {
        vec![text]
    };
    store_route(call, needs::define_route_by_text, scopes)
}

fn read_list(text: &str) -> Result<Vec<String>> {
    const NAME: &str = "scopes";
    let texts = input::texts(text)
        .ok_or_else(|| Error::argument(NAME, "must be an expression, or a list such as {a,b}"))?;
    let text =
        |text: Option<String>| text.ok_or_else(|| Error::argument(NAME, "must not contain a null"));
    texts.into_iter().map(text).collect()
}

/// The method and the pattern of a route or an endpoint.
pub struct Place {
    pub keyspace: String,
    pub method: String,
    pub pattern: String,
}

impl Place {
    /// Reads the first three arguments.
    pub fn read(call: &Call) -> Result<Place> {
        let place = Place {
            keyspace: call.required_text(0, "keyspace")?,
            method: call.required_text(1, "method")?.to_ascii_uppercase(),
            pattern: route::without_slash(&call.required_text(2, "pattern")?).into(),
        };
        if !is_method(&place.method) {
            return Err(Error::argument("method", METHOD_RULE));
        }
        route::check_pattern(&place.pattern).map_err(|rule| Error::argument("pattern", rule))?;
        Ok(place)
    }

    pub fn params(&self) -> Vec<Param<'_>> {
        [&self.keyspace, &self.method, &self.pattern].map(|text| Param::text(text)).into()
    }

    /// The error for a pattern that matches the same paths as another one in the table: those
    /// differ in the names of their parameters.
    pub fn check_is_only_one(&self, other: Option<String>) -> Result<()> {
        other.map_or(Ok(()), |other| {
            let message = format!("pattern matches the same paths as {other}, which is defined");
            Err(Error::new(Code::Conflict, message))
        })
    }
}

struct Route {
    place: Place,
    variant: String,
}

impl Route {
    fn read(call: &Call, variant: usize) -> Result<Route> {
        let route = Route {
            place: Place::read(call)?,
            variant: call.text(variant, "variant")?.unwrap_or_default(),
        };
        if !route.variant.is_empty() && !is_name(&route.variant) {
            return Err(Error::argument("variant", NAME_RULE));
        }
        Ok(route)
    }

    fn subject(&self) -> Subject<'_> {
        let Place { method, pattern, .. } = &self.place;
        Subject::Route { method, pattern, variant: &self.variant }
    }

    fn params(&self) -> Vec<Param<'_>> {
        let mut params = self.place.params();
        params.push(Param::text(&self.variant));
        params
    }
}

fn store_route(call: &Call, needs: Needs, scopes: Vec<String>) -> Result<Option<Datum>> {
    const NAME: &str = "scopes";
    let route = Route::read(call, 4)?;
    let fail = |rule: String| Error::argument(NAME, format!("has an expression that {rule}"));
    for scope in &scopes {
        if scope.trim().is_empty() {
            return Err(Error::argument(NAME, "must not contain an empty scope"));
        }
        Expression::parse_of_route(scope).map_err(fail)?;
    }
    let required = match scopes.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        several => format!("({})", several.join(") & (")),
    };
    if required.len() > expression::MAX_LEN {
        return Err(fail(format!("is longer than {} bytes", expression::MAX_LEN)));
    }
    let named = Expression::parse_of_route(&required).map_err(fail)?;
    check_parameters(&named, &route.place.pattern)?;
    let kind = call.text(5, "kind")?.map(draft::kind).transpose()?;
    let weight = call.integer(6).ok_or_else(|| must_not_be_null("weight"))?;
    if !u32::try_from(weight).is_ok_and(|weight| weight <= MAX_WEIGHT) {
        return Err(Error::argument("weight", WEIGHT_RULE));
    }
    let limits = limits::given(call, 7)?;
    let is_public = call.boolean(8, "public")?;
    authority::act(needs, |caller| {
        let policy = policy(caller, &route.place.keyspace)?;
        let scopes: Vec<String> = named.scopes().into_iter().map(String::from).collect();
        key::check_count(NAME, "scopes", scopes.len(), key::MAX_SCOPES)?;
        key::check_known(&policy, &scopes)?;
        keyspace::lock(&route.place.keyspace)?;
        let act = Act::on(&caller.actor, &route.place.keyspace, route.subject())?;
        let mut params = route.params();
        let same = spi::first(
            "SELECT pattern FROM keysmith_private.route
             WHERE keyspace = $1 AND method = $2 AND variant = $4 AND pattern <> $3
               AND keysmith_private.same_paths(pattern, $3)",
            &params,
            |row| row.text(1),
        )?;
        route.place.check_is_only_one(same)?;
        params.push(Param::text(&required));
        params.push(Param::text_or_null(kind.as_deref()));
        params.push(Param::integer(Some(weight)));
        params.push(Param::text_or_null(limits.as_deref()));
        params.push(Param::boolean(is_public));
        spi::execute(
            "INSERT INTO keysmith_private.route (
                 keyspace, method, pattern, variant, scopes, kind, weight, limits, is_public)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             ON CONFLICT (keyspace, method, pattern, variant)
             DO UPDATE SET scopes = excluded.scopes, kind = excluded.kind,
                 weight = excluded.weight, limits = excluded.limits,
                 is_public = excluded.is_public",
            &params,
        )?;
        act.done("define_route")
    })?;
    Ok(None)
}

/// The values of parameters come from the path, each from one place.
fn check_parameters(scopes: &Expression, pattern: &str) -> Result<()> {
    for name in scopes.scopes().into_iter().flat_map(parameters) {
        let rule = match route::count_of(pattern, name) {
            1 => continue,
            0 => format!("has {{{name}}}, which the pattern lacks"),
            _ => format!("has {{{name}}}, which the pattern has twice"),
        };
        return Err(Error::argument("scopes", rule));
    }
    Ok(())
}

fn remove_route(call: &Call) -> Result<Option<Datum>> {
    let route = Route::read(call, 3)?;
    authority::act(needs::remove_route, |caller| {
        policy(caller, &route.place.keyspace)?;
        keyspace::lock(&route.place.keyspace)?;
        let act = Act::on(&caller.actor, &route.place.keyspace, route.subject())?;
        let removed = spi::execute(
            "DELETE FROM keysmith_private.route
             WHERE keyspace = $1 AND method = $2 AND pattern = $3 AND variant = $4",
            &route.params(),
        )?;
        if removed == 0 {
            let Place { method, pattern, .. } = &route.place;
            return Err(Error::not_found(format!("route {method} {pattern} does not exist")));
        }
        act.done("remove_route")
    })?;
    Ok(None)
}
