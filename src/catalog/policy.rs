//! A keyspace's policy: what its keys may look like and what their scopes mean.

use super::columns;
use super::tables::{Table, Tables};
use crate::{pepper, signing};
use keysmith_core::http::error_body::ErrorBody;
use keysmith_core::http::operation::Operation;
use keysmith_core::key::display;
use keysmith_core::key::foreign::Hashings;
use keysmith_core::policy::allowlist::Ranges;
use keysmith_core::policy::expression::Expression;
use keysmith_core::policy::header::Schemes;
use keysmith_core::policy::implications::{Direct, Implications};
use keysmith_core::policy::parameter;
use keysmith_core::policy::route::{self, Match, Path, Routes};
use keysmith_core::policy::scope::{GrantList, HeldScopes};
use keysmith_core::policy::verdict::{Answer, Reason};
use pg::column::{Column, Text};
use pg::error::Result;
use pg::scan::{Row, ScanKey, Snapshot, Varlena, Version, transactions_ended};
use pg::text;
use pg::varlena::{self, ArrayView};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashMap;

type Bytes = Box<[u8]>;

/// The keyspace that exists from the start. Its row is written when it is first needed: a row
/// that CREATE EXTENSION wrote would collide with a dump's.
pub const DEFAULT: &str = "default";

/// The meaning of a key's empty list of scopes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum EmptyScopes {
    All,
    Defaults,
    None,
}

/// The requests of known keys that are recorded.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UsageLog {
    Everything,
    /// All are counted; few leave a row.
    Totals,
    Refusals,
    Nothing,
}

impl UsageLog {
    /// As the tables have it.
    pub fn name(self) -> &'static str {
        match self {
            UsageLog::Everything => "everything",
            UsageLog::Totals => "totals",
            UsageLog::Refusals => "refusals",
            UsageLog::Nothing => "nothing",
        }
    }

    pub fn named(name: Option<&[u8]>) -> UsageLog {
        match name {
            Some(b"totals") => UsageLog::Totals,
            Some(b"refusals") => UsageLog::Refusals,
            Some(b"nothing") => UsageLog::Nothing,
            _ => UsageLog::Everything,
        }
    }

    /// Whether a request with this outcome is recorded.
    #[inline]
    pub fn has(self, reason: Reason) -> bool {
        match self {
            UsageLog::Everything | UsageLog::Totals => true,
            UsageLog::Refusals => reason != Reason::Ok,
            UsageLog::Nothing => false,
        }
    }
}

/// The prefix of keys of a kind and an environment.
pub struct Prefix {
    pub kind: String,
    pub environment: String,
    pub prefix: String,
}

/// The rows of all policy tables that belong to a keyspace.
pub struct Policy {
    /// The version of the keyspace's row; `None` if there is no such keyspace, and the policy is
    /// the default.
    version: Option<Version>,
    /// The count of ended transactions before a snapshot was taken that saw this policy.
    seen_at: Cell<u64>,
    pub empty_scopes: EmptyScopes,
    pub default_scopes: Vec<Bytes>,
    pub max_active_keys: Option<i32>,
    pub replaces_at_max: bool,
    pub label_length: usize,
    pub wildcards: bool,
    pub schemes: Schemes,
    pub refuses_unlisted_routes: bool,
    /// The keys that may manage keys: `any_secret`, or those with this scope; `None` if no key may.
    pub managed_by: Option<Bytes>,
    pub display_id: Option<String>,
    pub display_prefix: String,
    pub display_snippet: String,
    pub has_imports: bool,
    /// How imported keys of the keyspace may have been hashed.
    pub hashings: Hashings,
    /// The generation of the newest pepper that a key was stored with.
    pub generation: i16,
    /// Rate limits for all keys of an environment together, in their stored form.
    pub limits: Option<Bytes>,
    /// The environments in which credits are spent.
    charges: Vec<Bytes>,
    pub usage_log: UsageLog,
    /// Whether records have endpoint and address.
    pub usage_details: bool,
    pub error_body: ErrorBody,
    /// The lifetime of a new key without an expiry, in microseconds.
    pub default_lifetime: Option<i64>,
    pub max_lifetime: Option<i64>,
    pub requires_label: bool,
    pub has_unique_labels: bool,
    /// The networks that all keys are bound to.
    pub allowlist: Option<Ranges>,
    /// The limits, in their stored form, and the credits of a new key that is given none.
    pub key_limits: Option<String>,
    pub key_credits: Option<i64>,
    /// Who issues the keyspace's tokens: the keyspace itself, if it names no one else.
    pub issuer: String,
    /// How often the requests of an address may present no valid key, as it is stored.
    pub failure_limit: Option<String>,
    pub scopes: Vec<Bytes>,
    pub prefixes: Vec<Prefix>,
    roles: HashMap<Bytes, Vec<Bytes>>,
    implications: Implications,
    routes: Routes<Route>,
    endpoints: Routes<Endpoint>,
    answers: [Option<Wording>; Answer::ALL.len()],
    /// The answer of each reason.
    answer_of: [Answer; Reason::ALL.len()],
    /// Features that only some plans have, with those plans.
    plan_features: HashMap<Bytes, Vec<Bytes>>,
}

