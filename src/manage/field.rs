//! Types of the values in JSON arguments, each with the rule that it keeps.

use super::key::{MAX_SCOPES, distinct};
use keysmith_core::key::{display, format};
use keysmith_core::lists::{self, MOST_TOTALLED};
use keysmith_core::policy::allowlist::{self, MAX_NETWORKS};
use keysmith_core::policy::lifetime::{self, IDLE_RULE, LIFETIME_RULE, NOTICE_RULE};
use keysmith_core::policy::name::{IDENTIFIER_RULE, NAME_RULE, is_identifier, is_name};
use keysmith_core::policy::scope::{SCOPE_RULE, is_grant};
use keysmith_core::policy::weights::UNIT_NAME_RULE;
use pg::{input, output};
use serde::de::{Error, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};

/// An integer from `MIN` to `MAX`.
#[derive(Clone, Copy, Serialize)]
pub struct Within<const MIN: i64, const MAX: i64>(pub i64);

impl<'de, const MIN: i64, const MAX: i64> Deserialize<'de> for Within<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match i64::deserialize(deserializer)? {
            integer if (MIN..=MAX).contains(&integer) => Ok(Within(integer)),
            integer if MAX == i64::MAX => {
                Err(D::Error::custom(format!("must be {MIN} or more, not {integer}")))
            }
            integer => Err(D::Error::custom(format!("must be from {MIN} to {MAX}, not {integer}"))),
        }
    }
}

/// An array of at most `MOST` elements.
#[derive(Serialize)]
pub struct List<T, const MOST: usize>(pub Vec<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for List<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let items = Vec::deserialize(deserializer)?;
        match items.len() {
            count if count > MOST => {
                Err(D::Error::custom(format!("must have at most {MOST} elements, not {count}")))
            }
            _ => Ok(List(items)),
        }
    }
}

/// An object, whatever is in it.
pub type Document = BTreeMap<String, IgnoredAny>;

/// A text of one line, which is not empty and has at most `MOST` characters.
#[derive(Deserialize, Serialize)]
#[serde(try_from = "String")]
pub struct Line<const MOST: usize>(pub String);

impl<const MOST: usize> TryFrom<String> for Line<MOST> {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let fits = (1..=MOST).contains(&text.chars().count());
        if fits && !text.chars().any(char::is_control) {
            return Ok(Line(text));
        }
        Err(format!("must have 1 to {MOST} characters and no control characters"))
    }
}

/// Declares types of texts, each with its check and the rule that an error shows.
macro_rules! text_types {
    ($($(#[$doc:meta])* $name:ident: $is:path, $rule:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize, serde::Serialize)]
        #[serde(try_from = "String")]
        pub struct $name(pub String);

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                if $is(text.as_str()) { Ok($name(text)) } else { Err($rule.into()) }
            }
        }
    )*};
}
pub(super) use text_types;

text_types! {
    Environment: is_identifier, IDENTIFIER_RULE;
    /// A plan, a tenant, a role.
    Name: is_name, NAME_RULE;
    /// What a key starts with.
    KeyPrefix: is_key_prefix, "must have 2 to 32 characters of a-z, 0-9 and _, the last of them _";
    Template: display::is_template, display::TEMPLATE_RULE;
    IdTemplate: display::is_id_template, display::ID_TEMPLATE_RULE;
    TagName: is_tag_name, UNIT_NAME_RULE;
    /// A scope, or a pattern that stands for several.
    Grant: is_grant, format!("{SCOPE_RULE}; or be *, or end in :*");
}

fn is_tag_name(text: &str) -> bool {
    lists::is_name(text.as_bytes())
}

fn is_key_prefix(text: &str) -> bool {
    format::is_prefix(text.as_bytes())
}

/// A set of scopes. One that is named twice is in it once.
#[derive(Deserialize, Serialize)]
#[serde(from = "List<Grant, MAX_SCOPES>")]
pub struct Grants(pub Vec<String>);

