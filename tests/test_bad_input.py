"""Bad input: decisions answer, management raises one of our errors and changes nothing, and
nothing crashes."""

import psycopg
import pytest
from psycopg.types.json import Jsonb

from cluster import running

UNKNOWN = "00000000-0000-0000-0000-000000000000"
HOSTILE = ["", " ", "'", '"', "\\", "%s%n%d", "$1", "--", "a\tb", "x" * 100_000, "ünïcödé", "🔑",
           "'; DROP TABLE keysmith_private.key; --", "\u202e", "null", "{}", "*", "%(x)s"]
BIG = 500 * 1024 * 1024


def snapshot_of(db):
    return [db.rows(f"SELECT * FROM keysmith_private.{table} ORDER BY 1, 2, 3")
            for table in ("keyspace", "keyspace_prefix", "scope", "role", "tenant", "member", "key")]


@pytest.mark.parametrize("text", HOSTILE)
def test_deciding_answers_whatever_it_is_given(db, text):
    db.tenant()
    key = db.mint(scopes=["a"]).api_key
    assert db.reason(text) == "malformed_key"
    if text in ("null", "--"):
        assert db.reason(key, scopes=[text]) == "insufficient_scope"
    else:
        assert "scopes" in db.refused("KS400", "verify", key, scopes=["a", text, None])
    assert db.reason(key, keyspace=text) == "wrong_keyspace"
    assert db.reason(key, kind=text) == "kind_not_allowed"
    assert db.reason(key, environment=text) == "wrong_environment"
    assert db.reason(key + text) == ("ok" if text == "" else "malformed_key")
    assert db.reason(text + key) in ("ok", "malformed_key")
    assert db.reason(key, scopes=None) == "scopes_null"
    assert db.reason(key, keyspace=None) == "wrong_keyspace"


@pytest.mark.parametrize("size", [1, 57, 1024, 1025, 10**6, BIG])
def test_keys_of_any_length(db, size):
    for fill in ("a", "_", "0"):
        assert db.value("SELECT reason FROM keysmith.verify(repeat(%s, %s))", fill, size) \
            == "malformed_key"
    db.tenant()
    db.row("SELECT keysmith.import_key('acme', sha256(repeat('a', 1024)::bytea))")
    expected = {1024: "ok"}.get(size, "not_found" if size < 1024 else "malformed_key")
    assert db.value("SELECT reason FROM keysmith.verify(repeat('a', %s))", size) == expected


def test_compressed_and_stored_out_of_line(db):
    db.rows("CREATE TABLE given (key text)")
    db.rows("INSERT INTO given SELECT repeat('x', 10000000)")
    db.rows("ALTER TABLE given ALTER key SET STORAGE external")
    db.rows("INSERT INTO given SELECT repeat('y', 10000000)")
    assert db.rows("SELECT v.reason FROM given, keysmith.verify(key) v") == [("malformed_key",)] * 2


def test_ten_thousand_scopes(db):
    db.tenant()
    scopes = [f"s:{n}" for n in range(10_000)]
    assert "scopes" in db.refused("KS400", "mint", "acme", scopes=scopes)
    assert "implies" in db.refused("KS400", "define_scope", "default", "a", implies=scopes)
    assert "scopes" in db.refused("KS400", "define_role", "default", "a", scopes)
    key = db.mint(scopes=scopes[:1000]).api_key
    assert db.reason(key, scopes=scopes) == "insufficient_scope"
    assert db.verify(key, scopes=scopes[:1000]).ok


def test_millions_of_scopes(db):
    db.tenant()
    key = db.mint(scopes=["a"]).api_key
    many = "array_fill('a'::text, '{10000000}')"
    assert db.value(f"SELECT ok FROM keysmith.verify(%s, scopes => {many})", key)
    assert db.value(f"SELECT reason FROM keysmith.verify(%s, scopes => {many} || '{{b}}')", key) \
        == "insufficient_scope"
    with pytest.raises(psycopg.Error) as error:
        db.rows(f"SELECT keysmith.mint('acme', scopes => {many})")
    assert error.value.sqlstate == "KS400"


def test_arrays_of_other_shapes(db):
    db.tenant()
    key = db.row("SELECT * FROM keysmith.mint('acme', scopes => '[5:6]={a,b}')")
    ok = "SELECT ok FROM keysmith.verify(%s, scopes => {})"
    for scopes, expected in [("'{{a,b},{b,a}}'", True), ("'{{a,b},{b,c}}'", False),
                             ("'[-3:-2]={a,b}'", True), ("'{a,NULL}'", False), ("'{NULL}'", False),
                             ("array_fill('a'::text, '{3,3,3}')", True),
                             ("array_append(array_fill(NULL::text, '{9}'), 'a')", False)]:
        assert db.value(ok.format(scopes), key.api_key) == expected, scopes


