"""Totals by the tags that a keyspace declares. That they are those of the rows, whatever is done to
these, is in test_usage_sql.py."""

from collections import Counter

import pytest
from psycopg.types.json import Jsonb

from test_usage_columns import decide
from test_usage_sql import assert_totals

TOTALS = "SELECT tag, value, requests, spend FROM keysmith.usage_tags ORDER BY 1, 2"


@pytest.fixture
def tagged(db):
    db.call("alter_keyspace", "default", Jsonb({"usage_tags": ["model", "team"]}))
    db.tenant()
    db.key = db.mint(credits=100).api_key
    return db


def totals(db):
    """The totals. They are the same before and after they are added up, and those of the rows."""
    db.call("flush_usage")
    before = db.rows(TOTALS)
    assert_totals(db)
    db.rows("SELECT keysmith_private.usage_fold()")
    assert db.rows(TOTALS) == before
    assert_totals(db)
    return before


def totals_of_values(db):
    """The same where values are counted together. Each has one row in an environment."""
    each = "SELECT tag, value, requests, spend FROM keysmith.usage_tags ORDER BY environment, 1, 2"
    db.call("flush_usage")
    before = db.rows(each)
    db.rows("SELECT keysmith_private.usage_fold()")
    assert db.rows(each) == before
    return before


@pytest.mark.parametrize("path", ["async", "commit"])
def test_requests_are_counted_by_the_declared_tags(tagged, path):
    db = tagged
    db.rows(f"SET keysmith.usage_durability = {path}")
    decide(db, db.key, {"model": "small", "team": "a,b", "trace": "x"}, spend=3)
    decide(db, db.key, {"model": "small"}, spend=1000)
    decide(db, db.key, {"trace": "y"})
    decide(db, db.key, {})
    decide(db, db.key)
    assert totals(db) == [("model", "small", 2, 3), ("team", "a,b", 1, 3)]


@pytest.mark.parametrize("is_stored", [False, True])
def test_later_tags_replace_the_earlier_ones(tagged, is_stored):
    db = tagged
    first = decide(db, db.key, {"model": "small", "team": "a"}, spend=1)
    second = decide(db, db.key, spend=2)
    third = decide(db, db.key, {"model": "small"})
    if is_stored:
        db.call("flush_usage")
    for request, tags in ((first, {"model": "large"}), (second, {"team": "é"}), (third, {"trace": "x"})):
        assert db.one("log_request", request_id=request.request_id, tags=Jsonb(tags))[0]
    assert db.one("log_request", 201, request_id=second.request_id)[0]
    assert totals(db) == [("model", "large", 1, 1), ("team", "é", 1, 2)]


def test_a_declaration_counts_from_then_on(tagged):
    """A request is counted by the tags that were declared when its own were stored."""
    db = tagged
    old = decide(db, db.key, {"model": "small", "trace": "x"})
    db.call("flush_usage")
    db.call("alter_keyspace", "default", Jsonb({"usage_tags": ["trace"]}))
    assert totals(db) == [("model", "small", 1, 0)]
    decide(db, db.key, {"model": "small", "trace": "y"})
    assert totals(db) == [("model", "small", 1, 0), ("trace", "y", 1, 0)]
    # The old request was counted by its model, and never by its trace.
    db.rows("UPDATE keysmith_private.usage_event SET tags = NULL WHERE request_id = %s", old.request_id)
    assert totals(db) == [("trace", "y", 1, 0)]
    db.call("alter_keyspace", "default", Jsonb({"usage_tags": []}))
    last = decide(db, db.key, {"model": "small", "trace": "z"})
    assert totals(db) == [("trace", "y", 1, 0)]
    db.call("alter_keyspace", "default", Jsonb({"usage_tags": ["trace"]}))
    assert db.one("log_request", request_id=last.request_id, tags=Jsonb({"trace": "w"}))[0]
    assert totals(db) == [("trace", "w", 1, 0), ("trace", "y", 1, 0)]
    db.rows("DELETE FROM keysmith_private.usage_event")
    assert totals(db) == []


def test_each_keyspace_declares_its_own(tagged):
    db = tagged
    db.call("create_keyspace", "other", usage_tags=["trace"])
    db.tenant(keyspace="other")
    other = db.mint(keyspace="other").api_key
    for _ in range(2):
        decide(db, db.key, {"model": "small", "trace": "x"})
        decide(db, other, {"model": "small", "trace": "x"}, keyspace="other")
    assert totals(db) == [("model", "small", 2, 0), ("trace", "x", 2, 0)]
    assert db.rows("SELECT DISTINCT keyspace, tag FROM keysmith.usage_tags ORDER BY 1") == [("default", "model"), ("other", "trace")]


