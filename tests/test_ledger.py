"""What finds that a failover cost something: the ledger of `make scale` and `make failover`."""

from copy import deepcopy

import pytest

from ledger import Ledger, compare, problems


def good():
    """Books without a problem: one of two servers was killed, and a request was lost with it."""
    seen = Ledger()
    seen.servers = {1: "node1", 2: "node2"}
    seen.let_in[1] += ["a", "b"]
    seen.let_in[2] += ["c"]
    seen.minted = {"kept": "k", "revoked": "r", "unsure": "u"}
    seen.revoked, seen.in_doubt = {"revoked": 0}, {"unsure"}
    reasons = {"kept": "ok", "revoked": "revoked", "unsure": "revoked"}
    return seen, {"stored": ["a", "c"], "reported": {1: 5}, "ended_suddenly": {1},
                  "verdicts": {"node1": dict(reasons), "node2": dict(reasons)}}


def found(change):
    seen, facts = deepcopy(good())
    change(seen, facts)
    return list(problems(compare(seen, **facts)))


def test_books_that_add_up():
    assert found(lambda seen, facts: None) == []
    books = compare(*good()[:1], **good()[1])
    assert (books.sum("let_in"), books.sum("stored_once"), books.sum("missing")) == (3, 2, 1)
    # A replica that is cut off may refuse.
    assert found(lambda seen, facts: seen.refused.update({("node2", "replica_behind"): 1})) == []


@pytest.mark.parametrize("change, problem", [
    (lambda seen, facts: facts.update(reported={1: 0}), "1 requests that node1"),
    (lambda seen, facts: facts.update(reported={}), "no loss is reported for node1"),
    (lambda seen, facts: facts.update(stored=["a", "b"]), "1 requests that node2"),
    (lambda seen, facts: facts["stored"].append("c"), "stored twice"),
    (lambda seen, facts: facts.update(ended_suddenly=set()), "node1 (1), which lost nothing"),
    (lambda seen, facts: facts["reported"].update({3: 5}), "an unknown server (3), which lost nothing"),
    (lambda seen, facts: facts["verdicts"]["node2"].update(kept="not_found"), "node2 does not know"),
    (lambda seen, facts: facts["verdicts"]["node2"].update(revoked="not_found"), "node2 does not know"),
    (lambda seen, facts: facts["verdicts"]["node2"].update(revoked="ok"), "node2 accepts revoked"),
    (lambda seen, facts: facts["verdicts"]["node1"].update(kept="revoked"), "node1 refuses good"),
    (lambda seen, facts: seen.refused.update({("node2", "not_found"): 1}), "refused good keys"),
    (lambda seen, facts: seen.broken.append("a promise"), "a promise"),
])
def test_the_books_are_compared(change, problem):
    assert problem in " ".join(found(change))


@pytest.mark.parametrize("name, value", [("dropped", 1), ("totals", (2, 3)), ("audit", False)])
def test_other_figures_are_compared(name, value):
    books = compare(*good()[:1], **good()[1])
    setattr(books, name, value)
    assert list(problems(books))