@pytest.mark.parametrize("function, arguments, named", [
    ("create_tenant", {"name": None}, "name"),
    ("create_tenant", {"name": ""}, "name"),
    ("create_tenant", {"name": "x" * 201}, "name"),
    ("create_tenant", {"name": "a\nb"}, "name"),
    ("create_tenant", {"name": " a"}, "name"),
    ("create_tenant", {"name": "x" * 1_000_000}, "name"),
    ("create_tenant", {"name": "a", "keyspace": None}, "keyspace"),
    ("create_tenant", {"name": "a", "plan": ""}, "plan"),
    ("create_tenant", {"name": "a", "metadata": Jsonb([1])}, "metadata"),
    ("create_tenant", {"name": "a", "metadata": Jsonb("x")}, "metadata"),
    ("create_tenant", {"name": "a", "metadata": Jsonb(None)}, "metadata"),
    ("create_tenant", {"name": "a", "metadata": Jsonb({"a": "x" * 70_000})}, "metadata"),
    ("create_keyspace", {"name": None}, "name"),
    ("create_keyspace", {"name": ""}, "name"),
    ("create_keyspace", {"name": "Upper"}, "name"),
    ("create_keyspace", {"name": "a b"}, "name"),
    ("create_keyspace", {"name": "x" * 64}, "name"),
    ("create_keyspace", {"name": "a", "prefixes": Jsonb({"secret": {"live": "no underscore"}})}, "prefixes"),
    ("create_keyspace", {"name": "a", "prefixes": Jsonb({"secret": {"live": "x" * 32 + "_"}})}, "prefixes"),
    ("create_keyspace", {"name": "a", "prefixes": Jsonb({"secret": {"LIVE": "a_"}})}, "prefixes"),
    ("create_keyspace", {"name": "a", "prefixes": Jsonb({"secret": "a_"})}, "prefixes"),
    ("create_keyspace", {"name": "a", "prefixes": Jsonb({"other": {"live": "a_"}})}, "prefixes"),
    ("create_keyspace", {"name": "a", "prefixes": Jsonb([])}, "prefixes"),
    ("create_keyspace", {"name": "a", "empty_scopes": "some"}, "empty_scopes"),
    ("create_keyspace", {"name": "a", "default_scopes": ["a b"]}, "default_scopes"),
    ("create_keyspace", {"name": "a", "default_scopes": [None]}, "default_scopes"),
    ("create_keyspace", {"name": "a", "max_active_keys": 0}, "max_active_keys"),
    ("create_keyspace", {"name": "a", "max_active_keys": -1}, "max_active_keys"),
    ("create_keyspace", {"name": "a", "at_max": "x"}, "at_max"),
    ("create_keyspace", {"name": "a", "label_length": 0}, "label_length"),
    ("create_keyspace", {"name": "a", "label_length": 1001}, "label_length"),
    ("mint", {"tenant": None}, "tenant"),
    ("mint", {"tenant": "acme", "label": "x" * 101}, "label"),
    ("mint", {"tenant": "acme", "label": ""}, "label"),
    ("regenerate", {"tenant": "acme", "label": ""}, "label"),
    ("mint", {"tenant": "acme", "label": "a\x07"}, "label"),
    ("mint", {"tenant": "acme", "label": "x" * 1_000_000}, "label"),
    ("mint", {"tenant": "acme", "environment": "nowhere"}, "environment"),
    ("mint", {"tenant": "acme", "kind": "master"}, "kind"),
    ("mint", {"tenant": "acme", "kind": None}, "kind"),
    ("mint", {"tenant": "acme", "scopes": [None]}, "scopes"),
    ("mint", {"tenant": "acme", "scopes": [""]}, "scopes"),
    ("mint", {"tenant": "acme", "scopes": ["a:"]}, "scopes"),
    ("mint", {"tenant": "acme", "scopes": ["*:a"]}, "scopes"),
    ("mint", {"tenant": "acme", "scopes": ["'; DROP TABLE x"]}, "scopes"),
    ("mint", {"tenant": "acme", "metadata": Jsonb([])}, "metadata"),
    ("mint", {"tenant": "acme", "limits": Jsonb({})}, "limits"),
    ("mint", {"tenant": "acme", "credits": -5}, "credits"),
    ("mint", {"tenant": "acme", "keyspace": None}, "keyspace"),
    ("define_scope", {"keyspace": "default", "scope": "*"}, "scope"),
    ("define_scope", {"keyspace": "default", "scope": "x" * 129}, "scope"),
    ("define_scope", {"keyspace": "default", "scope": "a", "implies": ["*"]}, "implies"),
    ("define_scope", {"keyspace": "default", "scope": "a", "implies": ["a"]}, "implies"),
    ("define_scope", {"keyspace": "default", "scope": "a", "description": "x" * 1001}, "description"),
    ("define_role", {"keyspace": "default", "role": "", "scopes": []}, "role"),
    ("define_role", {"keyspace": "default", "role": "r", "scopes": ["a b"]}, "scopes"),
    ("set_member", {"tenant": "acme", "member": "", "role": "r"}, "member"),
    ("revoke", {"key_id": None}, "key_id"),
    ("revoke", {"key_id": UNKNOWN, "reason": "x" * 1001}, "reason"),
    ("rotate", {"key_id": None}, "key_id"),
    ("rotate", {"key_id": UNKNOWN, "grace": None}, "grace"),
    ("enable", {"key_id": None}, "key_id"),
    ("disable", {"key_id": None}, "key_id"),
    ("alter_key", {"key_id": None, "changes": Jsonb({})}, "key_id"),
    ("alter_key", {"key_id": UNKNOWN, "changes": None}, "changes"),
    ("alter_tenant", {"tenant": "acme", "changes": Jsonb({"name": "x"})}, "changes"),
    ("alter_tenant", {"tenant": "acme", "changes": Jsonb({"plan": 5})}, "plan"),
    ("report_leak", {"api_key": None, "source": "x"}, "api_key"),
    ("report_leak", {"api_key": "x", "source": None}, "source"),
    ("report_leak", {"api_key": "x", "source": "x" * 501}, "source"),
    ("list_keys", {"tenant": None}, "tenant"),
    ("list_keys", {"tenant": "acme", "include_revoked": None}, "include_revoked"),
    ("event_channel", {"keyspace": None}, "keyspace"),
    ("wait_for_replay", {"timeout": "-1 s"}, "timeout"),
    ("wait_for_replay", {"timeout": "25 hours"}, "timeout"),
    ("wait_for_replay", {"timeout": None}, "timeout"),
    ("regenerate", {"tenant": "acme", "kind": "x"}, "kind"),
])
def test_management_names_the_argument_and_changes_nothing(db, function, arguments, named):
    db.tenant()
    before = snapshot_of(db)
    assert named in db.refused("KS400", function, **arguments)
    assert snapshot_of(db) == before


