"""Servers that share their tables, and often their name: each loss is reported for the server that
had it, and for no other."""

import shutil
from contextlib import contextmanager

import psycopg
import pytest

from cluster import run, running
from conftest import session, wait_until
from test_standby import requests, start_again, stored
from test_usage_pipeline import count, status

LOSSES = ("SELECT node, lost_at_most FROM keysmith_private.usage_incarnation "
          "WHERE lost_at_most IS NOT NULL ORDER BY lost_until")


@contextmanager
def trio():
    """A primary and two standbys of one name, as under Patroni."""
    with running("primary", max_wal_senders=10, cluster_name="same", wal_log_hints="on", wal_keep_size="1GB",
                 keysmith__usage_flush_interval="100ms") as primary:
        db = session(primary)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        standbys = []
        try:
            for n in (1, 2):
                standbys.append(primary.backup(f"standby{n}", primary.port + n))
                standbys[-1].start()
            wait_until(lambda: db.one("wait_for_replay")[0] == 2)
            yield [primary, *standbys], db
        finally:
            for standby in standbys:
                standby.remove()


def node(cluster):
    with cluster.connect() as connection:
        return connection.execute("SELECT node FROM keysmith.usage_status()").fetchone()[0]


def follow(cluster, primary):
    """Has a standby stream from another primary; None for none."""
    where = f"host={primary.dir} port={primary.port} user=postgres" if primary else ""
    cluster.execute(f"ALTER SYSTEM SET primary_conninfo = '{where}'")
    cluster.execute("SELECT pg_reload_conf()")


def wait_for_receiver(cluster, number):
    """Waits until a standby receives WAL, or receives none."""
    wait_until(lambda: cluster.execute("SELECT count(*) FROM pg_stat_wal_receiver") == [(number,)])


def promote(cluster):
    cluster.execute("SELECT pg_promote(false)")
    wait_until(lambda: cluster.execute("SELECT pg_is_in_recovery()") == [(False,)])


def return_as_standby(cluster, primary):
    (cluster.data / "standby.signal").touch()
    cluster.configure(primary_conninfo=f"host={primary.dir} port={primary.port} user=postgres")
    start_again(cluster)
    wait_for_receiver(cluster, 1)


def used_once(cluster, key):
    """Has a request stored by this server, so that its memory has a row."""
    there = session(cluster)
    requests(there, key, 1)
    there.call("flush_usage", "60 seconds")
    there.session.close()


def test_a_loss_is_that_of_the_server_that_died():
    with trio() as (servers, db):
        _, first, second = servers
        assert len({node(server)[-16:] for server in servers}) == 3
        key = db.mint().api_key
        db.call("wait_for_replay")
        for server in servers:
            used_once(server, key)
        wait_until(lambda: len(stored(db)) == 3)
        # Two standbys may have one name: the identity tells them apart.
        standbys = db.rows("SELECT name, node FROM keysmith.usage_nodes WHERE is_standby")
        assert set(standbys) == {("same", node(first)), ("same", node(second))}
        first.restart()
        used_once(first, key)
        assert db.rows(LOSSES) == []
        identity = node(second)
        second.kill()
        start_again(second)
        assert node(second) == identity
        used_once(second, key)
        (loss,) = db.rows(LOSSES)
        assert loss.node == identity and loss.lost_at_most > 0
        assert f"on server same ({identity})" in loss_message(servers[0])


def loss_message(cluster):
    return next(line for line in cluster.log.read_text().splitlines() if "may have been lost" in line)


def test_a_copy_is_another_server():
    with trio() as (servers, db):
        primary, first, _ = servers
        files = [server.data / "pg_stat/keysmith_node" for server in servers]
        assert len({file.read_text() for file in files}) == 3
        first.stop()
        # As pg_rewind and pg_basebackup copy it.
        files[1].write_text(files[0].read_text())
        first.start()
        assert node(first) != node(primary)
        kept = node(first)
        first.restart()
        assert node(first) == kept


def test_a_copy_is_another_server_also_if_its_directory_has_the_same_number():
    """As on machines that were made alike."""
    with running("one", max_wal_senders=4) as primary:
        session(primary).rows("CREATE EXTENSION keysmith")
        copy = primary.backup("copy", primary.port + 1)
        try:
            file, its = (server.data / "pg_stat/keysmith_node" for server in (primary, copy))
            identity, _ = file.read_text().split()
            found = copy.data.stat()
            its.write_text(f"{identity} {found.st_dev}:{found.st_ino}\n")
            copy.start()
            assert node(copy) != node(primary) and node(primary).startswith(identity)
            kept = node(copy)
            copy.restart()
            assert node(copy) == kept
        finally:
            copy.remove()


