"""Five products in one database."""

import pytest

from .products import NAMES, Product, load


@pytest.fixture(scope="session")
def with_systems(cluster):
    """A database with all five products in it, to copy."""
    cluster.execute("CREATE DATABASE with_systems TEMPLATE with_keysmith")
    load(cluster, "with_systems", *NAMES)
    return "with_systems"


@pytest.fixture
def dbname(cluster, with_systems):
    """Every test of a product runs beside the other four."""
    cluster.execute(f"CREATE DATABASE system TEMPLATE {with_systems}")
    yield "system"
    cluster.execute("DROP DATABASE system WITH (FORCE)")


@pytest.fixture
def product(db):
    """A product by its name, with a customer called acme."""
    def named(name):
        product = Product(db, name)
        product.tenant("acme")
        return product
    return named


@pytest.fixture
def products(product):
    return {name: product(name) for name in NAMES}


@pytest.fixture
def listen(hear):
    return lambda product: hear(product.db.one("event_channel", product.name)[0])
