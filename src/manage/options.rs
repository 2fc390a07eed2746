//! What may be chosen for a keyspace: read, checked, stored.

use super::key;
use super::limits;
use super::patch::{self, Change, Patch};
use keysmith_core::key::{display, format};
use keysmith_core::policy::expression::Expression;
use keysmith_core::policy::header::{SCHEMES_RULE, Schemes};
use keysmith_core::policy::name::{IDENTIFIER_RULE, NAME_RULE, is_identifier, is_name};
use keysmith_core::policy::rules::Kind;
use keysmith_core::policy::scope::MAX_SCOPE_LEN;
use keysmith_core::policy::verdict::Answer;
use pg::call::Call;
use pg::error::{Error, Result};
use pg::spi::{self, Param};
use serde_json::Value;

/// What may be chosen for a keyspace. `None` leaves it as it is.
pub struct Options {
    prefixes: Option<Vec<[String; 3]>>,
    empty_scopes: Option<String>,
    default_scopes: Option<Vec<String>>,
    max_active_keys: Change<i32>,
    at_max: Option<String>,
    label_length: Option<i32>,
    schemes: Option<Vec<String>>,
    wildcards: Option<bool>,
    unlisted_routes: Option<String>,
    managed_by: Option<String>,
    display: Option<Display>,
    codes: Option<Vec<Wording>>,
    plan_features: Option<Vec<PlanFeature>>,
    /// As they are stored.
    limits: Change<String>,
    charges: Option<Vec<String>>,
    usage_log: Option<String>,
    usage_details: Option<bool>,
}

/// The templates by which keys are shown.
struct Display {
    id: Option<String>,
    prefix: String,
    snippet: String,
}

/// What is told to the outside world in place of a canonical answer.
struct Wording {
    answer: Answer,
    status: Option<i32>,
    code: Option<String>,
    message: Option<String>,
}

struct PlanFeature {
    feature: String,
    plans: Vec<String>,
}

impl Options {
    /// The arguments of `create_keyspace` after the name.
    pub fn given(call: &Call) -> Result<Options> {
        let json = |n, name| call.jsonb(n).map(|json| patch::parse(name, json)).transpose();
        let prefixes = match json(1, "prefixes")? {
            None => default_prefixes(),
            Some(prefixes) => read_prefixes(prefixes)?,
        };
        let options = Options {
            prefixes: Some(prefixes),
            empty_scopes: call.text(2, "empty_scopes")?,
            default_scopes: Some(key::distinct(call.strings(3, "default_scopes")?)),
            max_active_keys: Some(call.integer(4)),
            at_max: call.text(5, "at_max")?,
            label_length: call.integer(6),
            schemes: call.datum(7).map(|_| call.strings(7, "schemes")).transpose()?,
            unlisted_routes: call.text(8, "unlisted_routes")?,
            managed_by: call.text(15, "managed_by")?,
            display: json(9, "display")?.map(read_display).transpose()?,
            codes: json(10, "codes")?.map(read_codes).transpose()?,
            wildcards: call.datum(12).map(|_| call.boolean(12, "wildcards")).transpose()?,
            plan_features: json(11, "plan_features")?.map(read_plan_features).transpose()?,
            limits: limits::given(call, 13)?.map(Some),
            charges: call.datum(14).map(|_| call.strings(14, "charges")).transpose()?,
            usage_log: call.text(16, "usage_log")?,
            usage_details: call.datum(17).map(|_| call.boolean(17, "usage_details")).transpose()?,
        };
        options.check()?;
        Ok(options)
    }

