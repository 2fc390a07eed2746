"""Who may do what with a ledger, and what the owner of another table can't do to it."""

import psycopg
import pytest

from conftest import session
from ledgers import CHANGED, DIFFERENCE, STORED, assert_right, behind_its_back, kept_head, problems
from test_hostile_tables import HOSTILE, OTHER, OWNER, forget, hostile, prepared, ran  # noqa: F401

DENIED = psycopg.errors.InsufficientPrivilege


@pytest.fixture
def owned(cluster, dbname, hostile):  # noqa: F811
    """A table with a ledger, and sessions of its owner and of another role."""
    owner, other = session(cluster, dbname, OWNER), session(cluster, dbname, OTHER)
    owner.session.execute(f"CREATE TABLE m.t (id int PRIMARY KEY, v text); GRANT USAGE ON SCHEMA m TO {OTHER}; "
                          "INSERT INTO m.t VALUES (1, 'x'), (2, 'y'); SELECT keysmith.ledger('m.t')")
    yield owner, other
    owner.session.close()
    other.session.close()


def test_only_the_owner_begins_and_ends(hostile, owned):  # noqa: F811
    owner, other = owned
    hostile.rows("GRANT ALL ON m.t TO alice")
    for call in ("ledger('m.t')", "ledger('m.t', '{v}')", "unledger('m.t')"):
        with owner.session.transaction():
            # A role without the right does not wait for the table.
            owner.rows("LOCK TABLE m.t IN ACCESS EXCLUSIVE MODE")
            other.rows("SET lock_timeout = '30s'")
            with pytest.raises(DENIED, match="must be owner of table t"):
                other.rows(f"SELECT keysmith.{call}")
    assert_right(owner, "m.t")
    hostile.rows("GRANT mallory TO alice")
    other.rows("SELECT keysmith.unledger('m.t'), keysmith.ledger('m.t')")
    assert_right(other, "m.t")


def test_a_part_of_another_owner_is_not_touched(hostile, owned):  # noqa: F811
    owner, _ = owned
    owner.rows("CREATE TABLE m.child () INHERITS (m.t)")
    hostile.rows("ALTER TABLE m.child OWNER TO alice")
    with pytest.raises(DENIED, match="child"):
        owner.rows("SELECT keysmith.ledger('m.t')")
    assert hostile.value("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'm.child'::regclass") == 0


def test_who_may_check(hostile, owned):  # noqa: F811
    owner, other = owned
    behind_its_back(hostile, "UPDATE m.t SET v = 'z' WHERE id = 1")
    calls = ["SELECT problem FROM keysmith.verify_ledger('m.t')", 'SELECT "position" FROM keysmith.ledger_head(\'m.t\')']
    answers = [[(CHANGED,)], [(1,)]]

    def may(db):
        assert [db.rows(call) for call in calls] == answers

    def may_not(db, match):
        for call in calls:
            with pytest.raises(DENIED, match=match):
                db.rows(call)

    may(owner)
    may_not(other, "permission denied for table t")
    assert other.rows("SELECT * FROM keysmith.ledgers") == []
    hostile.rows("GRANT SELECT (id, v), INSERT, UPDATE, DELETE ON m.t TO alice")
    may_not(other, "permission denied")
    with owner.session.transaction():
        owner.rows("LOCK TABLE m.t IN ACCESS EXCLUSIVE MODE")
        other.rows("SET lock_timeout = '30s'")
        may_not(other, "permission denied")
    hostile.rows("GRANT SELECT ON m.t TO alice")
    may(other)
    assert other.rows('SELECT relation::text, "position", open FROM keysmith.ledgers') == [("m.t", 1, 0)]
    owner.session.execute("CREATE POLICY mine ON m.t USING (true); ALTER TABLE m.t ENABLE ROW LEVEL SECURITY")
    may_not(other, "row-level security may hide rows")
    may(owner)
    owner.rows("ALTER TABLE m.t FORCE ROW LEVEL SECURITY")
    may_not(owner, "row-level security")
    may(hostile)
    hostile.rows("ALTER ROLE alice BYPASSRLS")
    may(other)
    # A reader of a table may read the rows of its parts.
    owner.session.execute("ALTER TABLE m.t NO FORCE ROW LEVEL SECURITY; ALTER TABLE m.t DISABLE ROW LEVEL SECURITY; "
                          "CREATE TABLE m.child () INHERITS (m.t)")
    may(other)


