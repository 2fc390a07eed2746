"""Published products, each a keyspace, and the actions of their servers."""

import json
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples/systems"
NAMES = ["rimp", "riskinmind", "ryvion", "clipia", "rymi"]


def load(cluster, dbname, *names):
    for name in names:
        cluster.psql((EXAMPLES / f"{name}.sql").read_text(), dbname=dbname)


def bearer(key):
    return {"Authorization": f"Bearer {key.api_key}"}


class Refused(Exception):
    """How a key's act was refused."""

    def __init__(self, error):
        super().__init__(error.diag.message_primary)
        self.sqlstate = error.sqlstate
        detail = error.diag.message_detail
        self.answer = json.loads(detail) if detail else None


class Product:
    """A product's keyspace, used by its server, and one of its customers."""

    def __init__(self, db, name, customer="acme"):
        self.db, self.name, self.customer = db, name, customer

    def tenant(self, name, **options):
        return self.db.tenant(name, keyspace=self.name, **options)

    def mint(self, tenant=None, **options):
        return self.db.mint(tenant or self.customer, keyspace=self.name, **options)

    def regenerate(self, tenant=None, **options):
        return self.db.one("regenerate", tenant or self.customer, keyspace=self.name, **options)

    def revoke(self, key):
        self.db.call("revoke", key.key_id)

    @contextmanager
    def signed_in(self, key, **options):
        """A transaction that acts for a key, as the product's server opens one for a request."""
        try:
            with self.db.session.transaction():
                assert self.verify(key, sign_in=True, **options).ok
                yield self
        except psycopg.Error as error:
            raise Refused(error) from None

    @contextmanager
    def serving(self, request, key, **options):
        """A transaction in which the server performs a request, as its key may."""
        try:
            with self.db.session.transaction():
                verdict = self.ask(request, bearer(key), **options)
                assert verdict.ok, verdict.reason
                yield verdict
        except psycopg.Error as error:
            raise Refused(error) from None

    def refusal(self, key, function, *positional, **named):
        """How an act by a key's authority is refused."""
        with pytest.raises(Refused) as refused, self.signed_in(key):
            self.db.call(function, *positional, **named)
        return refused.value

    def keys(self, tenant=None, **options):
        return self.db.call("list_keys", tenant or self.customer, keyspace=self.name, **options)

    def give(self, **changes):
        """Gives the customer limits and credits."""
        self.db.call("alter_tenant", self.customer, json.dumps(changes), self.name)

    def member(self, member, role):
        self.db.call("set_member", self.customer, member, role, keyspace=self.name)

    def logs(self, tenant=None, **options):
        """A page of a customer's requests, when all requests are stored."""
        self.db.call("flush_usage")
        return self.db.one("usage_logs", tenant or self.customer, keyspace=self.name, **options)[0]

    def last_uses(self):
        """When each of the customer's keys was last used."""
        self.db.call("flush_usage")
        return {key.key_id: key.last_used_at for key in self.keys()}

    def verify(self, key, **options):
        return self.db.verify(key.api_key, keyspace=self.name, **options)

    def refused(self, sqlstate, function, *positional, **named):
        return self.db.refused(sqlstate, function, *positional, keyspace=self.name, **named)

    def ask(self, request, headers, **options):
        """The verdict on a request such as "GET /v1/models"."""
        method, path = request.split()
        return self.db.one("authenticate", json.dumps(headers), method, path,
                           keyspace=self.name, **options)

    def answer(self, request, key, **options):
        """Status and code of the answer to a request of a key."""
        return self.answer_to(request, bearer(key), **options)

    def answer_to(self, request, headers, **options):
        verdict = self.ask(request, headers, **options)
        assert verdict.ok == (verdict.status == 200)
        return verdict.status, verdict.code

    def is_nowhere(self, key):
        """Whether no table and no view contains the key, or most of its secret."""
        tables = self.db.rows("""
            SELECT oid::regclass FROM pg_class
            WHERE relnamespace IN ('keysmith'::regnamespace, 'keysmith_private'::regnamespace)
              AND relkind IN ('r', 'v')""")
        stored = "\n".join(
            self.db.value(f"SELECT coalesce(string_agg(t::text, E'\n'), '') FROM {table} t")
            for table, in tables)
        assert str(key.key_id) in stored
        secret = key.api_key[-40:-6]
        return secret not in stored and secret.encode().hex() not in stored