def test_a_key_is_not_opened_by_scopes_that_are_not_there(db):
    db.tenant()
    key = db.mint(scopes=["a"])
    assert "scopes" in db.refused("KS400", "alter_key", key.key_id, Jsonb({"scopes": None}))
    revocation = {"action": "alter", "keyspace": "default", "tenant": "acme", "key_id": str(key.key_id),
                  "changes": {"scopes": None}}
    assert "scopes" in db.refused("KS400", "replay_revocations", Jsonb([revocation]))
    assert db.reason(key.api_key, scopes=["b"]) == "insufficient_scope"


def test_scopes_are_sets(db):
    db.tenant()
    db.call("define_role", "default", "r", ["b", "a", "b"])
    db.call("define_scope", "default", "c")
    db.call("define_scope", "default", "a", implies=["c", "c"])
    db.call("define_scope", "default", "b")
    key = db.mint(scopes=["b", "a", "b"])
    assert key.scopes == ["b", "a"]
    assert db.one("alter_key", key.key_id, Jsonb({"scopes": ["a", "a"]})).scopes == ["a"]
    assert db.rows("SELECT scopes FROM keysmith_private.role") == [(["b", "a"],)]
    assert db.value("SELECT implies FROM keysmith_private.scope WHERE scope = 'a'") == ["c"]


def test_scopes_imply_each_other_in_no_circle(db):
    for scope, implied in [("a", ["b", "c"]), ("b", ["d"]), ("c", ["d"]), ("d", [])]:
        db.call("define_scope", "default", scope, implies=implied)
    for scope, implied in [("d", ["a"]), ("d", ["c"]), ("b", ["x", "a"]), ("a", ["b", "a"])]:
        assert "implies" in db.refused("KS400", "define_scope", "default", scope, implies=implied)
    # In other encodings the characters differ.
    db.call("create_keyspace", "other")
    db.call("define_scope", "other", "d", implies=["a"])


