"""What a row of a request holds besides its key: credits, weights, subject and tags."""

import json

import psycopg
import pytest
from psycopg.types.json import Jsonb

from cluster import running
from conftest import session, wait_until

ROW = "SELECT spend, weights, subject, tags FROM keysmith.usage WHERE request_id = %s"
WEIGHTS = {"tokens": 300, "images": 0}
EIGHT = {f"tag{n}{'x' * 27}": "v" * 64 for n in range(8)}
GOOD_TAGS = {
    "none": {}, "one": {"model": "small"}, "the longest": EIGHT, "quotes": {"a": '"\\\n\t\u001f/'}, "of other letters": {"a": "日本é" * 21},
}
BAD_TAGS = {
    "an array": '["a"]', "a text": '"a"', "null": "null", "a number in it": '{"a": 1}', "a boolean in it": '{"a": true}',
    "null in it": '{"a": null}', "nested": '{"a": {}}', "nine": json.dumps({f"t{n}": "x" for n in range(9)}),
    "an empty text": '{"a": ""}', "an empty name": '{"": "x"}', "upper case": '{"A": "x"}', "a long name": json.dumps({"a" * 32: "x"}),
    "a long text": json.dumps({"a": "x" * 65}), "1 MB": json.dumps({"a": "x" * 2**20}),
    "too many bytes": json.dumps({f"t{n}": "日" * 64 for n in range(8)}),
    "1 MB of tags": json.dumps({f"t{n}": "x" for n in range(70_000)}),
}


def decide(db, key, tags=None, **options):
    """A request with tags, in one transaction."""
    with db.session.transaction():
        verdict = db.verify(key, **options)
        if tags is not None:
            assert db.one("log_request", tags=Jsonb(tags))[0]
    return verdict


@pytest.mark.parametrize("tags", GOOD_TAGS.values(), ids=GOOD_TAGS)
def test_tags_are_stored_as_they_were_given(db, tags):
    db.tenant()
    request = decide(db, db.mint().api_key, tags)
    db.call("flush_usage")
    assert db.row(ROW, request.request_id).tags == tags


@pytest.mark.parametrize("tags", BAD_TAGS.values(), ids=BAD_TAGS)
def test_other_tags_are_refused_and_nothing_is_changed(db, tags):
    db.tenant()
    request = decide(db, db.mint().api_key, {"model": "small"})
    with pytest.raises(psycopg.Error) as error:
        db.one("log_request", request_id=request.request_id, tags=tags)
    assert error.value.sqlstate == "KS400" and str(error.value).startswith("tags must ")
    db.call("flush_usage")
    assert db.row(ROW, request.request_id).tags == {"model": "small"}


@pytest.mark.parametrize("path", ["async", "commit"])
def test_each_column_on_both_paths(db, path):
    db.rows(f"SET keysmith.usage_durability = {path}")
    db.tenant()
    key = db.mint(credits=10).api_key
    request = decide(db, key, EIGHT, spend=4, weights=Jsonb(WEIGHTS), weight=3, subject="user-42")
    plain = decide(db, key)
    refused = decide(db, key, spend=400, weights=Jsonb(WEIGHTS))
    db.call("flush_usage")
    assert db.row(ROW, request.request_id) == (4, {"calls": 3, **WEIGHTS}, "user-42", EIGHT)
    assert db.row(ROW, plain.request_id) == (None, None, None, None)
    assert not refused.ok and db.row(ROW, refused.request_id) == (None, WEIGHTS, None, None)
    # Of the accepted requests.
    assert db.rows("SELECT unit, amount FROM keysmith.usage_units") == [("tokens", 300)]
    assert db.value("SELECT sum(spend) FROM keysmith.usage_hourly") == 4
    entry = next(entry for entry in db.one("usage_logs", "acme")[0]["data"] if entry["request_id"] == str(request.request_id))
    assert (entry["spend"], entry["weights"], entry["subject"], entry["tags"]) == (4, {"calls": 3, **WEIGHTS}, "user-42", EIGHT)


def test_spend_is_recorded_only_where_it_is_charged(db):
    db.tenant(credits=Jsonb({"balance": 10}))
    test, live = db.mint(environment="test").api_key, db.mint().api_key
    most = 2**63 - 1
    requests = [db.verify(test, spend=most), db.verify(test, spend=most), db.verify(live, spend=3), db.verify(live, spend=most)]
    db.call("flush_usage")
    assert [request.ok for request in requests] == [True, True, True, False]
    assert [db.row(ROW, request.request_id).spend for request in requests] == [None, None, 3, None]
    for view in ("usage_hourly", "usage_daily"):
        assert db.value(f"SELECT sum(spend) FROM keysmith.{view}") == 3
    assert db.value("SELECT sum(balance) FROM keysmith_private.credit") == 7


