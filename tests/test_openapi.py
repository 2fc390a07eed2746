"""openapi(): documents that others can read, of what serve() really takes and answers."""

import json
from pathlib import Path

import psycopg
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from serving import ENDPOINTS, serving

SYSTEMS = sorted((Path(__file__).parent.parent / "examples/systems").glob("*.sql"))
METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
TEMPLATE = {"error": {"code": "{code:upper}", "message": "{message}", "id": "{request_id}", "fixed": [True],
                      "wait": "{retry_after}", "scopes": "{missing_scopes}", "status": "{status}"}}
# A body with each argument of the operations that take one.
BODIES = {
    "mint": {"label": "a", "environment": "live", "kind": "secret", "scopes": ["read"], "role": "reader",
             "owner": "ann", "allowlist": ["10.0.0.0/8"], "expires_at": "2040-01-31T12:00:00Z",
             "limits": [{"name": "l", "limit": 5, "window": "1 hour"}], "metadata": {"a": 1}},
    "alter_key": {"label": "a", "scopes": ["read"], "role": "reader", "owner": "ann", "allowlist": ["10.0.0.0/8"],
                  "expires_at": "2040-01-31T12:00:00Z", "limits": [], "metadata": {"a": 1}},
    "rotate": {"grace": "1 hour"},
    "regenerate": {"label": "a", "environment": "live", "kind": "secret"},
    "revoke": {"reason": "lost"},
    "list_keys": {"include_revoked": True, "status": "active", "kind": "secret", "environment": "live",
                  "page": 1, "per_page": 2},
    "usage_logs": {"page": 1, "per_page": 2, "all_keys": True},
    "usage_totals": {"per": "hour", "since": "2020-01-31T12:00:00Z", "until": "2040-01-31T12:00:00Z", "all_keys": True},
}


@pytest.fixture
def service(cluster, connect, db, dbname):
    with serving(cluster, connect, db, dbname) as service:
        yield service


def document(db, keyspace="default"):
    """The document of a keyspace, which is valid."""
    made = db.value("SELECT keysmith.openapi(%s)", keyspace)
    OpenAPIV31SpecValidator(made).validate()
    return made


def operations(made):
    return {(method.upper(), path): operation for path, item in made["paths"].items()
            for method, operation in item.items() if method in METHODS}