    /// The fields of a patch that are named in it; null is the usual choice.
    pub fn changed(patch: &mut Patch) -> Result<Options> {
        let options = Options {
            prefixes: patch.value("prefixes")?.map(read_prefixes).transpose()?,
            empty_scopes: patch.text("empty_scopes")?.map(|choice| choice.unwrap_or("all".into())),
            default_scopes: patch.texts("default_scopes")?.map(key::distinct),
            max_active_keys: patch.integer("max_active_keys")?,
            at_max: patch.text("at_max")?.map(|choice| choice.unwrap_or("error".into())),
            label_length: patch.integer("label_length")?.map(|length| length.unwrap_or(100)),
            schemes: if patch.is_null("schemes") {
                patch.value("schemes")?.map(|_| Schemes::NAMES.map(String::from).into())
            } else {
                patch.texts("schemes")?
            },
            wildcards: patch.boolean("wildcards")?.map(|choice| choice.unwrap_or(true)),
            unlisted_routes: patch
                .text("unlisted_routes")?
                .map(|choice| choice.unwrap_or("any_key".into())),
            managed_by: patch
                .text("managed_by")?
                .map(|choice| choice.unwrap_or("any_secret".into())),
            display: patch.value("display")?.map(read_display).transpose()?,
            codes: patch.value("codes")?.map(read_codes).transpose()?,
            plan_features: patch.value("plan_features")?.map(read_plan_features).transpose()?,
            limits: limits::changed(patch)?,
            charges: if patch.is_null("charges") {
                patch.value("charges")?.map(|_| vec![key::USUAL_ENVIRONMENT.into()])
            } else {
                patch.texts("charges")?
            },
            usage_log: patch.text("usage_log")?.map(|choice| choice.unwrap_or("everything".into())),
            usage_details: patch.boolean("usage_details")?.map(|choice| choice.unwrap_or(true)),
        };
        options.check()?;
        Ok(options)
    }

    fn check(&self) -> Result<()> {
        one_of("empty_scopes", self.empty_scopes.as_deref(), &["all", "defaults", "none"])?;
        one_of("at_max", self.at_max.as_deref(), &["error", "replace"])?;
        within("max_active_keys", self.max_active_keys.flatten(), 1_000_000)?;
        within("label_length", self.label_length, 1000)?;
        one_of("unlisted_routes", self.unlisted_routes.as_deref(), &["any_key", "refuse"])?;
        if self.managed_by.as_deref().is_some_and(|by| !is_requirement(by)) {
            return Err(Error::argument(
                "managed_by",
                "must be any_secret, nobody, or what it takes: scopes joined by & and |",
            ));
        }
        one_of("usage_log", self.usage_log.as_deref(), &["everything", "refusals", "nothing"])?;
        if let Some(schemes) = &self.schemes
            && Schemes::parse(schemes.iter().map(String::as_bytes)).is_none()
        {
            return Err(Error::argument("schemes", SCHEMES_RULE));
        }
        let charges = self.charges.as_deref().unwrap_or_default();
        key::check_count("charges", "environments", charges.len(), 100)?;
        if !charges.iter().all(|environment| is_identifier(environment)) {
            let rule = format!("has an environment that {IDENTIFIER_RULE}");
            return Err(Error::argument("charges", rule));
        }
        key::check_grants("default_scopes", self.default_scopes.as_deref().unwrap_or_default())
    }

