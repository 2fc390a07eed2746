"""A role without grants, or with a level, stops nobody: while it holds or waits for every lock
that it can get, others decide, spend, revoke, manage and store usage."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

import hostile
from bystanders import ROLES, STRANGER, world  # noqa: F401
from conftest import session, wait_until
from majors import GRANT_LOCKS

# The work that any role can delay in PostgreSQL, by the kind of the statement: keysmith gives up
# within a second, and names the session to end. test_by_its_number_* and test_a_grant_* show each
# alone.
NAMED = {
    "by_number": ["drops_what_is_old"],
    **dict.fromkeys(["changing", "calling", "depending", "extension"], ["gives_and_takes_access"]),
}


@pytest.fixture
def attacker(world, request):
    """A session of a role that has its own schema and everything that it needs to try things."""
    role = request.param
    schema = f"own_{role}"
    world.db.rows(f"DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema} AUTHORIZATION {role}")
    world.expired_partition()
    opened = session(world.cluster, user=role, autocommit=False)
    opened.rows(f"SET search_path = {schema}, public")
    opened.rows(hostile.OWN)
    opened.rows("SELECT lo_unlink(oid) FROM pg_largeobject_metadata WHERE lomowner = CURRENT_USER::regrole")
    opened.session.commit()
    yield Attacker(world, role, opened)
    opened.session.close()
    world.db.rows(f"DROP SCHEMA {schema} CASCADE; ALTER ROLE {role} RESET ALL")


class Attacker:
    def __init__(self, world, role, opened):
        self.world, self.role, self.db = world, role, opened

    def try_all(self, statements):
        """Tries each, in one transaction that stays open; returns pairs of a statement and its
        SQLSTATE."""
        return list(zip(statements, [state for state, in self.db.rows("SELECT * FROM attempt(%s)", statements)]))

    def locks(self):
        """Its locks on objects of the extension, by kind of object."""
        return self.world.db.rows("""
            SELECT DISTINCT l.locktype, coalesce(l.relation::regclass::text,
                       (pg_identify_object(l.classid, l.objid, 0)).identity) AS object, l.mode
            FROM pg_locks l LEFT JOIN pg_class c ON c.oid = l.relation
            WHERE l.pid = %s AND l.database IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
              AND (c.relnamespace = ANY ('{keysmith,keysmith_private}'::regnamespace[]) OR l.locktype = 'object'
                   AND EXISTS (SELECT FROM pg_depend d WHERE (d.classid, d.objid) = (l.classid, l.objid)
                               AND d.deptype = 'e')
                   OR (l.classid, l.objid) IN (SELECT 'pg_extension'::regclass, oid FROM pg_extension
                                               WHERE extname = 'keysmith'))""",
            self.db.session.info.backend_pid)


@pytest.fixture
def holder(world):
    """A session that reads every table and view, and stays in its transaction."""
    looking = world.session("postgres")
    looking.rows("BEGIN")

    def hold():
        # A day that is dropped meanwhile can't be read.
        looking.rows("LOCK TABLE keysmith_private.usage_event IN ACCESS SHARE MODE")
        for relation in world.objects().relations:
            if relation.kind in "rpv":
                # A worker that ends drops old partitions.
                with contextlib.suppress(psycopg.errors.UndefinedTable), looking.session.transaction():
                    looking.rows(f"LOCK TABLE {relation.name} IN ACCESS SHARE MODE")
            elif relation.kind == "c":
                # No statement locks a row type for long, but this one does.
                with contextlib.suppress(psycopg.Error), looking.session.transaction():
                    looking.rows(f"SELECT nextval({relation.oid}::regclass)")

    yield hold
    looking.rows("ROLLBACK")
    looking.session.close()


def check(world, attacker, kind, but=()):
    stopped = world.stopped(attacker.role, but)
    for probe in NAMED.get(kind, ()):
        if probe in stopped and world.is_blamed(attacker.role, stopped[probe]):
            del stopped[probe]
    assert stopped == {}, attacker.locks()


each_role = pytest.mark.parametrize("attacker", ROLES, indirect=True)
each_kind = pytest.mark.parametrize("kind", hostile.KINDS)


# The queue: all others wait behind a session that waits for a lock

WAITED = "55P03"


def has_answered(connection):
    connection.consume_input()
    return not connection.is_busy()


@each_kind
@each_role
def test_nobody_waits_behind_it(world, attacker, holder, kind):
    statements = hostile.KINDS[kind](world.objects())
    holder()
    # A role that may name views waits for the session that reads them.
    attacker.db.rows(f"SET lock_timeout = '{'1s' if attacker.role == STRANGER else '50ms'}'")
    tried = attacker.try_all(statements)
    assert len(tried) == len(statements) > 0
    attacker.db.session.rollback()
    waiting = [statement for statement, state in tried if state == WAITED]
    if attacker.role == STRANGER:
        # Any role can make an object depend on an extension, which locks the extension.
        assert [statement for statement in waiting if "DEPENDS ON EXTENSION keysmith" not in statement] == []
    with contextlib.ExitStack() as stack:
        for statement in waiting[:20]:
            other = session(world.cluster, user=attacker.role, autocommit=False)
            other.rows(f"SET search_path = own_{attacker.role}, public")
            # Nobody waits for the answer: a thread would use the connection while it is closed.
            connection = other.session.pgconn
            connection.send_query(statement.encode())
            stack.callback(lambda other=other: (other.session.cancel(), other.session.close()))
            pid = other.session.info.backend_pid
            wait_until(lambda: has_answered(connection) or world.db.value(
                "SELECT count(*) FROM pg_locks WHERE pid = %s AND NOT granted", pid))
        # The reading session keeps the partitions, not the attacker.
        check(world, attacker, kind, but=["drops_what_is_old", "makes_partitions"])


# Locks that it gets, it holds as long as it likes.

@each_kind
@each_role
def test_nobody_waits_for_what_it_holds(world, attacker, kind):
    attacker.try_all(hostile.KINDS[kind](world.objects()))
    if attacker.role == STRANGER:
        # PostgreSQL has functions that lock an object by its OID as readers do. nextval locks it
        # as writers do, for the whole transaction, before it checks that it is a sequence. And
        # any role can make an object depend on an extension.
        assert {lock for lock in attacker.locks() if lock.object != "keysmith"
                and lock.mode not in ("AccessShareLock", "RowExclusiveLock")} == set()
    check(world, attacker, kind)


@each_kind
@each_role
def test_what_it_leaves_is_in_nobodys_way(world, attacker, kind):
    attacker.try_all(hostile.KINDS[kind](world.objects()))
    attacker.db.session.commit()
    depending = world.db.rows("""
        SELECT (pg_identify_object(d.classid, d.objid, 0)).identity,
               (pg_identify_object(d.refclassid, d.refobjid, 0)).identity AS what
        FROM pg_depend d
        JOIN pg_depend e ON (e.classid, e.objid) = (d.refclassid, d.refobjid) AND e.deptype = 'e'
        JOIN pg_extension x ON x.oid = e.refobjid AND x.extname = 'keysmith'
        WHERE (pg_identify_object(d.classid, d.objid, 0)).schema LIKE 'own\\_%%'""")
    private = [pair for pair in depending if "keysmith_private." in pair.what]
    assert (depending if attacker.role == STRANGER else private) == []
    check(world, attacker, kind)


@each_kind
@pytest.mark.parametrize("attacker", [STRANGER, "verifier"], indirect=True)
def test_nor_is_what_it_prepares(world, attacker, kind):
    """A prepared transaction holds locks though the session is gone."""
    if kind == "others":
        pytest.skip("a transaction that has temporary objects, or that listens, is not prepared")
    attacker.try_all([statement for statement in hostile.KINDS[kind](world.objects()) if " TEMP " not in statement])
    name = f"prepared by {attacker.role}"
    try:
        attacker.db.rows(f"PREPARE TRANSACTION '{name}'")
    except psycopg.Error as error:
        # Sessions hold advisory locks on themselves too.
        assert error.sqlstate in ("0A000", "55000"), error
        attacker.db.session.rollback()
        return
    try:
        check(world, attacker, kind)
    finally:
        world.db.rows(f"ROLLBACK PREPARED '{name}'")


# Locks that PostgreSQL allows to any role, each alone

@contextlib.contextmanager
def holding(world, role, *statements):
    """A session that has run these, the last of which may have failed, and that stays."""
    opened = session(world.cluster, user=role, autocommit=False)
    try:
        for statement in statements:
            opened.rows("SAVEPOINT s")
            with contextlib.suppress(psycopg.Error):
                opened.rows(statement)
            opened.rows("ROLLBACK TO s" if opened.session.info.transaction_status.name == "INERROR" else "RELEASE s")
        yield opened.session.info.backend_pid
    finally:
        opened.session.close()


def end(world, pid):
    assert world.db.value("SELECT pg_terminate_backend(%s, 60000)", pid)


def test_by_its_number_any_table_can_be_locked_as_writers_do(world):
    """nextval() takes its lock before it checks that it is a sequence, and its owner."""
    table = world.db.value("SELECT 'keysmith_private.access'::regclass::oid")
    with holding(world, STRANGER, f"SELECT nextval({table}::regclass)"):
        assert world.stopped(STRANGER) == {}


@contextlib.contextmanager
def keeping_a_partition(world, statement):
    """A stranger that has locked an old partition. A worker that ends may drop it before."""
    name = "keysmith_private.usage_20010203"
    while True:
        world.expired_partition()
        table, part = (world.db.value("SELECT to_regclass(%s)::oid", relation)
                       for relation in ("keysmith_private.usage_event", name))
        with holding(world, STRANGER, statement.format(table=table, part=part or 0)) as pid:
            if world.db.value("""
                    SELECT to_regclass(%s) IS NOT NULL AND EXISTS (
                        SELECT FROM pg_locks WHERE pid = %s AND relation IN (to_regclass(%s), %s::oid))""",
                              name, pid, name, table):
                yield pid
                return


@pytest.mark.parametrize("statement", ["SELECT count(*) FROM pg_partition_tree({table})",
                                       "SELECT nextval({table}::regclass)", "SELECT nextval({part}::regclass)"])
def test_by_its_number_a_partition_can_be_kept_and_doctor_says_by_whom(world, statement):
    with keeping_a_partition(world, statement) as pid:
        stopped = world.stopped(STRANGER)
        assert stopped.keys() == {"drops_what_is_old"}
        assert "usage_20010203 busy, to be tried again" in stopped["drops_what_is_old"]
        assert f"usage_20010203 can't be dropped while session {pid} of role stranger has it locked" in (
            stopped["drops_what_is_old"])
        end(world, pid)
        assert world.stopped(STRANGER) == {}


def test_who_waits_for_a_view_that_is_read_is_found_out(world, holder):
    """From 18 on a GRANT waits behind it."""
    holder()
    waiting = session(world.cluster, user="issuer")
    pid = waiting.session.info.backend_pid
    with ThreadPoolExecutor(1) as pool:
        attempt = pool.submit(waiting.rows, "CREATE RULE r AS ON INSERT TO keysmith.usage DO INSTEAD NOTHING")
        wait_until(lambda: world.db.value("SELECT count(*) FROM pg_locks WHERE pid = %s AND NOT granted", pid))
        stopped = world.stopped("issuer")
        if not GRANT_LOCKS:
            assert stopped == {}
        else:
            assert stopped.keys() == {"gives_and_takes_access"}
            assert stopped["gives_and_takes_access"].startswith(
                f"session {pid} of role issuer has locked keysmith.usage, or waits to lock it")
        end(world, pid)
        assert isinstance(attempt.exception(timeout=60), psycopg.OperationalError)
        assert world.stopped("issuer") == {}
    waiting.session.close()


@pytest.mark.parametrize("statement", ["GRANT USAGE ON SCHEMA keysmith TO CURRENT_USER",
                                       "GRANT EXECUTE ON FUNCTION keysmith.mint TO CURRENT_USER",
                                       "GRANT SELECT ON keysmith.usage TO CURRENT_USER"])
def test_a_grant_of_what_it_may_not_grant_is_found_out(world, statement):
    """PostgreSQL warns that nothing was granted, and still updates the object's row."""
    with holding(world, "issuer", statement) as pid:
        stopped = world.stopped("issuer")
        assert stopped.keys() == {"gives_and_takes_access"}
        assert f"session {pid} of role issuer has changed privileges" in stopped["gives_and_takes_access"]
        with pytest.raises(psycopg.errors.LockNotAvailable):
            world.db.call("revoke_access", "issuer")
        assert world.db.value("SELECT count(*) FROM keysmith_private.access WHERE role = 'issuer'::regrole") == 1
        end(world, pid)
        assert world.stopped("issuer") == {}