def test_a_key_that_can_do_nothing_is_announced(db):
    db.tenant()
    db.call("define_role", "default", "reader", ["read"])
    db.call("define_role", "default", "writer", ["write"])
    db.call("set_member", "acme", "ann", "writer")
    notices = []
    db.session.add_notice_handler(lambda diag: notices.append(diag.message_primary))
    key = db.mint(role="reader", scopes=["read"])
    db.mint(owner="ann")
    db.mint(scopes=["x"])
    assert notices == []
    db.mint(role="reader", scopes=["write"])
    db.mint(role="reader", owner="ann")
    db.call("import_key", "acme", b"x" * 32, role="reader", scopes=["write"])
    db.call("alter_key", key.key_id, Jsonb({"role": "writer"}))
    db.call("alter_key", key.key_id, Jsonb({"label": "still"}))
    assert len(notices) == 4 and all("can do nothing" in notice for notice in notices)


def test_metadata_is_measured_as_it_is_stored(db):
    """A number keeps all of its digits."""
    db.tenant()
    key = db.mint()
    digits = "jsonb_build_object('metadata', (SELECT jsonb_object_agg(n, ('0.' || repeat('1', {}))::numeric) FROM generate_series(1, 20) n))"
    for call in (f"alter_key('{key.key_id}', {digits})", f"alter_tenant('acme', {digits})"):
        with pytest.raises(psycopg.Error) as error:
            db.rows(f"SELECT keysmith.{call}".format(16_000))
        assert error.value.sqlstate == "KS400" and "metadata" in error.value.diag.message_primary
        db.rows(f"SELECT keysmith.{call}".format(1_000))


@pytest.mark.parametrize("metadata, good", [
    (f'{{"a": {"[" * 99}{"]" * 99}}}', True), (f'{{"a": {"[" * 100}{"]" * 100}}}', False),
    (f'{{"a": {"[" * 3000}{"]" * 3000}}}', False), ('{"a": 1e308}', True), ('{"a": 9e308}', False),
    ('{"a": [1e131071]}', False), ('{"a": 1e-16000}', False), ('{"a": 5e-324}', True)],
    ids=lambda value: str(value)[:9])
def test_metadata_can_be_read_by_programs(db, metadata, good):
    db.tenant()
    db.call("define_endpoint", "default", "GET", "/keys", "list_keys")
    db.call("define_endpoint", "default", "GET", "/me", "whoami")
    if not good:
        for call in ("mint('acme', metadata => %s)", "create_tenant('other', metadata => %s)"):
            with pytest.raises(psycopg.Error) as error:
                db.rows(f"SELECT keysmith.{call}", metadata)
            assert error.value.sqlstate == "KS400", error.value
        return
    db.call("create_tenant", "other", metadata=metadata)
    key = db.mint("other", metadata=metadata)
    headers = Jsonb({"X-Api-Key": key.api_key})
    (listed,) = db.one("serve", headers, "GET", "/keys").body["keys"]
    assert listed["key_id"] == str(key.key_id) and listed["metadata"]
    assert db.one("serve", headers, "GET", "/me").body["metadata"]


