//! The JSON Schema of what a template becomes.

use super::{Field, Node, Template};
use crate::http::operation::{Kind, Named};
use serde_json::{Map, Value, json};

impl Template {
    pub fn schema(&self) -> Value {
        self.0.schema()
    }
}

impl Node {
    fn schema(&self) -> Value {
        match self {
            Node::Constant(constant) => json!({"const": constant}),
            Node::Field(field) => field.schema(),
            Node::Text(_) => json!({"type": "string"}),
            Node::Rows(row) => json!({"type": "array", "items": row.schema()}),
            Node::Array(nodes) => {
                let items: Vec<Value> = nodes.iter().map(Node::schema).collect();
                let count = items.len();
                let mut schema = json!({"type": "array", "minItems": count, "maxItems": count});
                // The list must not be empty.
                if count > 0 {
                    schema["prefixItems"] = items.into();
                }
                schema
            }
            Node::Object(fields) => {
                let named = fields.iter().map(|(name, node)| (name.clone(), node.schema()));
                let properties: Map<String, Value> = named.collect();
                let required: Vec<&str> = fields.iter().map(|(name, _)| &**name).collect();
                json!({"type": "object", "required": required, "properties": properties})
            }
        }
    }
}

impl Field {
    fn schema(&self) -> Value {
        // What lies inside a JSON value is not known.
        if !self.within.is_empty() {
            return json!({});
        }
        schema(self.kind, self.may_be_null)
    }
}

impl Named {
    pub fn schema(&self) -> Value {
        schema(self.kind, self.may_be_null)
    }
}

fn schema(kind: Kind, may_be_null: bool) -> Value {
    let mut schema = match kind {
        Kind::Text | Kind::Interval => json!({"type": "string"}),
        Kind::Uuid => json!({"type": "string", "format": "uuid"}),
        Kind::Moment => json!({"type": "string", "format": "date-time"}),
        Kind::Texts | Kind::Networks => json!({"type": "array", "items": {"type": "string"}}),
        Kind::Integer => json!({"type": "integer"}),
        Kind::Number => json!({"type": "number"}),
        Kind::Boolean => json!({"type": "boolean"}),
        Kind::Json => return json!({}),
    };
    if may_be_null {
        schema["type"] = json!([schema["type"], "null"]);
    }
    schema
}

#[cfg(test)]
mod tests {
    use crate::http::operation::Operation;
    use crate::http::template::{Names, Template};
    use serde_json::{Value, json};

    fn schema(template: Value, operation: Operation) -> Value {
        let names = Names { whole: operation.values(), row: operation.rows() };
        Template::parse(&template, names).unwrap().schema()
    }

    #[test]
    fn fields_have_the_types_of_their_values() {
        let template = json!({"id": "{key_id}", "label": "{label:upper}", "at": "{created_at}",
            "until": "{expires_at}", "n": "{credits}", "scopes": "{scopes}", "color": "{metadata.color}",
            "text": "{label} of {kind}", "ok": true, "{{x}}": null});
        assert_eq!(
            schema(template, Operation::Mint)["properties"],
            json!({"id": {"type": "string", "format": "uuid"}, "label": {"type": ["string", "null"]},
                "at": {"type": "string", "format": "date-time"},
                "until": {"type": ["string", "null"], "format": "date-time"},
                "n": {"type": ["integer", "null"]}, "scopes": {"type": "array", "items": {"type": "string"}},
                "color": {}, "text": {"type": "string"}, "ok": {"const": true}, "{{x}}": {"const": null}})
        );
    }

    #[test]
    fn an_array_of_one_element_has_any_number_of_rows() {
        let listed =
            schema(json!({"data": ["{key_id}"], "meta": ["{page}", "x"]}), Operation::ListKeys);
        assert_eq!(listed["required"], json!(["data", "meta"]));
        assert_eq!(
            listed["properties"],
            json!({"data": {"type": "array", "items": {"type": "string", "format": "uuid"}},
                "meta": {"type": "array", "minItems": 2, "maxItems": 2,
                         "prefixItems": [{"type": "integer"}, {"const": "x"}]}})
        );
        let empty = schema(json!([]), Operation::Mint);
        assert_eq!(empty, json!({"type": "array", "minItems": 0, "maxItems": 0}));
    }
}