def test_rows_that_policies_hide_are_counted(hostile, owned):  # noqa: F811
    """Also from the owner, who begins and ends the ledger."""
    owner, _ = owned
    owner.session.execute("SELECT keysmith.unledger('m.t'); CREATE POLICY mine ON m.t USING (id = 2); "
                          "ALTER TABLE m.t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; SELECT keysmith.ledger('m.t'); "
                          "INSERT INTO m.t VALUES (2, 'z') ON CONFLICT (id) DO UPDATE SET v = 'w'; UPDATE m.t SET v = v || 'x'")
    assert owner.rows("SELECT * FROM m.t") == [(2, "wx")]
    assert_right(hostile, "m.t")
    assert kept_head(hostile, "m.t")["rows"] == 2


def test_a_writer_needs_no_right_of_ours(hostile, owned):  # noqa: F811
    """A role without any level writes, and its rows are counted. It can neither name nor call anything of ours."""
    owner, _ = owned
    hostile.session.execute("CREATE ROLE plain_writer; GRANT USAGE ON SCHEMA m TO plain_writer; GRANT ALL ON m.t TO plain_writer")
    try:
        with hostile.session.transaction():
            hostile.rows("SET LOCAL ROLE plain_writer")
            hostile.session.execute("INSERT INTO m.t VALUES (3, 'a'); UPDATE m.t SET v = 'b'; DELETE FROM m.t WHERE id = 1; "
                                    "TRUNCATE m.t; "
                                    "INSERT INTO m.t VALUES (4)")
        assert_right(owner, "m.t")
        hostile.rows("SET ROLE plain_writer")
        for call in ("verify_ledger('m.t')", "ledger_head('m.t')", "ledger('m.t')", "unledger('m.t')"):
            with pytest.raises(DENIED):
                hostile.rows(f"SELECT keysmith.{call}")
        for stored in STORED:
            with pytest.raises(DENIED):
                hostile.rows(f"SELECT * FROM {stored}")
    finally:
        hostile.rows("RESET ROLE")
        hostile.rows("DROP OWNED BY plain_writer; DROP ROLE plain_writer")


def test_the_caller_cannot_change_what_is_counted(hostile, owned):  # noqa: F811
    """Settings of the writing session make no difference."""
    owner, _ = owned
    for setting in ("search_path = ''", "search_path = m, public, pg_catalog", "row_security = off", "statement_timeout = '1min'",
                    "default_transaction_isolation = 'serializable'", "enable_seqscan = off", "check_function_bodies = off"):
        owner.rows(f"SET {setting}")
        owner.rows("UPDATE m.t SET v = v || 'x'; INSERT INTO m.t SELECT max(id) + 1 FROM m.t")
        owner.rows(f"RESET {setting.split(' =')[0]}")
    assert_right(owner, "m.t")


# The trigger function on tables for which it was not made

EVENTS = {"insert": "AFTER INSERT ON {t} REFERENCING NEW TABLE AS \"new\" FOR EACH STATEMENT",
          "row": "AFTER INSERT ON {t} FOR EACH ROW",
          "before": "BEFORE INSERT ON {t} FOR EACH ROW", "truncate": "BEFORE TRUNCATE ON {t} FOR EACH STATEMENT",
          "statement": "AFTER INSERT ON {t} FOR EACH STATEMENT", "all": "AFTER INSERT OR UPDATE OR DELETE ON {t} FOR EACH ROW"}


def victims_triggers(db):
    """The definitions of the triggers of m.t, with their arguments."""
    return {row.name: row.definition for row in db.rows(
        "SELECT tgname AS name, pg_get_triggerdef(oid) AS definition FROM pg_trigger WHERE tgrelid = 'm.t'::regclass AND NOT "
        "tgisinternal")}


def attempt(db, *statements):
    """Errors are ours, or PostgreSQL's own about the form of a trigger."""
    for statement in statements:
        try:
            db.session.execute(statement)
        except psycopg.Error as error:
            assert not error.sqlstate.startswith("XX"), error
            db.session.rollback()


def is_unchanged(hostile, before):  # noqa: F811
    assert hostile.rows(f"SELECT * FROM {DIFFERENCE}") == before
    assert problems(hostile, "m.t") == []


