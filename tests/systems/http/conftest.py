"""The five products, their server, and a customer of any of them."""

import itertools
from contextlib import contextmanager

import pytest
from conftest import session

from ..products import Product
from . import site as sites

ROLES = {"systems_server": ["verifier", "issuer"], "systems_dashboard": ["verifier", "issuer", "host"]}
# clipia's generations. The reference to a model is checked at the commit.
GENERATIONS = """
    CREATE TABLE model (name text PRIMARY KEY);
    INSERT INTO model VALUES ('flux-dev');
    CREATE TABLE generation (
        id bigint GENERATED ALWAYS AS IDENTITY, account uuid DEFAULT keysmith.current_tenant_id(),
        model text REFERENCES model DEFERRABLE INITIALLY DEFERRED, is_mock boolean);
    SELECT keysmith.isolate('generation', 'account');
    GRANT SELECT, INSERT ON generation TO systems_server;"""
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def served(cluster, with_systems, tmp_path_factory):
    """The name of the database, and the site."""
    dbname = "systems_over_http"
    cluster.execute(f"CREATE DATABASE {dbname} TEMPLATE {with_systems}")
    # The one proxy that the server trusts is on its own machine.
    cluster.execute(f"ALTER DATABASE {dbname} SET keysmith.trusted_proxies = '127.0.0.0/8'")
    for role, levels in ROLES.items():
        cluster.execute(f"CREATE ROLE {role} LOGIN")
        for level in levels:
            cluster.execute(f"SELECT keysmith.grant_access('{role}', '{level}')", dbname)
    cluster.execute(GENERATIONS, dbname)
    with sites.running(cluster, dbname, tmp_path_factory.mktemp("site"), *ROLES) as site:
        yield dbname, site
    cluster.execute(f"DROP DATABASE {dbname} WITH (FORCE)")
    for role in ROLES:
        cluster.execute(f"DROP ROLE {role}")


@pytest.fixture
def dbname(served):
    """All these tests use one database, and each of them customers of its own."""
    return served[0]


@pytest.fixture
def site(served):
    return served[1]


@pytest.fixture(scope="module", autouse=True)
def every_request_of_the_page(request, served):
    """Sent at least once, if all tests of the module run."""
    yield
    tests = {name for name in vars(request.module) if name.startswith("test_")}
    if tests <= {item.originalname for item in request.session.items if item.module is request.module}:
        sent = served[1].sent
        assert [name for name, text in request.module.REQUESTS.items() if text not in sent] == []


@pytest.fixture
def customer(db):
    """A new customer of a product."""
    def of(product, **options):
        customer = Product(db, product, f"customer{next(_numbers)}")
        customer.tenant(customer.customer, **options)
        return customer
    return of


@pytest.fixture
def dashboard(cluster, dbname):
    """A transaction of a dashboard."""
    @contextmanager
    def transaction():
        opened = session(cluster, dbname, "systems_dashboard", autocommit=False)
        with opened.session:
            yield opened
    return transaction


@pytest.fixture
def signed_in(dashboard):
    """One that acts for a person."""
    @contextmanager
    def person(customer, member=None):
        with dashboard() as opened:
            opened.call("act_as", customer.customer, member, customer.name)
            yield opened
    return person