def closed(schema):
    """The schema with no other fields than those that it names."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    within = {name: value if name == "const" else closed(value) for name, value in schema.items()}
    return within | ({"additionalProperties": False} if "properties" in schema else {})


def check(value, schema):
    Draft202012Validator(closed(schema), format_checker=Draft202012Validator.FORMAT_CHECKER).validate(value)


def check_answer(made, operation, answer):
    """Whether an answer is one that the operation has."""
    response = operation["responses"][str(answer.status)]
    if reference := response.get("$ref"):
        response = made["components"]["responses"][reference.removeprefix("#/components/responses/")]
    if answer.body is None:
        assert "content" not in response
        return
    schema = response["content"][answer.headers["Content-Type"]]["schema"]
    if reference := schema.get("$ref"):
        schema = made["components"]["schemas"][reference.removeprefix("#/components/schemas/")]
    check(answer.body, schema)


def query(fields):
    text = {True: "true", False: "false"}
    return "&".join(f"{name}={text.get(value, value) if isinstance(value, bool) else value}"
                    for name, value in fields.items())


# Requests and answers

def test_every_answer_is_as_described(service):
    for endpoint in ENDPOINTS:
        service.define(*endpoint)
    made = document(service.app)
    described = operations(made)
    assert set(described) == {(method, pattern) for method, pattern, _ in ENDPOINTS}
    key = service.admin.mint()
    service.admin.mint(label="with all", role=None, metadata='{"a": [1]}', expires_at="2040-01-01",
                       limits='[{"name": "l", "limit": 5, "window": "1 hour"}]', credits=5)
    for _ in range(2):
        service.ask(key, "GET", "/v1/models")
    service.admin.call("flush_usage")
    for method, pattern, operation in ENDPOINTS:
        target = key if operation == "regenerate" else service.admin.mint()
        path = pattern.replace("{id}", str(target.key_id))
        if operation == "regenerate":
            for other, in service.admin.rows("SELECT key_id FROM keysmith.keys WHERE status = 'active'"):
                if other != key.key_id:
                    service.admin.call("revoke", other)
        if operation == "enable":
            service.admin.call("disable", target.key_id)
        for answer in [service.ask(None, method, path),
                       service.ask(key, method, f"{path}?nothing=1"),
                       service.ask(key, method, path, headers={"Content-Type": "text/plain"}, body={}),
                       *([service.ask(key, method, pattern.replace("{id}", "none"))] if "{id}" in pattern else [])]:
            assert 400 <= answer.status < 500, (operation, answer)
            check_answer(made, described[method, pattern], answer)
        answer = service.ask(key, method, path)
        assert answer.status < 300, (operation, answer)
        check_answer(made, described[method, pattern], answer)
        key = service.admin.mint()


def test_answers_to_persons_are_as_described(service):
    for endpoint in ENDPOINTS:
        service.define(*endpoint)
    service.admin.call("grant_access", "serving", "host")
    made = document(service.app)
    with service.app.session.transaction():
        service.app.call("act_as", "acme")
        for method, path in [("POST", "/v1/keys"), ("GET", "/v1/keys"), ("GET", "/v1/me")]:
            answer = service.app.one("serve", "{}", method, path)
            assert answer.status < 300, answer
            check_answer(made, operations(made)[method, path], answer)
    service.admin.call("flush_usage")
    with service.app.session.transaction():
        service.app.call("act_as", "acme")
        answer = service.app.one("serve", "{}", "GET", "/v1/logs")
        assert answer.body["data"], answer
        check_answer(made, operations(made)["GET", "/v1/logs"], answer)


@pytest.mark.parametrize("operation", BODIES)
def test_the_arguments_that_are_described_are_taken(service, operation):
    db = service.admin
    for scope in ("read", "write"):
        db.call("define_scope", "default", scope)
    db.call("define_role", "default", "reader", ["read"])
    db.call("set_member", "acme", "ann", "reader")
    key = db.mint(credits=None)
    by_query = operation in ("list_keys", "usage_logs", "usage_totals")
    method = "GET" if by_query else "POST"
    pattern = "/k/{id}" if operation in ("alter_key", "rotate", "revoke") else "/k"
    service.define(method, pattern, operation)
    described = operations(document(db))[method, pattern]

    def ask(fields):
        if operation == "regenerate":
            for other, in db.rows("SELECT key_id FROM keysmith.keys WHERE status = 'active'"):
                db.call("revoke", other)
        acting = db.mint(environment=None) if operation == "regenerate" else key
        target = acting if operation == "regenerate" else db.mint()
        path = pattern.replace("{id}", str(target.key_id))
        if by_query:
            return service.ask(acting, method, f"{path}?{query(fields)}".replace("+", "%2B"))
        return service.ask(acting, method, path, fields)

    fields = BODIES[operation]
    if by_query:
        schemas = {one["name"]: one["schema"] for one in described["parameters"] if one["in"] == "query"}
    else:
        schema = described["requestBody"]["content"]["application/json"]["schema"]
        check(fields, schema)
        assert schema["additionalProperties"] is False
        schemas = schema["properties"]
    assert set(schemas) == set(fields)
    wrong = {}
    for name, value in fields.items():
        check(value, schemas[name])
        assert ask({name: value}).status < 300, name
        null = ask({name: None})
        if not by_query and (null.status < 300) != Draft202012Validator(schemas[name]).is_valid(None):
            wrong[name] = null.body
    assert wrong == {}


def test_mappings_and_templates_are_described(service):
    service.define("POST", "/k", "mint", status=200, request={
        "label": "name", "kind": {"is": "secret"}, "*": "ignore"}, response={
        "ok": True, "data": {"id": "{key_id}", "key": "{api_key}", "by": "{label} of {environment}", "until": "{expires_at}",
                             "color": "{metadata.color}", "list": ["{kind}", 1, None]}})
    service.define("GET", "/k", "list_keys", request={"page": "p", "status": {"is": "active"}},
                   response={"keys": [["{key_id}", "{last_used_at}", "x"]], "total": "{total}"})
    service.define("DELETE", "/k/{id}", "revoke", status=204)
    made = document(service.app)
    described = operations(made)
    schema = described["POST", "/k"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {"type": "object", "properties": {"name": {"type": ["string", "null"]}}}
    assert described["GET", "/k"]["parameters"] == [{"name": "p", "in": "query", "schema": {"type": "integer"}}]
    key = service.admin.mint()
    for body in ({"name": "a", "more": 1}, {}):
        check_answer(made, described["POST", "/k"], service.ask(key, "POST", "/k", body))
    listed = service.ask(key, "GET", "/k?p=1")
    assert listed.body["total"] == 3
    check_answer(made, described["GET", "/k"], listed)
    check_answer(made, described["DELETE", "/k/{id}"], service.ask(key, "DELETE", f"/k/{key.key_id}"))


@pytest.mark.parametrize("form", ["plain", "problem", TEMPLATE], ids=["plain", "problem", "template"])
def test_errors_are_described(service, form):
    service.define("DELETE", "/k/{id}", "revoke")
    service.admin.call("define_scope", "default", "k")
    service.admin.call("define_route", "default", "DELETE", "/k/{id}", "k")
    service.admin.call("alter_keyspace", "default", json.dumps({
        "error_body": form, "codes": {"not_found": {"code": "gone", "message": "It is gone.", "status": 410}}}))
    made = document(service.app)
    described = operations(made)["DELETE", "/k/{id}"]
    key = service.admin.mint(scopes=["k"])
    limited = service.admin.mint(scopes=["k"], limits='[{"name": "l", "limit": 1, "window": "1 hour"}]')
    service.ask(limited, "GET", "/x")
    for asking, path, status in [(None, "/k/x", 401), (key, "/k/x", 410), (key, "/k/x?y=1", 400),
                                 (service.admin.mint(kind="publishable", scopes=["k"]), f"/k/{key.key_id}", 403),
                                 (limited, "/k/x", 429)]:
        answer = service.ask(asking, "DELETE", path)
        assert answer.status == status, answer
        check_answer(made, described, answer)
    gone = made["components"]["responses"]["410"]
    assert "`gone`: It is gone." in gone["description"] and "404" not in described["responses"]
    assert "WWW-Authenticate" in made["components"]["responses"]["401"]["headers"]
    assert "Retry-After" in made["components"]["responses"]["429"]["headers"]


# Keyspaces

def test_a_keyspace_without_routes(db):
    made = document(db)
    assert (made["openapi"], made["info"]["title"], made["paths"]) == ("3.1.0", "default", {})
    assert db.value("SELECT count(*) FROM keysmith_private.keyspace") == 0
    assert "does not exist" in db.refused("KS404", "openapi", "nowhere")
    assert db.refused("KS400", "openapi", None).startswith("keyspace must not be null")


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda file: file.stem)
def test_the_example_systems(cluster, db, dbname, system):
    cluster.psql(system.read_text(), dbname)
    keyspaces = [keyspace for keyspace, in db.rows("SELECT keyspace FROM keysmith_private.keyspace")]
    assert keyspaces
    for keyspace in keyspaces:
        made = document(db, keyspace)
        listed = db.value("SELECT count(*) FROM keysmith.routes WHERE keyspace = %s", keyspace)
        assert bool(made["paths"]) == (listed > 0)


def test_tenants_and_keys_are_not_in_it(service):
    for endpoint in ENDPOINTS:
        service.define(*endpoint)
    key = service.admin.mint(label="Own label", metadata='{"secret": "value"}')
    text = json.dumps(document(service.app))
    for private in ("acme", "twilio", "Own label", "secret value", str(key.key_id), key.api_key):
        assert private not in text


def test_security_schemes(db):
    db.call("create_keyspace", "odd", schemes=["bearer", "key", "x_api_key", "basic", "scheme:Token", "header:X-My-Key"])
    db.call("define_route", "odd", "GET", "/a", "x & y")
    made = document(db, "odd")
    schemes = made["components"]["securitySchemes"]
    assert {name: scheme.get("scheme") or (scheme["type"], scheme["in"], scheme["name"]) for name, scheme in schemes.items()} == {
        "bearer": "bearer", "key": "Key", "basic": "basic", "scheme-Token": "Token",
        "x_api_key": ("apiKey", "header", "X-API-Key"), "header-X-My-Key": ("apiKey", "header", "X-My-Key")}
    assert all(scheme["type"] in ("http", "apiKey") for scheme in schemes.values())
    required = operations(made)["GET", "/a"]["security"]
    assert sorted(name for one in required for name in one) == sorted(schemes)
    assert all(scopes == ["x", "y"] for one in required for scopes in one.values())


def test_what_routes_need_is_told(db):
    db.call("create_keyspace", "press")
    define = lambda *arguments, **named: db.call("define_route", "press", *arguments, **named)
    define("GET", "/health", "", public=True)
    define("GET", "/images", "images:read", kind="secret", weight=5,
           limits='[{"name": "burst", "limit": 100, "window": "1 minute"}]')
    define("POST", "/images", "images:write")
    define("POST", "/images", "images:write & xl", variant="xl")
    define("POST", "/videos", "a", variant="only")
    described = operations(document(db, "press"))
    assert described["GET", "/health"]["security"] == []
    images = described["GET", "/images"]
    assert images["description"] == "Needs the scope `images:read`. Needs a secret key. Counts as 5 calls."
    assert images["x-keysmith-limits"] == [{"name": "burst", "limit": 100, "window": "1 minute", "burst": 100}]
    post = described["POST", "/images"]
    assert post["security"][0] == {"bearer": ["images:write"]}
    assert post["x-keysmith-variants"]["xl"]["security"][0] == {"bearer": ["images:write", "xl"]}
    videos = described["POST", "/videos"]
    assert videos["security"][0] == {"bearer": []} and list(videos["x-keysmith-variants"]) == ["only"]


def test_an_endpoint_has_the_needs_of_its_route(db):
    db.call("define_endpoint", "default", "GET", "/k/{id}", "show_key")
    db.call("define_endpoint", "default", "GET", "/me", "whoami")
    db.call("define_route", "default", "*", "/k/{key}", "keys:read")
    db.call("define_route", "default", "GET", "/me", "", public=True)
    made = document(db)
    described = operations(made)
    shown = described["GET", "/k/{id}"]
    assert (shown["summary"], shown["security"][0]) == ("Show a key", {"bearer": ["keys:read"]})
    assert described["DELETE", "/k/{id}"]["x-keysmith-any-method"]
    # A public route opens no endpoint.
    assert described["GET", "/me"]["security"][0] == {"bearer": []}


def test_odd_names(db):
    patterns = ["/", "/*", "/{a}", "/{a}/{a}", "/{b}/*", "/café/日本", "/a\"b'c<d>|^`", "/~!$&'()+,=:@-._",
                "/a_b", "/a/b", "/a-b", "/A/b", "/by/{by}", "/any/*", "/x/{rest}/*", "/x/*", "/" + "/".join("y" * 64)]
    for number, pattern in enumerate(patterns):
        for method in ("GET", "*", "PURGE", "M-SEARCH", "HEAD", "OPTIONS"):
            db.call("define_route", "default", method, pattern, "s:1 | (s/2 & s.3)",
                    variant='v "{}\\ é' if number % 2 else None)
    db.call("alter_keyspace", "default", json.dumps({
        "codes": {"invalid_api_key": {"code": "é\"\\<script>", "message": "*_`{}[]()\\ é \u2028"}},
        "error_body": {"é \"": {"{{x}}": "{code}{message}", "": []}}}))
    made = document(db)
    ids = [operation["operationId"] for operation in operations(made).values()]
    assert len(ids) == len(set(ids)) > 100
    assert "/caf%C3%A9/%E6%97%A5%E6%9C%AC" in made["paths"]
    assert set(made["paths"]["/"]["x-keysmith-methods"]) == {"PURGE", "M-SEARCH"}
    before = {(path, method): one["operationId"] for (method, path), one in operations(made).items()}
    db.call("remove_route", "default", "GET", "/a_b", variant="")
    after = {(path, method): one["operationId"] for (method, path), one in operations(document(db)).items()}
    changed = {place for place in after if before.get(place) != after[place]}
    assert changed <= {("/a_b", "get")}


def test_a_thousand_routes(db):
    db.rows("SELECT keysmith.define_route('default', m, '/r' || n % 40 || '/s' || n || '/{id}', 'a & b | c') "
            "FROM generate_series(1, 250) n, unnest('{GET,POST,PUT,DELETE}'::text[]) m")
    made = db.value("SELECT keysmith.openapi()")
    found = operations(made)
    assert len(found) == 1000
    assert len({operation["operationId"] for operation in found.values()}) == 1000
    # The rest is of one form: a part of it is enough to check.
    made["paths"] = dict(list(made["paths"].items())[:10])
    OpenAPIV31SpecValidator(made).validate()


def test_a_name_in_another_encoding(cluster, database):
    cluster.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
    try:
        with cluster.connect("latin") as session:
            db = database(session)
            db.rows("SET client_encoding = 'UTF8'")
            db.rows("CREATE EXTENSION keysmith")
            db.call("define_route", "default", "GET", "/café", "")
            assert list(document(db)["paths"]) == ["/caf%C3%A9"]
    finally:
        cluster.execute("DROP DATABASE latin WITH (FORCE)")


def test_who_may_call_it(service, connect):
    assert service.app.value("SELECT keysmith.openapi()")["info"]["title"] == "default"
    service.admin.call("revoke_access", "serving")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        service.app.value("SELECT keysmith.openapi()")
