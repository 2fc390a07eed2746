"""A keyspace with endpoints, and requests to it."""

import json
from contextlib import contextmanager

# The endpoints that the guide has.
ENDPOINTS = [
    ("POST", "/v1/keys", "mint"), ("GET", "/v1/keys", "list_keys"),
    ("GET", "/v1/keys/{id}", "show_key"), ("PATCH", "/v1/keys/{id}", "alter_key"),
    ("DELETE", "/v1/keys/{id}", "revoke"), ("POST", "/v1/keys/{id}/rotate", "rotate"),
    ("POST", "/v1/keys/{id}/disable", "disable"), ("POST", "/v1/keys/{id}/enable", "enable"),
    ("POST", "/v1/regenerate", "regenerate"), ("GET", "/v1/me", "whoami"),
    ("GET", "/v1/logs", "usage_logs"), ("GET", "/v1/usage", "usage_totals"),
    ("POST", "/v1/tokens", "derive_token"),
]


class Service:
    """The default keyspace, served by a role with the levels that an application needs."""

    def __init__(self, admin, app):
        self.admin, self.app = admin, app

    def define(self, method, pattern, operation, keyspace="default", **options):
        for name in ("request", "response"):
            if name in options:
                options[name] = json.dumps(options[name])
        self.admin.call("define_endpoint", keyspace, method, pattern, operation, **options)

    def ask(self, key, method, path, body=None, headers=None, **options):
        headers = dict(headers or {})
        if key is not None:
            headers.setdefault("Authorization", f"Bearer {key.api_key}")
        if body is not None:
            options["body"] = json.dumps(body)
        with self.app.session.transaction():
            return self.app.one("serve", json.dumps(headers), method, path, **options)


@contextmanager
def serving(cluster, connect, db, dbname):
    """A tenant of the default keyspace, and a role that serves it."""
    cluster.execute("CREATE ROLE serving LOGIN")
    for level in ("verifier", "issuer"):
        db.call("grant_access", "serving", level)
    db.tenant("acme", metadata='{"provider": "twilio", "nested": {"a": [1]}}')
    yield Service(db, type(db)(connect(user="serving", autocommit=True)))
    cluster.execute("DROP OWNED BY serving", dbname)
    cluster.execute("DROP ROLE serving")
