//! The description of a keyspace's API as OpenAPI 3.1 has it.
//!
//! Marks with the names `x-keysmith-…` stand for what OpenAPI can't express: patterns that end in
//! `/*`, routes for all methods, methods that a path item doesn't know, variants, and limits.

mod errors;
mod operation;
mod paths;
mod security;

use super::error::HttpError;
use super::error_body::ErrorBody;
use super::operation::Operation;
use super::request::Mapping;
use super::template::Template;
use crate::policy::expression::Expression;
use crate::policy::header::Schemes;
use serde_json::{Value, json};

/// A keyspace, as far as its clients may know it: no tenants and no keys.
pub struct Service<'a> {
    pub title: &'a str,
    pub schemes: &'a Schemes,
    pub error_body: &'a ErrorBody,
    /// The error for each answer, in the keyspace's wording.
    pub errors: Vec<HttpError>,
    pub entries: Vec<Entry<'a>>,
}

/// What is listed for a method and a pattern.
pub struct Entry<'a> {
    pub method: String,
    pub pattern: String,
    /// `None` if the application answers.
    pub endpoint: Option<Endpoint>,
    /// What each variant needs.
    pub needs: Vec<Needs<'a>>,
}

/// A request that the key service answers itself.
pub struct Endpoint {
    pub operation: Operation,
    pub mapping: Mapping,
    pub template: Template,
    pub status: i32,
}

/// What a route needs.
#[derive(Clone)]
pub struct Needs<'a> {
    /// Empty for no variant.
    pub variant: String,
    /// Their parameters are called by their places in the pattern, as `{2}`: what else is listed
    /// decides about their names.
    pub scopes: Expression,
    pub kind: Option<String>,
    pub weight: u32,
    pub is_public: bool,
    /// The limits of each key on the route, in their stored form.
    pub limits: Option<&'a [u8]>,
}

/// The version of each description. A product that counts its own versions writes its own.
const VERSION: &str = "1.0.0";