    pub fn apply(&self, keyspace: &str) -> Result<()> {
        if let Some(prefixes) = &self.prefixes {
            set_prefixes(keyspace, prefixes)?;
        }
        if let Some(codes) = &self.codes {
            set_codes(keyspace, codes)?;
        }
        if let Some(features) = &self.plan_features {
            set_plan_features(keyspace, features)?;
        }
        let scopes = self.default_scopes.as_deref();
        let display = self.display.as_ref();
        spi::execute(
            "UPDATE keysmith_private.keyspace SET
                 empty_scopes = coalesce($2, empty_scopes),
                 default_scopes = CASE WHEN $3 THEN $4 ELSE default_scopes END,
                 max_active_keys = CASE WHEN $5 THEN $6 ELSE max_active_keys END,
                 at_max = coalesce($7, at_max),
                 label_length = coalesce($8, label_length),
                 schemes = CASE WHEN $9 THEN $10 ELSE schemes END,
                 unlisted_routes = coalesce($11, unlisted_routes),
                 display_id = CASE WHEN $12 THEN $13 ELSE display_id END,
                 display_prefix = coalesce($14, display_prefix),
                 display_snippet = coalesce($15, display_snippet),
                 wildcards = coalesce($16, wildcards),
                 managed_by = coalesce($17, managed_by),
                 limits = CASE WHEN $18 THEN $19 ELSE limits END,
                 charges = CASE WHEN $20 THEN $21 ELSE charges END,
                 usage_log = coalesce($22, usage_log),
                 usage_details = coalesce($23, usage_details)
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
                Param::boolean(self.schemes.is_some()),
                Param::texts(self.schemes.as_deref().unwrap_or_default()),
                Param::text_or_null(self.unlisted_routes.as_deref()),
                Param::boolean(display.is_some()),
                Param::text_or_null(display.and_then(|display| display.id.as_deref())),
                Param::text_or_null(display.map(|display| display.prefix.as_str())),
                Param::text_or_null(display.map(|display| display.snippet.as_str())),
                Param::boolean_or_null(self.wildcards),
                Param::text_or_null(self.managed_by.as_deref()),
                Param::boolean(self.limits.is_some()),
                Param::text_or_null(self.limits.as_ref().and_then(Option::as_deref)),
                Param::boolean(self.charges.is_some()),
                Param::texts(self.charges.as_deref().unwrap_or_default()),
                Param::text_or_null(self.usage_log.as_deref()),
                Param::boolean_or_null(self.usage_details),
            ],
        )?;
        Ok(())
    }
}

/// What keys start with where nothing else was chosen.
pub fn default_prefixes() -> Vec<[String; 3]> {
    [
        ["secret", "live", "ks_live_"],
        ["secret", "test", "ks_test_"],
        ["publishable", "live", "kp_live_"],
        ["publishable", "test", "kp_test_"],
    ]
    .map(|row| row.map(String::from))
    .into()
}