impl From<List<Grant, MAX_SCOPES>> for Grants {
    fn from(grants: List<Grant, MAX_SCOPES>) -> Grants {
        Grants(distinct(grants.0.into_iter().map(|grant| grant.0).collect()))
    }
}

/// A lifetime of keys, in microseconds.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub struct Lifetime(i64);

impl TryFrom<String> for Lifetime {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Lifetime, &'static str> {
        let interval = input::interval(&text).ok_or(LIFETIME_RULE)?;
        let length = lifetime::length(interval.month, interval.day, interval.time);
        length.map(Lifetime).ok_or(LIFETIME_RULE)
    }
}

impl Serialize for Lifetime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

impl Lifetime {
    /// As PostgreSQL reads it. It has no days: these may have 23 hours, or 25.
    pub fn text(self) -> String {
        format!("{} microseconds", self.0)
    }
}

/// How long a key may be unused.
#[derive(Clone, Copy, Deserialize, Serialize)]
#[serde(try_from = "String")]
pub struct IdleTime(Lifetime);

impl TryFrom<String> for IdleTime {
    type Error = &'static str;

    fn try_from(text: String) -> Result<IdleTime, &'static str> {
        let length = Lifetime::try_from(text).ok();
        length.filter(|length| lifetime::may_be_idle_for(length.0)).map(IdleTime).ok_or(IDLE_RULE)
    }
}

/// How long before the end of a key its notice is: a lifetime, or 0 for none.
#[derive(Clone, Copy, Deserialize, Serialize)]
#[serde(try_from = "String")]
pub struct NoticePeriod(Lifetime);

impl TryFrom<String> for NoticePeriod {
    type Error = &'static str;

    fn try_from(text: String) -> Result<NoticePeriod, &'static str> {
        let is_none = input::interval(&text)
            .is_some_and(|interval| (interval.month, interval.day, interval.time) == (0, 0, 0));
        let length = if is_none { Some(Lifetime(0)) } else { Lifetime::try_from(text).ok() };
        length.map(NoticePeriod).ok_or(NOTICE_RULE)
    }
}

/// A network in its canonical form.
#[derive(Deserialize, Serialize)]
#[serde(try_from = "String")]
pub struct Network(String);

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Network, String> {
        allowlist::parse(&text).map(|network| Network(network.to_string()))
    }
}

/// The networks that a key may be used from. `None`, for an empty array, means all.
#[derive(Deserialize, Serialize)]
#[serde(from = "List<Network, MAX_NETWORKS>")]
pub struct Networks(pub Option<Vec<Network>>);

impl From<List<Network, MAX_NETWORKS>> for Networks {
    fn from(networks: List<Network, MAX_NETWORKS>) -> Networks {
        Networks(Some(networks.0).filter(|networks| !networks.is_empty()))
    }
}

/// The names of the tags that totals are kept by. `None`, for an empty array, means no tags.
#[derive(Deserialize, Serialize)]
#[serde(try_from = "List<TagName, MOST_TOTALLED>")]
pub struct TagNames(pub Option<Vec<TagName>>);

impl TryFrom<List<TagName, MOST_TOTALLED>> for TagNames {
    type Error = &'static str;

    fn try_from(names: List<TagName, MOST_TOTALLED>) -> Result<TagNames, &'static str> {
        match names.0.iter().collect::<BTreeSet<_>>().len() == names.0.len() {
            true => Ok(TagNames(Some(names.0).filter(|names| !names.is_empty()))),
            false => Err("must name each tag once"),
        }
    }
}

/// A timestamp, in any form that PostgreSQL reads.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub struct Moment(pub i64);

impl TryFrom<String> for Moment {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Moment, &'static str> {
        input::timestamp(&text)
            .map(Moment)
            .ok_or("must be a timestamp such as 2030-01-31T12:00:00Z")
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&output::iso_timestamp(self.0))
    }
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
pub struct Uuid(pub [u8; 16]);

impl TryFrom<String> for Uuid {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Uuid, &'static str> {
        input::uuid(&text).map(Uuid).ok_or("must be a uuid")
    }
}