@pytest.mark.parametrize("content", ["", "x", "00 1:1", "zz" * 16 + " 1:1"])
def test_an_identity_that_can_not_be_read_is_drawn_again(content):
    with running("one") as cluster:
        session(cluster).rows("CREATE EXTENSION keysmith")
        before = node(cluster)
        cluster.stop()
        (cluster.data / "pg_stat/keysmith_node").write_text(content)
        cluster.start()
        # The place stays.
        assert node(cluster) != before and node(cluster)[-16:] == before[-16:]


def test_standbys_record_while_there_is_no_primary():
    """Patroni empties primary_conninfo then."""
    with trio() as (servers, db):
        primary, first, second = servers
        key = db.mint().api_key
        db.call("wait_for_replay")
        before = [session(server) for server in (first, second)]
        made = [request for there in before for request in requests(there, key, 2)]
        wait_until(lambda: len(stored(db)) == 4)
        primary.stop()
        for server in (first, second):
            follow(server, None)
        there = [session(server) for server in (first, second)]
        for one in there:
            wait_until(lambda: one.value("SHOW primary_conninfo") == "")
            made += requests(one, key, 10)
            assert count(one, "not_logged") == 0 and count(one, "waiting") == 10
            assert status(one)["mode"] == "shared memory, handed to the primary"
        promote(first)
        follow(second, first)
        for one in there:
            made += requests(one, key, 1)
            one.call("flush_usage", "60 seconds")
        assert stored(there[0]) == sorted(made)
        assert count(there[0], "losses") == 0


def test_a_switchover_costs_nothing():
    with trio() as (servers, db):
        primary, first, second = servers
        key = db.mint().api_key
        db.call("wait_for_replay")
        for server in servers:
            used_once(server, key)
        expected = 3
        # There and back, and with records that come while the server is stopped.
        for old, new, other in [(primary, first, second), (first, primary, second)]:
            last = session(old)
            last.rows("BEGIN")
            requests(last, key, 1)
            old.stop()
            last.session.close()
            promote(new)
            return_as_standby(old, new)
            follow(other, new)
            for server in servers:
                used_once(server, key)
            expected += 4
            db = session(new)
            wait_until(lambda: len(stored(db)) == expected)
            assert db.rows(LOSSES) == []
            db.session.close()


@pytest.mark.parametrize("is_known", [True, False])
def test_an_idle_primary_that_is_shut_down_has_lost_nothing(is_known):
    """Its worker left before, and nothing tells in the tables that it was a shutdown. The WAL does, if it
    is still there at the first request."""
    with trio() as (servers, db):
        primary, first, _ = servers
        key = db.mint().api_key
        used_once(primary, key)
        wait_until(lambda: status(db)["worker_pid"] is None)
        db.call("wait_for_replay")
        db.session.close()
        primary.stop()
        promote(first)
        if not is_known:
            (first.data / "pg_wal/00000002.history").unlink()
        used_once(first, key)
        assert session(first).rows(LOSSES) == []


def test_each_primary_that_dies_is_reported():
    with trio() as (servers, db):
        primary, first, second = servers
        key = db.mint().api_key
        db.call("wait_for_replay")
        for server in servers:
            used_once(server, key)
        db.call("wait_for_replay")
        # The second primary started before the third, and the first was the last to be started.
        dead = []
        for old, new in [(primary, first), (first, second)]:
            dead.append(node(old))
            old.kill()
            wait_for_receiver(new, 0)
            if new is first:
                follow(second, first)
            promote(new)
            used_once(new, key)
            if new is first:
                wait_until(lambda: session(new).one("wait_for_replay")[0] == 1)
            assert [loss.node for loss in session(new).rows(LOSSES)] == dead
        # The first comes back, and says again what it has lost.
        rewind(primary, second)
        return_as_standby(primary, second)
        used_once(primary, key)
        assert [loss.node for loss in session(second).rows(LOSSES)] == dead


