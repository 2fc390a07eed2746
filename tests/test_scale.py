"""`make scale`, for a few seconds: every key, revocation and request is accounted for."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benches"))

import scale  # noqa: E402


def test_a_failover_under_load_leaves_nothing_unaccounted_for():
    # A fast machine would fill the buffers while no primary takes standbys' records.
    books = scale.drive(seconds=4, clients=1, say=lambda line: None, pause=0.0002)
    assert list(scale.problems(books)) == []
    assert books.keys == 100
    # All servers did answer, before and after.
    assert all(life.let_in > 0 for life in books.lives.values())
    assert books.minted > 0 and books.revoked > 0 and books.checks > 0