@pytest.mark.parametrize("function, arguments", [
    ("mint", ("nobody",)), ("regenerate", ("nobody",)), ("list_keys", ("nobody",)),
    ("suspend_tenant", ("nobody",)), ("resume_tenant", ("nobody",)),
    ("alter_tenant", ("nobody", Jsonb({}))), ("rename_tenant", ("nobody", "x")), ("erase_tenant", ("nobody",)), ("set_member", ("nobody", "m", "r")),
    ("remove_member", ("nobody", "m")), ("remove_member", ("acme", "m")),
    ("set_member", ("acme", "m", "no role")), ("create_tenant", ("x", "nowhere")),
    ("mint", ("acme", None, None, "secret", [], "no role")),
    ("mint", ("acme", None, None, "secret", [], None, "no member")),
    ("alter_keyspace", ("nowhere", Jsonb({}))), ("drop_keyspace", ("nowhere",)), ("event_channel", ("nowhere",)),
    ("define_scope", ("nowhere", "a")), ("define_role", ("nowhere", "a", [])),
    ("alter_key", (UNKNOWN, Jsonb({}))), ("report_leak", ("x", "y")),
])
def test_what_is_not_there(db, function, arguments):
    db.tenant()
    before = snapshot_of(db)
    db.refused("KS404", function, *arguments)
    assert snapshot_of(db) == before


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_are_kept_as_they_are_or_refused(db, text):
    for function in ("create_tenant", "create_keyspace"):
        try:
            db.call(function, text)
        except psycopg.Error as error:
            assert error.sqlstate == "KS400"
    db.tenant("plain")
    try:
        key = db.mint("plain", label=text[:90], metadata=Jsonb({text[:90]: text}))
    except psycopg.Error as error:
        assert error.sqlstate == "KS400"
    else:
        assert db.verify(key.api_key).metadata == {text[:90]: text}
    for act in (lambda: db.call("list_keys", text), lambda: db.call("suspend_tenant", text),
                lambda: db.call("event_channel", text), lambda: db.call("report_leak", text, text[:99]),
                lambda: db.call("set_member", "plain", text, text)):
        try:
            act()
        except psycopg.Error as error:
            assert error.sqlstate in ("KS400", "KS404"), error


STORED = ["keyspace", "scope", "role", "route", "endpoint", "tenant", "member", "key", "access"]


@pytest.mark.parametrize("text", [*HOSTILE, "a\x01b", "'||pg_sleep(9)||'", "$$x$$", "x\ny", "E'\\''"])
def test_hostile_texts_in_every_managing_function(db, text):
    """Each is stored unchanged, or refused with one of our errors and without a trace."""
    db.tenant("plain")
    db.call("define_role", "default", "r", ["a"])
    db.call("set_member", "plain", "ann", "r")
    key = db.mint("plain")
    named = Jsonb({"label": text, "metadata": {text[:90]: text}})
    calls = [
        ("create_tenant", {"name": text}), ("create_tenant", {"name": "x", "plan": text}),
        ("create_tenant", {"name": "y", "metadata": Jsonb({text[:90]: text})}),
        ("alter_tenant", {"tenant": "plain", "changes": Jsonb({"plan": text})}),
        ("alter_tenant", {"tenant": "plain", "changes": Jsonb({text: 1})}),
        ("suspend_tenant", {"tenant": "plain", "reason": text}), ("resume_tenant", {"tenant": text}),
        ("set_member", {"tenant": "plain", "member": text, "role": "r"}),
        ("set_member", {"tenant": "plain", "member": "bob", "role": text}),
        ("remove_member", {"tenant": "plain", "member": text}),
        ("define_scope", {"keyspace": "default", "scope": "a", "description": text}),
        ("define_scope", {"keyspace": "default", "scope": text}),
        ("define_role", {"keyspace": "default", "role": text, "scopes": ["a"]}),
        ("create_keyspace", {"name": "k", "managed_by": text}),
        ("create_keyspace", {"name": "l", "codes": Jsonb({"ok": {"message": text}})}),
        ("alter_keyspace", {"name": "default", "changes": Jsonb({"managed_by": text})}),
        ("mint", {"tenant": "plain", "label": text}), ("mint", {"tenant": "plain", "owner": text}),
        ("mint", {"tenant": "plain", "role": text}), ("mint", {"tenant": "plain", "scopes": [text]}),
        ("mint", {"tenant": "plain", "environment": text}), ("mint", {"tenant": text}),
        ("regenerate", {"tenant": "plain", "label": text}),
        ("import_key", {"tenant": "plain", "digest": b"x" * 32, "key_prefix": text}),
        ("alter_key", {"key_id": key.key_id, "changes": named}),
        ("alter_key", {"key_id": key.key_id, "changes": Jsonb({"expires_at": text})}),
        ("alter_key", {"key_id": key.key_id, "changes": Jsonb({"allowlist": [text]})}),
        ("grant_access", {"role": "pg_monitor", "level": text}),
        ("grant_access", {"role": "pg_monitor", "level": "issuer", "tenant": text, "keyspace": text}),
        ("revoke_access", {"role": "pg_monitor", "level": text}),
        ("audit_verify", {"heads": Jsonb([{"keyspace": text, "entry": 1, "hash": text}])}),
        ("report_leak", {"api_key": text, "source": text}),
        ("revoke", {"key_id": key.key_id, "reason": text}),
    ]
    for function, named in calls:
        before = [db.rows(f"SELECT t::text FROM keysmith_private.{table} t ORDER BY 1") for table in STORED]
        try:
            db.call(function, **named)
        except psycopg.Error as error:
            assert error.sqlstate in ("KS400", "KS404"), (function, named, error)
            assert len(error.diag.message_primary) < 1000
            assert [db.rows(f"SELECT t::text FROM keysmith_private.{table} t ORDER BY 1")
                    for table in STORED] == before, function
    noted = db.rows("SELECT after FROM keysmith.audit WHERE action = 'suspend'")
    assert all(row.after["suspended_reason"] == text for row in noted)
    assert all(row.ok for row in db.call("audit_verify"))


