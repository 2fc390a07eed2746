//! `scanner_patterns`: what keys look like, for those who search for leaked ones.

use super::authority;
use super::keyspace::check_known;
use super::level::functions;
use super::options;
use keysmith_core::key::format::BODY_LEN;
use pg::call::Call;
use pg::error::{Error, Result};
use pg::result_set::ResultSet;
use pg::spi::{self, Param};
use pgrx::pg_sys::Datum;

functions! {
    keysmith_scanner_patterns => scanner_patterns: Oversight;
}

const FORMATS: [&str; 3] = ["regex", "gitleaks", "trufflehog"];

/// A row for each keyspace that has secret keys of our making. The prefixes are those of
/// now, and those of keys that were minted before they were changed.
fn scanner_patterns(call: &Call) -> Result<Option<Datum>> {
    let keyspace = call.text(0, "keyspace")?;
    let format = call.required_text(1, "format")?;
    if !FORMATS.contains(&format.as_str()) {
        return Err(Error::argument("format", format!("must be one of: {}", FORMATS.join(", "))));
    }
    // The default keyspace is there before its row is.
    let usual = options::usual_secret_prefixes();
    let result = ResultSet::of(call);
    authority::look(needs::scanner_patterns, |_| {
        keyspace.as_deref().map_or(Ok(()), check_known)?;
        // A group around the key, for scanners that report a group. What follows a key
        // is looked at, or a longer token of another product would be taken for one.
        // Names and prefixes have no character that TOML or YAML treats specially.
        spi::query(
            "SELECT r.keyspace, r.name, r.regex, CASE $4
                 WHEN 'gitleaks' THEN pg_catalog.format(
                     E'[[rules]]\nid = \"%1$s\"\ndescription = \"API key of %2$s\"\n'
                     'regex = \\'\\'\\'%3$s\\'\\'\\'\nsecretGroup = 1\nkeywords = [%4$s]',
                     r.name, r.keyspace, r.regex, r.quoted)
                 WHEN 'trufflehog' THEN pg_catalog.format(
                     E'- name: %1$s\n  keywords: [%3$s]\n  regex:\n    key: \\'%2$s\\'',
                     r.name, r.regex, r.quoted)
                 ELSE r.regex END
             FROM (SELECT p.keyspace, 'keysmith-' || p.keyspace AS name,
                    '((' || pg_catalog.string_agg(p.prefix, '|' ORDER BY p.prefix) || ')[0-9A-Za-z]{'
                    || $3 || '})($|[^0-9A-Za-z])' AS regex,
                    pg_catalog.string_agg('\"' || p.prefix || '\"', ', ' ORDER BY p.prefix) AS quoted
             FROM (SELECT keyspace, prefix FROM keysmith_private.keyspace_prefix WHERE kind = 'secret'
                   UNION
                   SELECT keyspace, substring(key_prefix FROM '^[a-z0-9_]{1,31}_')
                   FROM keysmith_private.key WHERE kind = 'secret' AND NOT imported AND revoked_at IS NULL
                   UNION
                   SELECT 'default', pg_catalog.unnest($2)
                   WHERE NOT EXISTS (SELECT FROM keysmith_private.keyspace WHERE keyspace = 'default')) p
             WHERE p.prefix IS NOT NULL AND ($1 IS NULL OR p.keyspace = $1)
             GROUP BY p.keyspace) r ORDER BY r.keyspace",
            &[
                Param::text_or_null(keyspace.as_deref()),
                Param::texts(&usual),
                Param::text(&BODY_LEN.to_string()),
                Param::text(&format),
            ],
            |rows| rows.put_into(result),
        )
    })?;
    Ok(None)
}
