"""A ledger of mixed requests is exact: what clients were told is what is counted, charged and announced."""

import os

import pytest

import usage_ledger
from cluster import running
from conftest import session


def differences(expected, found):
    if expected == found:
        return None
    if isinstance(expected, dict):
        return {key: (expected.get(key), found.get(key)) for key in expected.keys() | found.keys()
                if expected.get(key) != found.get(key)}
    return expected, found


@pytest.mark.parametrize("durability", ["async", "commit"])
def test_all_that_counts_requests_agrees_with_the_clients(durability):
    count = int(os.environ.get("LEDGER", 20_000 if durability == "async" else 2_000))
    with running("ledger", keysmith__usage_durability=durability, keysmith__usage_flush_interval="100ms",
                 max_connections=50) as cluster:
        cluster.execute("CREATE DATABASE ledger")
        session(cluster, "ledger").rows("CREATE EXTENSION keysmith")
        compared = list(usage_ledger.play(lambda: session(cluster, "ledger"), count))
        print(usage_ledger.table(compared))
        wrong = {what: differences(expected, found) for what, expected, found in compared if expected != found}
        assert wrong == {}