/// The OpenAPI document.
pub fn document(service: &Service) -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {"title": service.title, "version": VERSION},
        "paths": paths::paths(service),
        "components": {
            "securitySchemes": security::schemes(service.schemes),
            "responses": errors::responses(service),
            "schemas": {"Error": errors::schema(service.error_body)},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::template::Names;
    use crate::policy::verdict::Answer;

    pub struct Listed(Vec<(&'static str, &'static str, &'static str, Option<Operation>)>);

    impl Listed {
        fn paths(self) -> Value {
            let expressions: Vec<Expression> = self
                .0
                .iter()
                .map(|(_, _, scopes, _)| Expression::parse_of_route(scopes).unwrap())
                .collect();
            let entries =
                self.0.iter().zip(&expressions).map(|((method, pattern, _, does), scopes)| {
                    let needs = Needs {
                        variant: String::new(),
                        scopes: scopes.clone(),
                        kind: None,
                        weight: 1,
                        is_public: false,
                        limits: None,
                    };
                    Entry {
                        method: (*method).into(),
                        pattern: (*pattern).into(),
                        endpoint: does.map(|operation| {
                            let names = Names { whole: operation.values(), row: operation.rows() };
                            Endpoint {
                                operation,
                                mapping: Mapping::usual(operation),
                                template: Template::parse(&operation.template(), names).unwrap(),
                                status: operation.status(),
                            }
                        }),
                        needs: vec![needs],
                    }
                });
            let service = Service {
                title: "press",
                schemes: &Schemes::default(),
                error_body: &ErrorBody::Plain,
                errors: Answer::ALL.map(HttpError::new).to_vec(),
                entries: entries.collect(),
            };
            document(&service)["paths"].clone()
        }
    }

    fn listed(entries: &[(&'static str, &'static str)]) -> Value {
        let entry =
            |(method, pattern): &(&'static str, &'static str)| (*method, *pattern, "", None);
        Listed(entries.iter().map(entry).collect()).paths()
    }

    /// The paths with their methods.
    fn methods(paths: &Value) -> Vec<String> {
        let of = |(path, item): (&String, &Value)| {
            let methods = item.as_object().unwrap().keys();
            let methods: Vec<&str> = methods.map(String::as_str).collect();
            format!("{path} {}", methods.join(" "))
        };
        paths.as_object().unwrap().iter().map(of).collect()
    }

    #[test]
    fn paths_that_differ_in_the_names_of_parameters_are_one() {
        let paths = listed(&[("GET", "/a/{x}"), ("POST", "/a/{y}"), ("GET", "/b/{x}/{x}")]);
        assert_eq!(methods(&paths), ["/a/{x} get post", "/b/{x}/{x_2} get"]);
        assert_eq!(paths["/a/{x}"]["post"]["parameters"][0]["name"], "x");
        assert_eq!(paths["/b/{x}/{x_2}"]["get"]["parameters"][1]["name"], "x_2");
    }

    #[test]
    fn a_wildcard_begins_where_nothing_else_is_listed() {
        let paths =
            listed(&[("GET", "/a/*"), ("GET", "/b/{id}"), ("GET", "/b/*"), ("POST", "/b/*")]);
        assert_eq!(
            methods(&paths),
            ["/a/{rest} get", "/b/{id} get post", "/b/{rest}/{rest_2} get"]
        );
        assert_eq!(paths["/a/{rest}"]["get"]["x-keysmith-wildcard"], true);
        assert_eq!(paths["/b/{id}"]["get"]["x-keysmith-wildcard"], Value::Null);
        assert_eq!(paths["/b/{id}"]["post"]["x-keysmith-wildcard"], true);
        let dead = listed(&[("GET", "/a/{x}"), ("GET", "/a/{x}/*"), ("GET", "/a/*")]);
        assert_eq!(methods(&dead), ["/a/{x} get", "/a/{x}/{rest} get"]);
    }

    #[test]
    fn a_route_for_all_methods_stands_for_those_that_are_not_listed() {
        let paths = listed(&[("*", "/a"), ("GET", "/a"), ("*", "/b/*"), ("PUT", "/b/*")]);
        assert_eq!(
            methods(&paths),
            ["/a delete get patch post put", "/b/{rest} delete get patch post put"]
        );
        assert_eq!(paths["/a"]["put"]["x-keysmith-any-method"], true);
        assert_eq!(paths["/a"]["get"]["x-keysmith-any-method"], Value::Null);
        assert_eq!(paths["/b/{rest}"]["put"]["x-keysmith-any-method"], Value::Null);
    }

    #[test]
    fn methods_that_a_path_item_does_not_know_are_kept() {
        let paths = listed(&[("HEAD", "/a"), ("PURGE", "/a"), ("TRACE", "/a")]);
        assert_eq!(methods(&paths), ["/a head trace x-keysmith-methods"]);
        assert!(paths["/a"]["x-keysmith-methods"]["PURGE"]["operationId"].is_string());
    }

    #[test]
    fn paths_are_as_urls_have_them() {
        let paths = listed(&[("GET", "/café/a\"b|c"), ("GET", "/"), ("GET", "/a.b/c:d@e")]);
        assert_eq!(methods(&paths), ["/ get", "/a.b/c:d@e get", "/caf%C3%A9/a%22b%7Cc get"]);
    }

    #[test]
    fn ids_are_unique_and_hold_whatever_else_is_listed() {
        let id = |paths: &Value, path: &str| paths[path]["get"]["operationId"].clone();
        let plain = listed(&[("GET", "/v1/keys/{id}"), ("GET", "/v1/usage-logs/*"), ("GET", "/")]);
        assert_eq!(id(&plain, "/v1/keys/{id}"), "get_v1_keys_by_id");
        assert_eq!(id(&plain, "/v1/usage-logs/{rest}"), "get_v1_usage-logs_any");
        assert_eq!(id(&plain, "/"), "get");
        let like = [
            "/a_b", "/a/b", "/a/{b}", "/a/by/b", "/a/by_b", "/a/_b", "/a_/b", "/a.b", "/a:b",
            "/A/b", "/é", "/è",
        ];
        let entries: Vec<_> = like.iter().map(|pattern| ("GET", *pattern)).collect();
        let together = listed(&entries);
        let mut ids: Vec<String> = Vec::new();
        for item in together.as_object().unwrap().values() {
            ids.push(item["get"]["operationId"].as_str().unwrap().into());
        }
        for (pattern, item) in
            entries.iter().flat_map(|entry| listed(&[*entry]).as_object().unwrap().clone())
        {
            assert!(ids.iter().any(|id| *id == item["get"]["operationId"]), "{pattern}");
        }
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!((ids.len(), count), (like.len(), like.len()), "{ids:?}");
        assert!(
            ids.iter().flat_map(|id| id.chars()).all(|c| c.is_ascii_alphanumeric() || c == '_'),
            "{ids:?}"
        );
    }

    #[test]
    fn scopes_are_roles_of_the_schemes() {
        let of = |scopes: &'static str| {
            Listed(vec![("GET", "/a", scopes, None)]).paths()["/a"]["get"].clone()
        };
        let with = |alternatives: &[&[&str]]| -> Value {
            let one = |scopes: &&[&str]| {
                ["bearer", "key", "x_api_key"].map(|scheme| json!({scheme: scopes}))
            };
            alternatives.iter().flat_map(one).collect()
        };
        assert_eq!(of("")["security"], with(&[&[]]));
        assert_eq!(of("a & b | c")["security"], with(&[&["a", "b"], &["c"]]));
        assert_eq!(of("(a | b) & c")["security"], with(&[&["a", "c"], &["b", "c"]]));
        assert_eq!(of("a & b")["description"], "Needs the scopes `a & b`.");
        let many = of("(a|b) & (c|d) & (e|f) & (g|h) & (i|j)");
        assert_eq!(many["security"], with(&[&[]]));
        assert!(many["description"].as_str().unwrap().contains("(i | j)"));
    }

    #[test]
    fn parameters_of_scopes_are_called_as_those_of_the_path() {
        let paths = Listed(vec![
            ("GET", "/a/{x}/b/{z}", "a:{1}:{3} | b:{1}", None),
            ("PUT", "/a/{y}/b/{z}", "a:{1}", None),
        ])
        .paths();
        let item = &paths["/a/{x}/b/{z}"];
        assert_eq!(item["get"]["security"][0]["bearer"], json!(["a:{x}:{z}"]));
        assert_eq!(item["get"]["description"], "Needs the scopes `a:{x}:{z} | b:{x}`.");
        assert_eq!(item["put"]["description"], "Needs the scope `a:{x}`.");
    }

    #[test]
    fn endpoints_have_what_requests_give_and_answers_show() {
        let paths = Listed(vec![
            ("POST", "/k", "", Some(Operation::Mint)),
            ("GET", "/k", "keys:read", Some(Operation::ListKeys)),
            ("DELETE", "/k/{id}", "", Some(Operation::Revoke)),
            ("GET", "/me", "", Some(Operation::Whoami)),
        ])
        .paths();
        let body = &paths["/k"]["post"]["requestBody"]["content"]["application/json"]["schema"];
        assert_eq!(body["additionalProperties"], false);
        assert_eq!(body["properties"]["label"], json!({"type": ["string", "null"]}));
        let response = &paths["/k"]["post"]["responses"]["201"]["content"]["application/json"];
        assert_eq!(response["schema"]["properties"]["api_key"], json!({"type": "string"}));
        let page = &paths["/k"]["get"]["parameters"];
        assert!(page.as_array().unwrap().iter().any(|parameter| *parameter
            == json!({"name": "page", "in": "query", "schema": {"type": "integer"}})));
        let revoke = &paths["/k/{id}"]["delete"];
        assert_eq!(revoke["requestBody"], Value::Null);
        assert_eq!(revoke["parameters"][1]["name"], "reason");
        assert!(
            revoke["responses"]["404"].is_object()
                && paths["/me"]["get"]["responses"]["404"].is_null()
        );
    }
}