@pytest.mark.parametrize("dies", ["the first", "the second"])
def test_a_primary_that_recorded_nothing_hides_no_loss_and_makes_none_up(dies):
    """The second one knows nothing about how the first one ended when the third one is promoted."""
    with trio() as (servers, db):
        primary, first, second = servers
        key = db.mint().api_key
        used_once(primary, key)
        wait_until(lambda: status(db)["worker_pid"] is None)
        db.call("wait_for_replay")
        db.session.close()
        lost = node(primary)
        for old, new in [(primary, first), (first, second)]:
            is_death = (old is primary) == (dies == "the first")
            old.kill() if is_death else old.stop()
            wait_for_receiver(new, 0)
            if new is first:
                follow(second, first)
            promote(new)
            if new is first:
                with session(first).session as there:
                    wait_until(lambda: there.execute("SELECT keysmith.wait_for_replay()").fetchone() == (1,))
        used_once(second, key)
        there = session(second)
        assert [loss.node for loss in there.rows(LOSSES)] == ([lost] if dies == "the first" else [])
        there.session.close()


def test_nobody_reports_losses_of_the_primary_to_it():
    with running("one", cluster_name="one") as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        used_once(cluster, db.mint().api_key)
        own = int(db.value("SELECT incarnation FROM keysmith_private.usage_incarnation"))
        collect = "SELECT FROM keysmith.usage_collect(%s, %s, 0, false, 0, '', 0, '', '')"
        with pytest.raises(psycopg.Error, match="standby must not be the primary itself") as error:
            db.rows(collect, f"{node(cluster)} one", own + 1)
        assert error.value.sqlstate == "KS400"
        for incarnation in (own - 2, own - 1):
            db.rows(collect, f"{node(cluster)} one", incarnation)
        assert db.rows(LOSSES) == []
        db.session.close()


def rewind(cluster, source):
    """Its processes may run a moment longer if it was killed."""
    # Before PostgreSQL 16, pg_rewind knows of a promotion only after a checkpoint.
    source.execute("CHECKPOINT")
    wait_until(lambda: "Done!" in run("pg_rewind", "-D", cluster.data, f"--source-server={source.dsn()}",
                                      as_server=True, check=False).stdout)
    cluster.configure(port=cluster.port, unix_socket_directories=str(cluster.dir))
    # The source's: its primary_conninfo is another one.
    (cluster.data / "postgresql.auto.conf").write_text("")


def test_a_server_with_a_new_identity_reports_what_it_lost_before():
    """The number of a device may change while the machine is down."""
    with trio() as (servers, db):
        _, first, _ = servers
        key = db.mint().api_key
        db.call("wait_for_replay")
        used_once(first, key)
        lost = node(first)
        first.kill()
        (first.data / "pg_stat/keysmith_node").unlink()
        start_again(first)
        assert node(first) != lost
        used_once(first, key)
        assert [loss.node for loss in db.rows(LOSSES)] == [lost]


@pytest.mark.parametrize("how", ["rewound", "copied"])
def test_a_standby_that_lost_its_memory_with_its_files_is_reported(how):
    """pg_rewind deletes the files that say what it had, and a new copy has none."""
    with trio() as (servers, db):
        primary, first, second = servers
        key = db.mint().api_key
        db.call("wait_for_replay")
        for server in servers:
            used_once(server, key)
        # It has WAL that the next primary has not, and records that nobody has.
        follow(first, None)
        wait_for_receiver(first, 0)
        db.mint()
        # At its shutdown the standby then writes its pages, so that it can't follow another primary.
        db.rows("CHECKPOINT")
        wait_until(lambda: db.one("wait_for_replay")[0] == 1)
        lost = node(second)
        db.session.close()
        primary.kill()
        promote(first)
        used_once(first, key)
        there = session(second)
        requests(there, key, 20)
        there.session.close()
        second.stop()
        if how == "rewound":
            rewind(second, first)
        else:
            copy = first.backup("copy", second.port)
            shutil.rmtree(second.data)
            copy.data.rename(second.data)
            second.configure(unix_socket_directories=str(second.dir))
            copy.remove()
        return_as_standby(second, first)
        used_once(second, key)
        assert node(second) != lost
        assert sorted(loss.node for loss in session(first).rows(LOSSES)) == sorted([lost, node_of(first, primary)])


def node_of(cluster, dead):
    """The identity of a server that does not run."""
    file = dead.data / "pg_stat/keysmith_node"
    drawn = file.read_text().split()[0]
    return session(cluster).value("SELECT DISTINCT node FROM keysmith_private.usage_incarnation WHERE node LIKE %s",
                                  f"{drawn}%")
