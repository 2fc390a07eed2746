"""Databases in encodings other than UTF-8, and roles whose names are valid in none."""

from urllib.parse import quote

import psycopg
import pytest
from psycopg.types.json import Jsonb

from conftest import session

ENCODINGS = [("UTF8", "jürgen", "Größe"), ("LATIN1", "jürgen", "Größe"), ("EUC_JP", "田中", "顧客")]


@pytest.fixture
def encoded(cluster):
    """Makes a database in an encoding, with the extension."""
    made = []

    def make(encoding):
        name = f"in_{encoding.lower()}"
        cluster.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
                        " TEMPLATE template0")
        made.append(name)
        db = session(cluster, name, client_encoding="SQL_ASCII" if encoding == "SQL_ASCII" else "utf8")
        db.rows("CREATE EXTENSION keysmith")
        return db

    yield make
    for name in made:
        cluster.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("encoding, person, word", ENCODINGS)
def test_names_are_found_in_every_encoding(encoded, encoding, person, word):
    db = encoded(encoding)
    db.call("define_role", "default", word, ["a", "b"])
    db.call("define_role", "default", "wide", ["*"])
    db.call("alter_keyspace", "default", Jsonb({"plan_features": {"allowlist": [word]}}))
    db.tenant(word, plan=word)
    db.call("set_member", word, person, word)
    of_role, of_person = db.mint(word, role=word, allowlist=["10.0.0.0/8"]), db.mint(word, owner=person)
    for key in (of_role, of_person):
        verdict = db.verify(key.api_key, scopes=["a"], ip="10.0.0.1")
        assert (verdict.reason, verdict.tenant, verdict.role) == ("ok", word, word)
        assert db.reason(key.api_key, scopes=["c"], ip="10.0.0.1") == "insufficient_scope"
    # The rights that a key gives are compared with its own.
    for key, named in ((of_role, {"role": word}), (of_person, {"owner": person})):
        with db.session.transaction():
            assert db.verify(key.api_key, ip="10.0.0.1", sign_in=True).ok
            minted = [db.mint(word), db.mint(word, **named)]
        assert [db.verify(key.api_key, scopes=["b"], ip="10.0.0.1").role for key in minted] == [word] * 2
    with db.session.transaction():
        assert db.verify(of_role.api_key, ip="10.0.0.1", sign_in=True).ok
        with pytest.raises(psycopg.Error) as error:
            db.mint(word, role="wide")
    assert error.value.sqlstate == "KS403"
    assert db.one("alter_key", of_role.key_id, Jsonb({"label": person})).label == person


@pytest.mark.parametrize("encoding, person, word", ENCODINGS)
def test_requests_are_in_utf8_in_every_encoding(encoded, encoding, person, word):
    db = encoded(encoding)
    db.tenant(word)
    headers = Jsonb({"X-Api-Key": db.mint(word).api_key})
    db.call("define_endpoint", "default", "POST", "/keys", "mint")
    db.call("define_endpoint", "default", "GET", "/keys/{id}", "show_key", response=Jsonb({word: "{label}"}))
    made = db.one("serve", headers, "POST", f"/keys?label={quote(person)}").body
    assert made["label"] == person
    assert db.one("serve", headers, "GET", f"/keys/{made['key_id']}").body == {word: person}
    answer = db.one("serve", headers, "GET", f"/keys/{quote(word)}")
    assert (answer.status, answer.body["message"]) == (404, "there is no such key")


@pytest.mark.parametrize("encoding, person, word", ENCODINGS)
def test_database_roles_have_access_in_every_encoding(encoded, encoding, person, word):
    db = encoded(encoding)
    db.tenant(word)
    db.rows(f'CREATE ROLE "{person}"')
    try:
        db.call("grant_access", f'"{person}"', "issuer", word)
        db.rows(f'SET ROLE "{person}"')
        key = db.mint(word)
        assert db.value("SELECT created_by FROM keysmith.keys") == person
        db.rows("RESET ROLE")
        entry = db.row("SELECT role, session_role FROM keysmith.audit WHERE action = 'mint'")
        assert entry == (person, "postgres")
        after = db.value("SELECT after FROM keysmith.audit WHERE action = 'grant_access'")
        assert after[0]["role"] == person
        db.call("revoke_access", f'"{person}"')
        assert not db.value("SELECT has_function_privilege(%s, 'keysmith.revoke(uuid, text)', 'EXECUTE')", person)
        assert db.verify(key.api_key).ok
    finally:
        db.rows(f'DROP OWNED BY "{person}"; DROP ROLE "{person}"')


def raw(connection, statement):
    """Sends bytes that are not valid in any encoding."""
    result = connection.pgconn.exec_(statement)
    assert result.status in (psycopg.pq.ExecStatus.COMMAND_OK, psycopg.pq.ExecStatus.TUPLES_OK), \
        result.error_message


@pytest.mark.parametrize("encoding", ["UTF8", "LATIN1", "EUC_JP"])
def test_a_role_whose_name_has_no_characters_is_told_by_its_bytes(encoded, encoding):
    bare, db = encoded("SQL_ASCII"), encoded(encoding)
    raw(bare.session, b'CREATE ROLE "\xffm"')
    oid = bare.value("SELECT oid FROM pg_roles WHERE rolname::bytea = '\\xff6d'")
    shown = "ÿm" if encoding == "LATIN1" else f"\\xff6d (oid {oid})"
    try:
        db.rows(f"SELECT keysmith.grant_access({oid}::oid::regrole, 'admin')")
        db.rows(f"SELECT set_config('role', rolname, false) IS NULL FROM pg_roles WHERE oid = {oid}")
        db.tenant()
        db.mint()
        db.rows("RESET ROLE")
        db.rows(f"SELECT keysmith.revoke_access({oid}::oid::regrole)")
        assert db.value("SELECT created_by FROM keysmith.keys") == shown
        told = db.rows("SELECT DISTINCT role, session_role FROM keysmith.audit WHERE keyspace = 'default'")
        assert told == [(shown, "postgres")]
        changes = db.rows("SELECT before, after FROM keysmith.audit WHERE keyspace = '*' ORDER BY entry")
        access = [{"role": shown, "level": "admin", "tenant_id": None, "keyspace": None}]
        assert changes == [(None, access), (access, None)]
        assert [row.ok for row in db.call("audit_verify")] == [True, True]
    finally:
        db.rows(f"""RESET ROLE; DO $$ BEGIN EXECUTE (
            SELECT format('DROP OWNED BY %I', rolname) FROM pg_roles WHERE oid = {oid}); END $$""")
        raw(bare.session, b'DROP ROLE "\xffm"')