def test_further_values_are_counted_together(tagged):
    db = tagged
    requests = {}
    with db.session.transaction():
        for n in range(600):
            requests[n] = db.verify(db.key, spend=0).request_id
            db.one("log_request", tags=Jsonb({"model": f"m{n}", "team": "a"}))
    for n in range(3):
        decide(db, db.key, {"model": "frequent"})
    db.call("flush_usage")
    db.rows("SELECT keysmith_private.usage_fold()")

    def counted():
        sums = Counter()
        for tag, value, requests, _ in totals_of_values(db):
            sums[value] += requests if tag == "model" else 0
        return +sums

    before = counted()
    assert (len(before), before["(other)"], before["frequent"]) == (501, 101, 3)
    # The others stay in (other), whatever is done to the requests.
    late = next(n for n in requests if f"m{n}" not in before)
    db.one("log_request", request_id=requests[late], tags=Jsonb({"model": "frequent", "team": "a"}))
    decide(db, db.key, {"model": "new"})
    # In another environment, too.
    decide(db, db.mint(environment="test").api_key, {"model": "newer"})
    assert counted() == before | {"(other)": 102, "frequent": 4}
    db.rows("DELETE FROM keysmith_private.usage_event WHERE tags ->> 'model' <> 'frequent'")
    assert counted() == {"frequent": 4}


def test_a_value_that_reads_like_further_ones_is_counted_with_them(tagged):
    """It does not keep other values from being counted by name."""
    db = tagged
    for value in ("(other)", "small"):
        decide(db, db.key, {"model": value})
        assert ("model", value, 1, 0) in totals(db)
    with db.session.transaction():
        for n in range(600):
            db.verify(db.key)
            db.one("log_request", tags=Jsonb({"model": f"m{n}"}))
    db.call("flush_usage")
    db.rows("SELECT keysmith_private.usage_fold()")
    assert [row for row in totals_of_values(db) if row.value == "(other)"] == [("model", "(other)", 103, 0)]


def test_persons_are_not_counted(tagged):
    db = tagged
    with db.session.transaction():
        request = db.one("act_as", "acme")[0]
        db.one("log_request", tags=Jsonb({"model": "small"}))
    db.call("flush_usage")
    assert db.value("SELECT tags FROM keysmith.usage WHERE key_id IS NULL") == {"model": "small"}
    assert db.rows(TOTALS) == []


def test_erasing_a_tenant_deletes_its_totals(tagged):
    db = tagged
    db.tenant("globex")
    others = db.mint("globex").api_key
    request = decide(db, db.key, {"model": "ann"})
    decide(db, others, {"model": "small"})
    db.call("flush_usage")
    db.rows("SELECT keysmith_private.usage_fold()")
    # A day without rows.
    db.rows("INSERT INTO keysmith_private.usage_tag SELECT tenant_id, period - interval '1000 days', tag, environment, value, 1, 0 "
            "FROM keysmith_private.usage_tag")
    decide(db, db.key, {"model": "ann"})
    db.call("flush_usage")
    db.rows("BEGIN")
    decided = db.verify(db.key)
    db.one("log_request", tags=Jsonb({"model": "ann"}))
    db.rows("COMMIT")
    db.call("erase_tenant", "acme")
    db.one("log_request", request_id=request.request_id, tags=Jsonb({"model": "ann"}))
    db.one("log_request", request_id=decided.request_id, tags=Jsonb({"model": "ann"}))
    db.call("flush_usage")
    db.rows("SELECT keysmith_private.usage_fold()")
    assert db.rows("SELECT DISTINCT tenant, value, requests FROM keysmith.usage_tags") == [("globex", "small", 1)]
    assert db.rows("SELECT counted_tags, tags FROM keysmith_private.usage_event e JOIN keysmith_private.tenant t USING (tenant_id) "
                   "WHERE t.name <> 'globex' AND (counted_tags IS NOT NULL OR tags IS NOT NULL)") == []


def test_a_changed_table_of_deltas_stops_the_fast_path_only(tagged):
    db = tagged
    db.rows("""CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
               CREATE TRIGGER nothing BEFORE INSERT ON keysmith_private.usage_tag_delta FOR EACH ROW EXECUTE FUNCTION nothing()""")
    decide(db, db.key, {"model": "small"})
    assert totals(db) == [("model", "small", 1, 0)]


def test_requests_without_rows_are_counted(tagged):
    """Their totals by tag have them as they were when they were stored."""
    db = tagged
    db.call("alter_keyspace", "default", Jsonb({"usage_log": "totals"}))
    requests = [decide(db, db.key, {"model": "small", "trace": "x"}, spend=2) for _ in range(20)]
    db.call("flush_usage")
    assert db.value("SELECT count(*) FROM keysmith_private.usage_event") < 20
    expected = [("model", "small", 20, 40)]
    assert db.rows(TOTALS) == expected
    db.call("alter_keyspace", "default", Jsonb({"usage_tags": None}))
    db.one("log_request", 201, request_id=requests[-1].request_id)
    db.call("flush_usage")
    assert db.rows(TOTALS) == expected
    db.rows("SELECT keysmith_private.usage_fold()")
    assert db.rows(TOTALS) == expected