/// What a route requires.
pub struct Route {
    /// As it is defined. The scopes that a request needs are those of `needs`.
    pub scopes: Expression,
    /// The parameters of the scopes, with their places in the pattern.
    parameters: Box<[(Box<str>, usize)]>,
    pub kind: Option<Bytes>,
    /// How many calls a request counts for.
    pub weight: u32,
    /// Whether requests without a key are let through.
    pub is_public: bool,
    /// Rate limits for each key on this route, in their stored form.
    pub limits: Option<Bytes>,
    /// The method, pattern and variant, which identify the route in the keyspace.
    pub name: Bytes,
}

impl Route {
    pub fn pattern(&self) -> &[u8] {
        self.name.split(|b| *b == b'\n').nth(1).unwrap_or_default()
    }

    /// The scopes that a request needs. Parameters have the values of its path.
    #[inline]
    pub fn needs(&self, path: &Path) -> Cow<'_, Expression> {
        if self.parameters.is_empty() {
            return Cow::Borrowed(&self.scopes);
        }
        Cow::Owned(self.scopes.filled(&|name| parameter::value(path.segment(self.place(name)?)?)))
    }

    /// The place of a parameter of its scopes in the pattern.
    pub fn place(&self, parameter: &str) -> Option<usize> {
        let mut known = self.parameters.iter();
        known.find(|(name, _)| **name == *parameter).map(|(_, place)| *place)
    }
}

/// The parameters of a route's scopes, with their places.
fn parameters(scopes: &Expression, pattern: &[u8]) -> Box<[(Box<str>, usize)]> {
    let pattern = String::from_utf8_lossy(pattern);
    let named = scopes.scopes().into_iter().flat_map(parameter::parameters);
    let placed = |name: &str| route::place_of(&pattern, name).map(|place| (name.into(), place));
    named.filter_map(placed).collect()
}

/// A request that `serve` answers itself.
pub struct Endpoint {
    pub pattern: Bytes,
    pub operation: Operation,
    /// As they are stored: JSON.
    pub request: Option<String>,
    pub response: Option<String>,
    pub status: Option<i32>,
}

/// The keyspace's wording of an answer. Fields that are not set keep the default.
#[derive(Default)]
pub struct Wording {
    pub status: Option<i32>,
    pub code: Option<Bytes>,
    pub message: Option<Bytes>,
}

impl Wording {
    fn says_something(&self) -> bool {
        self.status.is_some() || self.code.is_some() || self.message.is_some()
    }
}

