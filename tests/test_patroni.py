"""keysmith under Patroni, by the files of examples/patroni: `make failover`, with two of its faults."""

import pytest

import failover
import patroni_cluster
from ledger import problems


@pytest.fixture(scope="module")
def patroni():
    if missing := patroni_cluster.missing():
        pytest.skip(f"these are not there: {', '.join(missing)}; run scripts/setup.sh patroni")
    with patroni_cluster.running() as running:
        yield running


@pytest.fixture(scope="module")
def keys(patroni):
    return failover.prepare(patroni)


@pytest.mark.parametrize("fault", [failover.switchover, failover.kill_machine])
def test_nothing_is_lost_that_was_promised(patroni, keys, fault):
    books = failover.play(patroni, fault, keys, seconds=2)
    assert list(problems(books)) == []
    assert {life.server for life in books.lives.values() if life.let_in} == {"node1", "node2", "node3"}
    assert books.minted and books.revoked and books.checks
    if fault is failover.kill_machine:
        assert books.without_leader and books.sum("reported")


def test_agents_take_orders_only_with_the_password(patroni):
    """Settings of PostgreSQL are among them, and so commands that the server runs."""
    for node in patroni.nodes:
        order = {"postgresql": {"parameters": {"archive_command": "true"}}}
        assert node.request("/config", order, "PATCH", password="another") == "not authenticated"
        assert "archive_command" not in node.request("/config")["postgresql"]["parameters"]
