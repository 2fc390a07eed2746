"""All five products in one database, which don't know of each other."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from .products import EXAMPLES, NAMES, bearer, load

HERE = Path(__file__).resolve().parent
DOCUMENT = HERE.parents[1] / "docs/systems.md"

# A request to each product that all its keys may make.
HARMLESS = {
    "rimp": "GET /v1/models",
    "riskinmind": "POST /api/v1/loans/predict",
    "ryvion": "GET /api/v1/auth/me",
    "clipia": "GET /v1/account",
    "rymi": "GET /v1/auth/me",
}


@pytest.fixture
def keys(products):
    """A key of each product, all for customers of the same name."""
    return {name: product.mint(label="Production") for name, product in products.items()}


def opens(products, key):
    """The products that accept a key: by the key itself, and in a header."""
    verified = [name for name in NAMES if products[name].verify(key).ok]
    asked = [name for name in NAMES if products[name].ask(HARMLESS[name], bearer(key)).ok]
    assert verified == asked
    return verified


@pytest.fixture
def empty(cluster):
    """A database with the extension and no data."""
    cluster.execute("CREATE DATABASE empty TEMPLATE with_keysmith")
    yield "empty"
    cluster.execute("DROP DATABASE empty WITH (FORCE)")


@pytest.mark.parametrize("order", [*([name] for name in NAMES), NAMES, NAMES[::-1]], ids="-".join)
def test_the_examples_load_alone_and_in_any_order(cluster, empty, order):
    load(cluster, empty, *order)
    made = cluster.execute("SELECT keyspace FROM keysmith_private.keyspace", dbname=empty)
    assert sorted(name for name, in made) == sorted(order)


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_use_public_functions_alone(name):
    script = re.sub(r"--.*", "", (EXAMPLES / f"{name}.sql").read_text())
    statements = {statement.strip() for statement in script.split(";\n")} - {""}
    assert {"BEGIN", "COMMIT"} < statements
    for statement in statements - {"BEGIN", "COMMIT"}:
        assert re.match(r"SELECT keysmith\.(create_keyspace|define_\w+)\(", statement), statement


def test_a_key_opens_its_own_product_and_no_other(products, keys):
    for name, key in keys.items():
        assert opens(products, key) == [name]


def test_equal_prefixes_open_nothing(products, keys):
    assert all(keys[name].api_key.startswith("sk_live_") for name in ("rimp", "riskinmind"))
    for here, there in (("rimp", "riskinmind"), ("riskinmind", "rimp")):
        verdict = products[there].ask(HARMLESS[there], bearer(keys[here]))
        assert (verdict.status, verdict.code, verdict.tenant) == (401, "invalid_api_key", None)


def test_no_product_is_the_default_one(products, keys):
    assert not any(products["rimp"].db.verify(key.api_key).ok for key in keys.values())


def test_customers_of_one_name_are_five_customers(products, keys):
    verdicts = [products[name].verify(key) for name, key in keys.items()]
    assert {verdict.tenant for verdict in verdicts} == {"acme"}
    assert len({verdict.tenant_id for verdict in verdicts}) == len(NAMES)
    for name, product in products.items():
        assert [key.key_id for key in product.keys()] == [keys[name].key_id]


@pytest.mark.parametrize("ended", NAMES)
def test_revoking_in_one_leaves_the_others(products, keys, ended):
    products[ended].revoke(keys[ended])
    for name, key in keys.items():
        assert opens(products, key) == ([] if name == ended else [name])


@pytest.mark.parametrize("ended", NAMES)
def test_suspending_a_customer_of_one_leaves_the_others(products, keys, ended):
    products[ended].db.call("suspend_tenant", "acme", keyspace=ended)
    for name, key in keys.items():
        assert opens(products, key) == ([] if name == ended else [name])


def test_events_go_to_the_product_that_they_are_of(products, keys, listen):
    received = {name: listen(product) for name, product in products.items()}
    products["rymi"].revoke(keys["rymi"])
    heard = {name: [event["key_id"] for event in events()] for name, events in received.items()}
    assert heard == {name: [] for name in NAMES} | {"rymi": [str(keys["rymi"].key_id)]}


# Usage, limits and credits

def test_usage_of_one_is_in_no_others_logs(products, keys):
    for requests, (name, product) in enumerate(products.items(), 1):
        for _ in range(requests):
            assert product.ask(HARMLESS[name], bearer(keys[name])).ok
    for requests, (name, product) in enumerate(products.items(), 1):
        logs = product.logs()
        assert logs["meta"]["total"] == len(logs["data"]) == requests
        assert {(entry["key_id"], f"{entry['method']} {entry['endpoint']}")
                for entry in logs["data"]} == {(str(keys[name].key_id), HARMLESS[name])}
        for other in NAMES:
            if other != name:
                product.refused("KS404", "usage_logs", "acme", key_id=keys[other].key_id)


def test_trying_a_key_elsewhere_is_no_use_of_it(products, keys):
    for name, product in products.items():
        for other in NAMES:
            if other != name:
                assert product.ask(HARMLESS[name], bearer(keys[other])).status == 401
    for name, product in products.items():
        assert product.last_uses() == {keys[name].key_id: None}
        assert product.logs()["meta"]["total"] == 0


@pytest.mark.parametrize("used_up", NAMES)
def test_limits_of_one_leave_the_others(products, keys, used_up):
    for product in products.values():
        product.give(limits=[{"name": "calls", "limit": 2, "window": "1 day"}])
    assert products[used_up].verify(keys[used_up], weight=2).ok
    statuses = {name: product.ask(HARMLESS[name], bearer(keys[name])).status
                for name, product in products.items()}
    assert statuses == {name: 429 if name == used_up else 200 for name in NAMES}


@pytest.mark.parametrize("spent", NAMES)
def test_credits_of_one_pay_for_no_other(products, keys, spent):
    for product in products.values():
        product.give(credits=2)
    assert products[spent].verify(keys[spent], spend=2).credits_remaining == 0
    left = {name: product.verify(keys[name], spend=1).credits_remaining
            for name, product in products.items()}
    # A refusal tells what is left, too.
    assert left == {name: 0 if name == spent else 1 for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_an_identity_in_one_sees_and_manages_nothing_of_the_others(products, keys, name):
    for other in NAMES:
        if other == name:
            continue
        with products[name].signed_in(keys[name]):
            assert products[name].db.value("SELECT keysmith.current_keyspace()") == name
            assert products[name].db.value(
                "SELECT count(*) FROM keysmith.keys WHERE keyspace <> %s", name) == 0
        for function, arguments, named in [
                ("list_keys", ("acme",), {"keyspace": other}),
                ("usage_logs", ("acme",), {"keyspace": other}),
                ("revoke", (keys[other].key_id,), {})]:
            refused = products[name].refusal(keys[name], function, *arguments, **named)
            assert refused.sqlstate in ("KS403", "KS404"), function
        assert products[other].verify(keys[other]).ok


# The document

def test_the_document_names_every_test_and_no_other():
    named = set(re.findall(r"`tests/systems/([\w/]+\.py)::(test_\w+)`", DOCUMENT.read_text()))
    there = {(str(file.relative_to(HERE)), name) for file in HERE.rglob("test_*.py")
             for name in re.findall(r"^def (test_\w+)\(", file.read_text(), re.M)}
    assert named == there


@pytest.mark.parametrize("name", NAMES)
def test_the_document_has_every_request_of_a_page(name):
    """With the tests that send it. Whether they do is checked when they ran."""
    requests = import_module(f".http.test_{name}", __package__).REQUESTS
    rows = re.findall(rf"^\| {name} \| `(.+?)` \| `tests/systems/http/test_{name}\.py::", DOCUMENT.read_text(), re.M)
    assert rows == list(requests)
    commands = sum(request.startswith("curl ") for request in requests.values())
    assert f"| {name} | {len(requests)} | {commands} | {len(requests)} |" in DOCUMENT.read_text()