impl Policy {
    /// Reads a policy under a snapshot.
    pub fn load(tables: &Tables, snapshot: &Snapshot, keyspace: &[u8]) -> Result<Policy> {
        use columns::keyspace as column;
        let mut policy = Policy {
            version: None,
            seen_at: Cell::new(snapshot.ended_before()),
            empty_scopes: EmptyScopes::All,
            default_scopes: Vec::new(),
            max_active_keys: None,
            replaces_at_max: false,
            label_length: 100,
            wildcards: true,
            schemes: Schemes::default(),
            refuses_unlisted_routes: false,
            managed_by: Some(Bytes::from(&b"any_secret"[..])),
            display_id: None,
            display_prefix: display::DEFAULT_PREFIX.into(),
            display_snippet: display::DEFAULT_SNIPPET.into(),
            has_imports: false,
            hashings: Hashings::default(),
            generation: 0,
            limits: None,
            charges: vec![b"live".as_slice().into()],
            usage_log: UsageLog::Everything,
            usage_details: true,
            error_body: ErrorBody::Plain,
            default_lifetime: None,
            max_lifetime: None,
            requires_label: false,
            has_unique_labels: false,
            allowlist: None,
            key_limits: None,
            key_credits: None,
            issuer: text::lossy(keyspace),
            failure_limit: None,
            scopes: Vec::new(),
            prefixes: Vec::new(),
            roles: HashMap::new(),
            implications: Implications::default(),
            routes: Routes::default(),
            endpoints: Routes::default(),
            answers: [const { None }; Answer::ALL.len()],
            answer_of: Reason::ALL.map(Reason::answer),
            plan_features: HashMap::new(),
        };
        each_row(tables.keyspace, snapshot, keyspace, |row| {
            policy.version = Some(row.version());
            policy.empty_scopes = match row.bytes(column::empty_scopes) {
                Some(b"all") => EmptyScopes::All,
                Some(b"defaults") => EmptyScopes::Defaults,
                _ => EmptyScopes::None,
            };
            policy.default_scopes = texts(row.array(column::default_scopes));
            policy.max_active_keys = row.integer(column::max_active_keys);
            policy.replaces_at_max = row.bytes(column::at_max) == Some(b"replace");
            policy.label_length = row
                .integer(column::label_length)
                .and_then(|length| usize::try_from(length).ok())
                .unwrap_or(policy.label_length);
            policy.wildcards = row.boolean(column::wildcards);
            let schemes = texts(row.array(column::schemes));
            policy.schemes = Schemes::parse(schemes.iter().map(|name| &**name)).unwrap_or_default();
            policy.refuses_unlisted_routes = row.bytes(column::unlisted_routes) != Some(b"any_key");
            policy.managed_by =
                row.bytes(column::managed_by).filter(|by| *by != b"nobody").map(Bytes::from);
            policy.display_id = row.text(column::display_id);
            policy.display_prefix = row.text(column::display_prefix).unwrap_or_default();
            policy.display_snippet = row.text(column::display_snippet).unwrap_or_default();
            policy.has_imports = row.boolean(column::has_imports);
            policy.hashings = Hashings {
                behind_bar: row.boolean(column::has_bar_imports),
                last_part: row.boolean(column::has_last_part_imports),
                sha512: row.boolean(column::has_sha512_imports),
            };
            policy.generation = row.smallint(column::generation).unwrap_or_default();
            policy.limits = row.bytes(column::limits).map(Bytes::from);
            policy.charges = texts(row.array(column::charges));
            policy.usage_log = UsageLog::named(row.bytes(column::usage_log));
            policy.usage_details = row.boolean(column::usage_details);
            policy.default_lifetime = row.microseconds(column::default_lifetime);
            policy.max_lifetime = row.microseconds(column::max_lifetime);
            policy.requires_label = row.boolean(column::require_label);
            policy.has_unique_labels = row.boolean(column::unique_labels);
            let networks = row.array(column::allowlist).map(varlena::networks);
            policy.allowlist = networks.map(Ranges::new);
            policy.key_limits = row.text(column::key_limits);
            policy.key_credits = row.bigint(column::key_credits);
            policy.issuer = row.text(column::issuer).unwrap_or_else(|| text::lossy(keyspace));
            policy.failure_limit = row.text(column::failure_limit);
            let error_body = row.text(column::error_body);
            policy.error_body =
                error_body.and_then(|body| ErrorBody::parse(&body).ok()).unwrap_or_default();
        });
        if policy.exists() {
            pepper::knowing(policy.generation);
            policy.load_prefixes(tables, snapshot, keyspace);
            policy.load_scopes(tables, snapshot, keyspace);
            policy.load_roles(tables, snapshot, keyspace);
            policy.load_routes(tables, snapshot, keyspace);
            policy.load_endpoints(tables, snapshot, keyspace);
            policy.load_answers(tables, snapshot, keyspace);
            policy.load_plan_features(tables, snapshot, keyspace);
        }
        Ok(policy)
    }