def test_sums_beyond_a_bigint_stop_at_the_greatest(db):
    most = 2**63 - 1
    db.call("create_keyspace", "k", usage_tags=["model"])
    db.tenant(keyspace="k", credits=Jsonb({"balance": 1000}))
    key = db.mint(keyspace="k").api_key

    def three():
        for n in range(3):
            decide(db, key, {"model": "small"}, keyspace="k", spend=5, weights=Jsonb({"tokens": 7}))
            with db.session.transaction():
                db.verify(key, keyspace="k", spend=5)
                db.one("log_request", endpoint="/x")
        db.call("flush_usage")

    def fold():
        return db.value("SELECT keysmith_private.usage_fold()")

    three()
    fold()
    # In the totals.
    for table, column in [("hour", "spend"), ("day", "spend"), ("endpoint_day", "spend"), ("tag", "spend"),
                          ("unit", "amount"), ("sum", "amount")]:
        assert db.rows(f"UPDATE keysmith_private.usage_{table} SET {column} = %s RETURNING 1", most - 1)
    three()
    views = {"usage_hourly": "spend", "usage_daily": "spend", "usage_endpoints": "spend", "usage_tags": "spend", "usage_units": "amount"}
    for _ in ("deltas", "folded"):
        for view, column in views.items():
            assert db.value(f"SELECT max({column}) FROM keysmith.{view}") == most
        assert db.value("SELECT max(u.spend) FROM keysmith_private.tenant t, keysmith_private.usage_totals("
                        "t.tenant_id, NULL, NULL, 'day', NULL, NULL, 30, 30) AS u WHERE t.name = 'acme'") == most
        fold()
    # In one statement, and in deltas that one fold takes.
    for _ in range(2):
        db.rows("UPDATE keysmith_private.usage_event SET spend = %s RETURNING 1", most)
        db.rows("DELETE FROM keysmith_private.usage_event RETURNING 1")
        three()
    fold()
    assert db.value("SELECT max(spend) FROM keysmith.usage_daily") <= most
    assert db.rows("SELECT FROM keysmith.metrics")
    db.call("drop_keyspace", "k", cascade=True)


def test_later_tags_replace_the_earlier_ones_before_and_after_the_row_is_stored(db):
    db.tenant()
    request = decide(db, db.mint().api_key, {"a": "x", "b": "x"})
    db.one("log_request", request_id=request.request_id, tags=Jsonb({"b": "y"}))
    db.call("flush_usage")
    assert db.row(ROW, request.request_id).tags == {"b": "y"}
    db.one("log_request", 201, request_id=request.request_id)
    db.one("log_request", request_id=request.request_id, tags=Jsonb({"c": "z"}))
    db.call("flush_usage")
    assert db.row(ROW, request.request_id).tags == {"c": "z"}


def test_a_keyspace_without_details_stores_no_subject(db):
    db.call("create_keyspace", "quiet", prefixes=Jsonb({"secret": {"live": "qu_"}}), usage_details=False)
    db.tenant(keyspace="quiet")
    request = decide(db, db.mint(keyspace="quiet").api_key, {"a": "x"}, keyspace="quiet", subject="user-42", weights=Jsonb(WEIGHTS))
    db.call("flush_usage")
    assert db.row(ROW, request.request_id) == (None, WEIGHTS, None, {"a": "x"})


def test_erasing_a_tenant_removes_subjects_and_tags(db):
    db.tenant()
    key = db.mint().api_key
    before = decide(db, key, {"a": "x"}, subject="user-42")
    db.call("flush_usage")
    db.rows("BEGIN")
    during = db.verify(key, subject="user-43")
    db.one("log_request", tags=Jsonb({"a": "y"}))
    db.rows("COMMIT")
    db.call("erase_tenant", "acme")
    db.one("log_request", request_id=before.request_id, tags=Jsonb({"a": "z"}))
    db.call("flush_usage")
    for request in (before, during):
        assert db.rows("SELECT subject, tags FROM keysmith_private.usage_event WHERE request_id = %s",
                       request.request_id) == [(None, None)]


def test_long_records_outlast_a_restart():
    """A long record takes several places of the queue, and is whole in the file that a shutdown leaves."""
    with running("columns", keysmith__usage_flush_interval="10min") as cluster:
        cluster.execute("CREATE DATABASE columns")
        db = session(cluster, "columns")
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        key = db.mint().api_key
        decide(db, key)
        db.call("flush_usage")
        weights = {f"unit{n}{'x' * 26}": n for n in range(8)}
        made = [decide(db, key, EIGHT, weights=Jsonb(weights), subject="s" * 128) for _ in range(50)]
        db.session.close()
        cluster.restart()
        db = session(cluster, "columns")
        db.verify(key)
        db.call("flush_usage")
        wait_until(lambda: db.value("SELECT count(*) FROM keysmith_private.usage_event") == 52)
        for request in made:
            assert db.row(ROW, request.request_id) == (None, weights, "s" * 128, EIGHT)
        db.session.close()
