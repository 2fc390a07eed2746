"""All five products in one database, none of which knows of the others."""

import re
from pathlib import Path

import pytest

from .products import EXAMPLES, NAMES, bearer, load

HERE = Path(__file__).resolve().parent
DOCUMENT = HERE.parents[1] / "docs/systems.md"

# A request to each product that any of its keys may make.
HARMLESS = {
    "rimp": "GET /v1/models",
    "riskinmind": "POST /api/v1/loans/predict",
    "ryvion": "GET /api/v1/auth/me",
    "clipia": "GET /v1/account",
    "rymi": "GET /v1/auth/me",
}


@pytest.fixture
def keys(products):
    """A key of each product, all for a customer of the same name."""
    return {name: product.mint(label="Production") for name, product in products.items()}


def opens(products, key):
    """The products that let a key in: by the key itself, and in a header."""
    verified = [name for name in NAMES if products[name].verify(key).ok]
    asked = [name for name in NAMES if products[name].ask(HARMLESS[name], bearer(key)).ok]
    assert verified == asked
    return verified


@pytest.fixture
def empty(cluster):
    """A database with the extension and nothing in it."""
    cluster.execute("CREATE DATABASE empty TEMPLATE with_keysmith")
    yield "empty"
    cluster.execute("DROP DATABASE empty WITH (FORCE)")


@pytest.mark.parametrize("order", [*([name] for name in NAMES), NAMES, NAMES[::-1]], ids="-".join)
def test_the_examples_load_alone_and_in_any_order(cluster, empty, order):
    load(cluster, empty, *order)
    made = cluster.execute("SELECT keyspace FROM keysmith.keyspace", dbname=empty)
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


# The document

def test_the_document_names_every_test_and_no_other():
    named = set(re.findall(r"`tests/systems/(test_\w+\.py)::(test_\w+)`", DOCUMENT.read_text()))
    there = {(file.name, name) for file in HERE.glob("test_*.py")
             for name in re.findall(r"^def (test_\w+)\(", file.read_text(), re.M)}
    assert named == there