def test_the_triggers_of_a_ledger_on_another_table(hostile, owned):  # noqa: F811
    _, other = owned
    hostile.rows("GRANT ALL ON m.t TO alice")
    before = hostile.rows(f"SELECT * FROM {DIFFERENCE}")
    other.rows("CREATE TABLE public.own (id int PRIMARY KEY, v text)")
    definitions = victims_triggers(hostile)
    assert len(definitions) == 5
    for definition in definitions.values():
        attempt(other, definition.replace(" ON m.t ", " ON public.own "),
                "INSERT INTO public.own VALUES (7, 'forged'), (8, 'forged')", "UPDATE public.own SET v = 'x'",
                "DELETE FROM public.own",
                "INSERT INTO public.own VALUES (9, 'forged')", "TRUNCATE public.own",
                "SET session_replication_role = replica",
                "DROP TABLE public.own; CREATE TABLE public.own (id int PRIMARY KEY, v text)")
        is_unchanged(hostile, before)


def test_the_function_with_other_arguments_and_events(hostile, owned):  # noqa: F811
    owner, other = owned
    ledger = hostile.value("SELECT ledger_id::text FROM keysmith_private.ledger")
    before = hostile.rows(f"SELECT * FROM {DIFFERENCE}")
    arguments = ["", f"'{ledger}'", "'00000000-0000-0000-0000-000000000000'", "'x'", f"'{ledger}', 'm.t'", "''", f"'{ledger}x'",
                 ", ".join(["'x'"] * 50)]
    for event in EVENTS.values():
        for given in arguments:
            attempt(other, "CREATE TABLE public.own (id int PRIMARY KEY, v text)",
                    f"CREATE TRIGGER z {event.format(t='public.own')} EXECUTE FUNCTION keysmith.ledger_changes({given})",
                    "INSERT INTO public.own VALUES (1, 'x')", "TRUNCATE public.own", "DROP TABLE public.own")
    is_unchanged(hostile, before)
    # Only triggers with the names that ledger() gives them record changes.
    owner.rows("GRANT ALL ON m.t TO alice")
    for event in EVENTS.values():
        attempt(owner, f"CREATE TRIGGER z {event.format(t='m.t')} EXECUTE FUNCTION keysmith.ledger_changes('{ledger}')",
                "INSERT INTO m.t SELECT max(id) + 1, 'x' FROM m.t", "DROP TRIGGER IF EXISTS z ON m.t")
    attempt(owner, "SELECT keysmith.ledger_changes()")
    assert_right(owner, "m.t")


def test_a_table_of_another_owner_that_takes_the_name(hostile, owned):  # noqa: F811
    owner, _ = owned
    head = kept_head(owner, "m.t")
    owner.session.execute("ALTER TABLE m.t RENAME TO old; CREATE TABLE m.t (id int PRIMARY KEY, v text); INSERT INTO m.t VALUES (9)")
    with pytest.raises(psycopg.Error) as error:
        problems(owner, "m.t")
    assert error.value.sqlstate == "KS404"
    owner.rows("UPDATE m.old SET v = 'z'")
    assert problems(owner, "m.old") == []
    owner.rows("SELECT keysmith.ledger('m.t')")
    assert_right(owner, "m.t", "m.old")
    assert problems(owner, "m.old", head | {"relation": "m.old"}) == []


# Code of a hostile owner

def test_no_code_of_the_owners_runs_as_who_calls(prepared):  # noqa: F811
    """As test_hostile_tables.py does for other functions."""
    db = prepared
    for call in ("ledger('m.t'::regclass)", "verify_ledger('m.t'::regclass)", "ledger_head('m.t'::regclass)",
                 "ledger('m.t'::regclass)",
                 "ledger('m.t'::regclass, '{v,w}'::pg_catalog.text[])", "verify_ledger('m.t'::regclass)",
                 "unledger('m.t'::regclass)"):
        try:
            db.session.execute(f"SELECT * FROM keysmith.{call}")
        except psycopg.Error as error:
            assert error.sqlstate.startswith("KS"), (call, error)
        assert "superuser" not in ran(db), call
        forget(db)


def test_what_a_check_shows_of_rows_runs_no_code_of_the_owners(cluster, dbname, hostile):  # noqa: F811
    owner = session(cluster, dbname, OWNER)
    owner.session.execute(HOSTILE.replace("RESET ROLE;", ""))
    owner.session.execute("DROP TABLE m.child; SELECT keysmith.seal_rows('m.t'), keysmith.ledger('m.t')")
    forget(hostile)
    behind_its_back(hostile, "ALTER TABLE m.t DROP CONSTRAINT t_v_check; UPDATE m.t SET v = 'forged'")
    forget(hostile)
    fresh = session(cluster, dbname)
    found = fresh.call("verify_ledger", "m.t")
    assert CHANGED in [row.problem for row in found]
    assert "superuser" not in ran(hostile)
    fresh.session.close()
    owner.session.close()