@pytest.mark.parametrize("statement", [
    """SELECT keysmith.alter_key(gen_random_uuid(), '{"label": "a\\u0000b"}')""",
    """SELECT keysmith.alter_tenant('a', '{"metadata": {"a\\u0000": 1}}')""",
    """SELECT keysmith.audit_verify('[{"keyspace": "\\u0000"}]')""",
])
def test_nulls_in_json_are_refused_by_its_type(db, statement):
    with pytest.raises(psycopg.errors.UntranslatableCharacter):
        db.rows(statement)


def test_huge_patches(db):
    db.tenant()
    key = db.mint()
    deep = "[" * 5000 + "]" * 5000
    for patch in ('{"metadata": {"a": ' + deep + "}}", '{"label": ' + deep + "}",
                  '{"metadata": {"a": 1e400}}', '{"x": "' + "x" * 2_000_000 + '"}'):
        message = db.refused("KS400", "alter_key", key.key_id, patch)
        assert "changes" in message
    message = db.refused("KS400", "alter_key", key.key_id, Jsonb({"label": "a\u0001b"}))
    assert "label" in message


@pytest.mark.parametrize("encoding, locale", [("LATIN1", "C"), ("SQL_ASCII", "C"), ("EUC_JP", "C")])
def test_other_encodings(encoding, locale):
    with running("encoding", "-E", encoding, f"--locale={locale}") as cluster:
        with cluster.connect(client_encoding=encoding.lower() if encoding != "SQL_ASCII" else "utf8") as session:
            session.prepare_threshold = None
            session.execute("CREATE EXTENSION keysmith")

            def value(statement):
                return session.execute(statement.encode()).fetchone()[0]

            def sqlstate(statement):
                with pytest.raises(psycopg.Error) as error:
                    session.execute(statement)
                return error.value.sqlstate

            name = {"LATIN1": rb"E'M\xe9l'", "EUC_JP": rb"E'\xc6\xfc'"}.get(encoding, b"'ascii'")
            session.execute(b"SELECT keysmith.create_tenant(" + name + b")")
            (label, tenant) = session.execute(
                b"SELECT k.label = " + name + b", v.tenant = " + name + b" FROM keysmith.mint(" + name
                + b", label => " + name + b") m, keysmith.verify(m.api_key) v, keysmith.list_keys("
                + name + b") k").fetchone() or (True, True)
            assert (label, tenant) == (True, True)
            # Texts in JSON are converted from and to the encoding of the database, too.
            session.execute(b"SELECT keysmith.alter_tenant(" + name + b", jsonb_build_object('plan', " + name
                            + b", 'limits', jsonb_build_array(jsonb_build_object('name', " + name
                            + b", 'limit', 5, 'window', '1 hour'))))")
            session.execute(b"SELECT keysmith.alter_keyspace('default', jsonb_build_object('codes', "
                            b"jsonb_build_object('rate_limited', jsonb_build_object('message', " + name + b"))))")
            assert value("SELECT t.plan = t.name AND t.limits = '5/1 hour/5/' || t.name AND a.message = t.name "
                         "FROM keysmith_private.tenant t, keysmith_private.answer a")
            assert sqlstate(b"SELECT keysmith.create_tenant(" + name + b")") == "KS409"
            assert value("SELECT reason FROM keysmith.verify('x')") == "malformed_key"
            if encoding == "SQL_ASCII":
                bad = rb"E'\xff\xfe'"
                assert sqlstate(b"SELECT keysmith.create_tenant(" + bad + b")") == "KS400"
                reason = b"SELECT reason FROM keysmith.verify(" + bad + b")"
                assert session.execute(reason).fetchone()[0] == "malformed_key"


def test_a_trigger_function_called_by_hand(db):
    with pytest.raises(psycopg.Error) as error:
        db.rows("SELECT keysmith_private.policy_changed()")
    assert error.value.sqlstate == "KS400"