    /// Whether the keyspace exists.
    pub fn exists(&self) -> bool {
        self.version.is_some()
    }

    /// The name of this policy's keyspace, if it exists.
    #[inline]
    pub fn existing<'n>(&self, name: &'n [u8]) -> Option<&'n [u8]> {
        (self.exists() || name == DEFAULT.as_bytes()).then_some(name)
    }

    /// Whether a snapshot sees exactly this policy. It does if no transaction has ended since
    /// another snapshot saw it. Otherwise the version of the keyspace's row decides.
    #[inline]
    pub fn is_seen(&self, keyspaces: Table, snapshot: &Snapshot, keyspace: &[u8]) -> bool {
        let taken_after = snapshot.ended_before();
        if self.seen_at.get() == taken_after && transactions_ended() == taken_after {
            return true;
        }
        let is_seen =
            self.version.is_some_and(|version| keyspaces.open().sees(snapshot, version, keyspace));
        if is_seen {
            self.seen_at.set(taken_after);
        }
        is_seen
    }

    fn load_prefixes(&mut self, tables: &Tables, snapshot: &Snapshot, keyspace: &[u8]) {
        use columns::keyspace_prefix as column;
        each_row(tables.prefix, snapshot, keyspace, |row| {
            // The table's constraints make sure that all three columns are ASCII.
            let text =
                |column| row.bytes(column).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
            let columns = (text(column::kind), text(column::environment), text(column::prefix));
            if let (Some(kind), Some(environment), Some(prefix)) = columns {
                self.prefixes.push(Prefix { kind, environment, prefix });
            }
        });
    }

    fn load_scopes(&mut self, tables: &Tables, snapshot: &Snapshot, keyspace: &[u8]) {
        use columns::scope as column;
        let mut implied: Vec<(Bytes, Vec<Bytes>)> = Vec::new();
        each_row(tables.scope, snapshot, keyspace, |row| {
            if let Some(scope) = row.bytes(column::scope) {
                self.scopes.push(scope.into());
                implied.push((scope.into(), texts(row.array(column::implies))));
            }
        });
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        implied.retain(|(_, scopes)| !scopes.is_empty());
        let implied: Vec<(String, Vec<String>)> = implied
            .iter()
            .map(|(scope, list)| (text(scope), list.iter().map(text).collect()))
            .collect();
        let direct: Vec<Direct> = implied
            .iter()
            .map(|(scope, list)| (scope.as_str(), list.iter().map(String::as_str).collect()))
            .collect();
        self.implications = Implications::new(&direct);
    }

    fn load_roles(&mut self, tables: &Tables, snapshot: &Snapshot, keyspace: &[u8]) {
        use columns::role as column;
        each_row(tables.role, snapshot, keyspace, |row| {
            if let Some(role) = row.bytes(column::role) {
                self.roles.insert(role.into(), texts(row.array(column::scopes)));
            }
        });
    }

    fn load_routes(&mut self, tables: &Tables, snapshot: &Snapshot, keyspace: &[u8]) {
        use columns::route as column;
        each_row(tables.route, snapshot, keyspace, |row| {
            let bytes = |column| row.bytes(column).unwrap_or_default();
            // A scope expression that can't be parsed, which define_route never writes, can't be
            // met.
            let expression =
                row.text(column::scopes).and_then(|text| Expression::parse_of_route(&text).ok());
            let scopes = expression.unwrap_or(Expression::Any(Vec::new()));
            self.routes.add(
                bytes(column::method),
                bytes(column::pattern),
                bytes(column::variant),
                Route {
                    parameters: parameters(&scopes, bytes(column::pattern)),
                    scopes,
                    kind: row.bytes(column::kind).map(Bytes::from),
                    weight: row.integer(column::weight).map_or(1, i32::unsigned_abs),
                    is_public: row.boolean(column::is_public),
                    limits: row.bytes(column::limits).map(Bytes::from),
                    name: [column::method, column::pattern, column::variant]
                        .map(bytes)
                        .join(&b'\n')
                        .into(),
                },
            );
        });
    }

    /// An endpoint without a route of its method and pattern counts as a listed route without
    /// scopes.
    fn load_endpoints(&mut self, tables: &Tables, snapshot: &Snapshot, keyspace: &[u8]) {
        use columns::endpoint as column;
        each_row(tables.endpoint, snapshot, keyspace, |row| {
            let bytes = |column| row.bytes(column).unwrap_or_default();
            let (method, pattern) = (bytes(column::method), bytes(column::pattern));
            let Some(operation) =
                row.text(column::operation).and_then(|name| Operation::named(&name))
            else {
                return;
            };
            let endpoint = Endpoint {
                pattern: pattern.into(),
                operation,
                request: row.text(column::request),
                response: row.text(column::response),
                status: row.integer(column::status),
            };
            self.endpoints.add(method, pattern, b"", endpoint);
            if !self.routes.has(method, pattern) {
                self.routes.add(
                    method,
                    pattern,
                    b"",
                    Route {
                        scopes: Expression::All(Vec::new()),
                        parameters: Box::default(),
                        kind: None,
                        weight: 1,
                        is_public: false,
                        limits: None,
                        name: [method, pattern, b""].join(&b'\n').into(),
                    },
                );
            }
        });
    }

    fn load_answers(&mut self, tables: &Tables, snapshot: &Snapshot, keyspace: &[u8]) {
        use columns::answer as column;
        each_row(tables.answer, snapshot, keyspace, |row| {
            let answer = row.text(column::answer).and_then(|code| Answer::from_code(&code));
            if let Some(answer) = answer {
                self.answers[answer as usize] = Some(Wording {
                    status: row.integer(column::status),
                    code: row.bytes(column::code).map(Bytes::from),
                    message: row.bytes(column::message).map(Bytes::from),
                });
            }
        });
        for reason in Reason::ALL {
            if let Some(own) = reason.own_answer()
                && self.answers[own as usize].as_ref().is_some_and(Wording::says_something)
            {
                self.answer_of[reason as usize] = own;
            }
        }
    }

    fn load_plan_features(&mut self, tables: &Tables, snapshot: &Snapshot, keyspace: &[u8]) {
        use columns::plan_feature as column;
        each_row(tables.plan_feature, snapshot, keyspace, |row| {
            if let Some(feature) = row.bytes(column::feature) {
                self.plan_features.insert(feature.into(), texts(row.array(column::plans)));
            }
        });
    }

    /// The route of a request, if it is listed.
    pub fn route(&self, method: &[u8], path: &Path, variant: &[u8]) -> Match<'_, Route> {
        self.routes.find(method, path, variant)
    }

    /// The routes of a keyspace. An endpoint that has no route counts as one.
    pub fn routes(&self) -> &Routes<Route> {
        &self.routes
    }

    /// The endpoints of a keyspace.
    pub fn endpoints(&self) -> &Routes<Endpoint> {
        &self.endpoints
    }

    /// The listed routes of the most specific pattern for a path, with their methods.
    pub fn routes_at(&self, path: &Path) -> impl Iterator<Item = (&[u8], &Route)> {
        self.routes.at(path)
    }

    /// The routes of all variants of a request.
    pub fn variants(&self, method: &[u8], path: &Path) -> impl Iterator<Item = &Route> {
        self.routes.variants(method, path)
    }

    /// The answer for a reason. Some reasons have an answer of their own where the keyspace has words
    /// for it.
    #[inline]
    pub fn answer(&self, reason: Reason) -> Answer {
        self.answer_of[reason as usize]
    }

    /// All answers that the keyspace may give.
    pub fn given_answers(&self) -> impl Iterator<Item = Answer> {
        let has_tokens = signing::FILE.secrets().is_some();
        let is_unused = move |answer| match answer {
            Answer::TokenInvalid | Answer::TokenExpired => !has_tokens,
            Answer::TooManyFailures => self.failure_limit.is_none(),
            _ => Reason::ALL.iter().any(|reason| {
                reason.own_answer() == Some(answer) && self.answer(*reason) != answer
            }),
        };
        Answer::ALL.into_iter().filter(move |answer| !is_unused(*answer))
    }

    /// The keyspace's wording of an answer, if it has one.
    pub fn wording(&self, answer: Answer) -> Option<&Wording> {
        self.answers[answer as usize].as_ref()
    }

    /// Whether tenants of a plan may use a feature.
    pub fn has_feature(&self, plan: Option<&[u8]>, feature: &str) -> bool {
        let plans = self.plan_features.get(feature.as_bytes());
        plans.is_none_or(|plans| plans.iter().any(|with| plan.is_some_and(|plan| **with == *plan)))
    }

    /// Whether credits are spent in an environment.
    pub fn charges(&self, environment: &[u8]) -> bool {
        self.charges.iter().any(|charging| **charging == *environment)
    }

    pub fn has_role(&self, role: &[u8]) -> bool {
        self.roles.contains_key(role)
    }

    /// Whether a grant covers a scope of the keyspace, or an instance of one with parameters. While
    /// a keyspace has not defined any scopes, every grant does.
    pub fn knows_grant(&self, grant: &[u8]) -> bool {
        self.scopes.is_empty()
            || self.scopes.iter().any(|known| parameter::has_instance(known, grant))
    }

    /// The scopes that a key holds: within its own scopes, its role and the role of its owner. A
    /// role that is no longer defined holds nothing.
    #[inline]
    pub fn held<'a>(&'a self, own: &'a [&'a [u8]], roles: [Option<&[u8]>; 2]) -> HeldScopes<'a> {
        let own = match (own, self.empty_scopes) {
            ([], EmptyScopes::All) => None,
            ([], EmptyScopes::Defaults) => Some(GrantList::Owned(&self.default_scopes)),
            (own, _) => Some(GrantList::Borrowed(own)),
        };
        let [role, owners] = roles.map(|role| role.map(|role| self.granted_by(role)));
        HeldScopes::new([own, role, owners], &self.implications)
    }

    /// The scopes that a person holds: those of the member's role, or all as the tenant.
    pub fn held_by_person(&self, role: Option<&[u8]>) -> HeldScopes<'_> {
        let role = role.map(|role| self.granted_by(role));
        HeldScopes::new([None, None, role], &self.implications)
    }

    fn granted_by(&self, role: &[u8]) -> GrantList<'_> {
        GrantList::Owned(self.roles.get(role).map_or(&[], Vec::as_slice))
    }
}

/// Passes all rows of a policy table that belong to a keyspace to `with`. The keyspace is the first
/// column of the table's index.
fn each_row(table: Table, snapshot: &Snapshot, keyspace: &[u8], mut with: impl FnMut(&Row)) {
    const KEYSPACE: Column<Text> = columns::keyspace::keyspace;
    let relation = table.open();
    let name = Varlena::new(keyspace);
    let mut scan = relation.scan(snapshot, [ScanKey::text(KEYSPACE, &name)]);
    while let Some(row) = scan.next() {
        with(&row);
    }
}

fn texts(array: Option<ArrayView>) -> Vec<Bytes> {
    array.map(|array| array.iter().flatten().map(Bytes::from).collect()).unwrap_or_default()
}
