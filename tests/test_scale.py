"""`make scale`, for a few seconds: every key, revocation and request is accounted for."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benches"))

import scale  # noqa: E402


def test_a_failover_under_load_leaves_nothing_unaccounted_for():
    # A fast machine would fill the buffers while no primary takes standbys' records.
    books = scale.drive(seconds=4, clients=1, say=lambda line: None, pause=0.0002)
    assert list(scale.problems(books)) == []
    assert books["keys"] == 100
    # All servers did answer, before and after.
    assert all(server["let_in"] > 0 for server in books["servers"].values())
    assert books["minted"] > 0 and books["revoked"] > 0 and books["checks"] > 0


def test_the_books_are_compared():
    server = {"let_in": 2, "refused": {}, "stored_once": 2, "stored_twice": 0, "missing": 0,
              "per_second": 1, "accepted": 1, "revived": 0, "unknown": 0}
    good = {"servers": {"primary": server, "standby1": server, "standby2": server},
            "heir": "standby1", "stored_twice": 0, "dropped": 0, "lost_at_most": 0,
            "minted": 2, "revoked": 1, "in_doubt": 0, "let_in_too_late": 0, "checks": 2,
            "totals": (6, 6), "audit": True}
    assert not list(scale.problems(good))
    for name, value in [("stored_twice", 1), ("dropped", 1), ("let_in_too_late", 1),
                        ("totals", (6, 7)), ("audit", False), ("minted", 3)]:
        assert list(scale.problems(good | {name: value})), name
    for name, value in [("missing", 1), ("revived", 1), ("unknown", 1), ("refused", {"revoked": 1})]:
        servers = good["servers"] | {"standby2": server | {name: value}}
        assert list(scale.problems(good | {"servers": servers})), name
    servers = good["servers"] | {"primary": server | {"missing": 1}}
    assert list(scale.problems(good | {"servers": servers}))