pub fn set_prefixes(keyspace: &str, prefixes: &[[String; 3]]) -> Result<()> {
    spi::execute(
        "DELETE FROM keysmith_private.keyspace_prefix WHERE keyspace = $1",
        &[Param::text(keyspace)],
    )?;
    for [kind, environment, prefix] in prefixes {
        spi::execute(
            "INSERT INTO keysmith_private.keyspace_prefix (keyspace, kind, environment, prefix)
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

fn set_codes(keyspace: &str, codes: &[Wording]) -> Result<()> {
    spi::execute(
        "DELETE FROM keysmith_private.answer WHERE keyspace = $1",
        &[Param::text(keyspace)],
    )?;
    for wording in codes {
        spi::execute(
            "INSERT INTO keysmith_private.answer (keyspace, answer, status, code, message)
             VALUES ($1, $2, $3, $4, $5)",
            &[
                Param::text(keyspace),
                Param::text(wording.answer.code()),
                Param::integer(wording.status),
                Param::text_or_null(wording.code.as_deref()),
                Param::text_or_null(wording.message.as_deref()),
            ],
        )?;
    }
    Ok(())
}

fn set_plan_features(keyspace: &str, features: &[PlanFeature]) -> Result<()> {
    spi::execute(
        "DELETE FROM keysmith_private.plan_feature WHERE keyspace = $1",
        &[Param::text(keyspace)],
    )?;
    for PlanFeature { feature, plans } in features {
        spi::execute(
            "INSERT INTO keysmith_private.plan_feature (keyspace, feature, plans) VALUES ($1, $2, $3)",
            &[Param::text(keyspace), Param::text(feature), Param::texts(plans)],
        )?;
    }
    Ok(())
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

/// `{"secret": {"live": "ks_live_", "test": "ks_test_"}, "publishable": …}`
fn read_prefixes(value: Value) -> Result<Vec<[String; 3]>> {
    let mistyped = || {
        Error::argument("prefixes", "must be an object of kinds, environments and prefixes")
            .hint(r#"Such as {"secret": {"live": "ks_live_", "test": "ks_test_"}}."#)
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

/// `{"id": "key_{random:8}", "prefix": "{prefix}{secret:5}", "snippet": …}`. What is
/// left out is as usual.
fn read_display(value: Value) -> Result<Display> {
    const NAME: &str = "display";
    let mut fields = object(NAME, value)?;
    let id = fields.text("id")?.flatten();
    let prefix = fields.text("prefix")?.flatten();
    let snippet = fields.text("snippet")?.flatten();
    fields.finish()?;
    if id.as_ref().is_some_and(|template| !display::is_id_template(template)) {
        return Err(Error::argument("display.id", display::ID_TEMPLATE_RULE));
    }
    for (name, template) in [("display.prefix", &prefix), ("display.snippet", &snippet)] {
        if template.as_ref().is_some_and(|template| !display::is_template(template)) {
            return Err(Error::argument(name, display::TEMPLATE_RULE));
        }
    }
    Ok(Display {
        id,
        prefix: prefix.unwrap_or(display::DEFAULT_PREFIX.into()),
        snippet: snippet.unwrap_or(display::DEFAULT_SNIPPET.into()),
    })
}

fn object(name: &'static str, value: Value) -> Result<Patch<'static>> {
    match value {
        Value::Null => Ok(Patch::new(name, Default::default())),
        Value::Object(fields) => Ok(Patch::new(name, fields)),
        _ => Err(Error::argument(name, "must be a JSON object")),
    }
}

/// `{"insufficient_scope": "insufficient_role", "invalid_api_key": {"code": …, "message":
/// …, "status": …}}`
fn read_codes(value: Value) -> Result<Vec<Wording>> {
    const NAME: &str = "codes";
    let fields = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Object(fields) => fields,
        _ => return Err(Error::argument(NAME, "must be a JSON object")),
    };
    let known = || {
        let codes: Vec<&str> = Answer::ALL.iter().skip(1).map(|answer| answer.code()).collect();
        format!("The canonical codes are: {}.", codes.join(", "))
    };
    let mut codes = Vec::new();
    for (canonical, value) in fields {
        let answer = Answer::from_code(&canonical).filter(|answer| *answer != Answer::Ok);
        let Some(answer) = answer else {
            let shown: String = canonical.chars().take(60).collect();
            return Err(Error::argument(
                NAME,
                format!("has {shown:?}, which is no canonical code"),
            )
            .hint(known()));
        };
        let mut wording = Wording { answer, status: None, code: None, message: None };
        match value {
            Value::String(code) => wording.code = Some(code),
            value => {
                let mut fields = object(NAME, value)?;
                wording.status = fields.integer("status")?.flatten();
                wording.code = fields.text("code")?.flatten();
                wording.message = fields.text("message")?.flatten();
                fields.finish()?;
            }
        }
        if wording.status.is_some_and(|status| !(400..=599).contains(&status)) {
            return Err(Error::argument(NAME, "must have statuses from 400 to 599"));
        }
        for (text, most) in [(&wording.code, 100), (&wording.message, 1000)] {
            key::check_line(NAME, text.as_deref(), most)?;
            if text.as_deref() == Some("") {
                return Err(Error::argument(NAME, "must not have empty texts"));
            }
        }
        codes.push(wording);
    }
    Ok(codes)
}

/// `{"allowlist": ["enterprise"]}`
fn read_plan_features(value: Value) -> Result<Vec<PlanFeature>> {
    const NAME: &str = "plan_features";
    let mut fields = object(NAME, value)?;
    let mut features = Vec::new();
    for feature in key::FEATURES {
        // A feature that is null is for everyone, as one that is not named.
        if fields.is_null(feature) {
            fields.value(feature)?;
        } else if let Some(plans) = fields.texts(feature)? {
            if plans.len() > key::MAX_SCOPES || !plans.iter().all(|plan| is_name(plan)) {
                return Err(Error::argument(NAME, format!("has a plan that {NAME_RULE}")));
            }
            features.push(PlanFeature { feature: feature.into(), plans });
        }
    }
    fields.finish()?;
    Ok(features)
}

/// A scope, or an expression of scopes, that isn't longer than a scope may be.
fn is_requirement(text: &str) -> bool {
    !text.trim().is_empty() && text.len() <= MAX_SCOPE_LEN && Expression::parse(text).is_ok()
}
