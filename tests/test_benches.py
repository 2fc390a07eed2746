"""Benchmarks measure what their names say: checks each contender's answer, with few keys."""

import dataclasses
import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from cluster import running

BENCHES = Path(__file__).resolve().parent.parent / "benches"
sys.path.insert(0, str(BENCHES))

import capacity  # noqa: E402
import cost  # noqa: E402
import dataset  # noqa: E402
import documents  # noqa: E402
import frameworks  # noqa: E402
import growth  # noqa: E402
import pgbench  # noqa: E402
import plot  # noqa: E402
import ratios  # noqa: E402
import row_ledger  # noqa: E402
import run  # noqa: E402
import scene  # noqa: E402
import serve  # noqa: E402
import spread  # noqa: E402
import throughput  # noqa: E402

KEYS = 8000


@pytest.fixture(scope="module")
def scenery():
    keys = scene.keys_of(KEYS)
    with running("benches", **scene.SETTINGS | {"shared_buffers": "128MB", "fsync": "off"}) as cluster:
        with cluster.connect() as connection:
            scene.fill(connection, keys)
            yield cluster, connection, keys


def test_every_contender_answers_what_its_name_says(scenery):
    _, connection, keys = scenery
    contenders = throughput.contenders(keys) + list(spread.contenders(KEYS // len(scene.KINDS)).values())
    assert {contender.expected for contender in contenders} == {None, "ok", "not_found", "malformed_key"}
    for contender in contenders:
        contender.check(connection)


def test_a_contender_that_answers_something_else_is_noticed(scenery):
    _, connection, keys = scenery
    for contender in throughput.contenders(keys):
        wrong = dataclasses.replace(contender, expected="revoked")
        with pytest.raises(SystemExit, match="expected revoked"):
            wrong.check(connection)


def test_requests_to_serve_are_answered_as_their_names_say(scenery):
    _, connection, keys = scenery
    scene.define_endpoints(connection, "quiet")
    headers = dataset.headers(keys["plain"][0])
    serve.check(connection, headers)
    for contender in serve.contenders(headers):
        found = str(connection.execute(contender.statement.replace(":key", "%s"), [headers]).fetchone())
        assert "plain-0" in found, contender.name


def test_pgbench_tells_rate_latency_and_processor_time(scenery):
    cluster, connection, keys = scenery
    scene.worker_of(connection)
    verify = next(one for one in throughput.contenders(keys) if one.name == throughput.VERIFY)
    found = pgbench.run(cluster, verify, 2, 1)
    # pgbench reports no time for an answer that has arrived when it first checks.
    assert found["rate"] > 10 and 0 <= found["p50"] <= found["p95"] <= found["p99"] > 0
    # Two clients can't have spent more than the time of both, nor less than a decision takes.
    assert 1 < found["server"] < 2e6 / found["rate"] * 1.5 and found["client"] > 0


def test_loops_call_the_functions_for_each_key(scenery):
    _, connection, keys = scenery
    cost.make_variants(connection, keys["plain"])
    for name, statement in cost.loops().items():
        count, = connection.execute(statement, [2]).fetchone()
        batches = name == cost.EMPTY_BATCH
        assert (0 < count < 10) if batches else count == 2 * len(keys["plain"]), name
    # The right number of rows may still come from one call, repeated.
    connection.execute("SET track_functions = 'all'")
    before = _calls(connection)
    connection.execute(cost.loops()[cost.MANY], [3])
    assert _calls(connection) - before == 3 * (len(keys["plain"]) // cost.BATCH + 1)
    answers = dict(connection.execute(f"""
        SELECT 'known', reason FROM plain_keys, {cost.verify('plain')} GROUP BY 2
        UNION SELECT 'unknown', reason FROM plain_variants, {cost.verify('plain', 'unknown_key')} GROUP BY 2
        UNION SELECT 'malformed', reason FROM plain_variants, {cost.verify('plain', 'malformed_key')} GROUP BY 2
        """).fetchall())
    assert answers == {"known": "ok", "unknown": "not_found", "malformed": "malformed_key"}


def _calls(connection):
    connection.execute("SELECT pg_stat_force_next_flush()")
    return connection.execute("SELECT coalesce(sum(calls), 0) FROM pg_stat_user_functions"
                              " WHERE funcname = 'verify_many'").fetchone()[0]


def test_keys_that_are_numbered_are_keys(scenery):
    cluster, _, _ = scenery
    cluster.execute("CREATE DATABASE numbered")
    with cluster.connect("numbered") as connection:
        growth.fill(connection, 1500, 700)
        assert connection.execute(
            f"SELECT (v).reason, count(*) FROM (SELECT {growth.VERIFY} AS v FROM sample) AS called GROUP BY 1"
        ).fetchall() == [("ok", 700)]
        assert connection.execute("SELECT count(*), count(DISTINCT tenant_id) FROM keysmith_private.key").fetchone() \
            == (1500, 15)
        # References that were stored without checks are valid.
        connection.execute("ALTER TABLE keysmith_private.key DROP CONSTRAINT key_tenant_id_keyspace_fkey, ADD FOREIGN KEY"
                           " (tenant_id, keyspace) REFERENCES keysmith_private.tenant (tenant_id, keyspace)")


def test_memory_is_read_after_each_part(scenery):
    cluster, _, _ = scenery
    cluster.execute("CREATE DATABASE keys_1000")
    with cluster.connect("keys_1000") as connection:
        growth.fill(connection, 1000, 1000)
    series = growth._memory(cluster, 1000, growth.VERIFY)
    assert len(series) == growth.STEPS
    assert all(100_000 < found["contexts"] < found["own"] * 10 for found in series)


@pytest.mark.parametrize("found, is_flat", [([10, 10, 10], True), ([10, 10, 12], False)])
def test_growth_of_memory_is_told(found, is_flat):
    data = {"memory": {"verify": [{"contexts": size} for size in found]}}
    assert (growth.grown(data, "verify") <= 1.01) is is_flat


def test_ratios_are_taken_within_rounds():
    # A machine that is twice as slow in one round does not affect the comparison.
    assert ratios.median_ratio([90, 45, 180], [100, 50, 200]) == 0.9
    with pytest.raises(ValueError):
        ratios.median_ratio([1, 2], [1])


def test_pictures_are_drawn_and_say_what_they_show():
    pictures = [plot.bars("Title & more", "µs", [plot.Bar("a < b", 3, 1, 4), plot.Bar("none", 0, 0, 0)]),
                plot.lines("Title & more", "µs", [("a < b", [(1, 2), (8, 4)]), ("c", [(1, 2), (8, 4)])], "clients"),
                plot.lines("Title & more", "µs", [("a < b", [(10, 0)])], "keys", logarithmic=True),
                plot.panels("Title & more", "two", [plot.Panel("a < b", "s", [("c" * 50, [(0, 1), (40, 2)])]),
                                                    plot.Panel("nothing", "percentunit", [], "none")], 60)]
    for picture in pictures:
        texts = [element.text for element in ElementTree.fromstring(picture).iter() if (element.text or "").strip()]
        assert "Title & more" in texts and "a < b" in texts
        assert "nan" not in picture and "inf" not in picture


def test_what_is_kept_is_read_again(tmp_path):
    kept = run.Kept(tmp_path / "new")
    assert kept.read("cost") is None
    # JSON has no numbers as names: pages are always made from the saved file.
    assert kept.write("cost", {"measured": {1: 2}}) == {"measured": {"1": 2}} == kept.read("cost")


@pytest.mark.parametrize("path, name, made_by", [
    (documents.README, "throughput", "make bench"), (documents.PERFORMANCE, "million", "make bench"),
    (documents.PERFORMANCE, "row-ledger", "make bench-row-ledger"),
    (capacity.DOCUMENT, "capacity", "make bench-capacity")])
def test_documents_have_places_for_figures(path, name, made_by, tmp_path):
    copy = tmp_path / "copy.md"
    copy.write_text(path.read_text())
    documents.replace(copy, name, "new figures", made_by)
    assert f"<!-- {name}: made by {made_by} -->\nnew figures\n<!-- end of {name} -->" in copy.read_text()
    with pytest.raises(SystemExit, match="no place for others"):
        documents.replace(copy, "others", "new figures")


def test_capacity_of_a_day_follows_from_that_of_a_request():
    """A thousand requests, which left rows of 200 bytes with 100 of indexes, and 400 bytes of WAL."""
    def turn(left, rate):
        rows = 1000 * (left == "rows")
        return {"sessions": 30.0, "worker": 10.0, "rate": rate or 12345.6, "requests": 1000, "rows": rows,
                "table": 200 * rows, "indexes": 100 * rows, "wal": 400 * rows}

    found = {(call, left, rate): [turn(left, rate)] * 3
             for call in capacity.CALLS for left in capacity.KEYSPACES for rate in capacity.RATES}
    page = capacity.page(found | {(*capacity.PICKING, None): [turn("nothing", None)]}, 0.5, 300, "15.20", 290)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    assert ["1,000", "86 million", "25.9 GB", "34.6 GB", "4 %"] in cells
    assert ["12,000, the most here", "1,037 million", "311 GB", "415 GB", "48 %"] in cells
    assert ["100", "30 s", "10 s", "30 s", "30 s", "10 s", "30 s"] in cells


def test_a_ledger_and_its_peer_find_what_goes_past_the_triggers(scenery):
    cluster, _, _ = scenery
    cluster.execute("CREATE DATABASE row_ledger")
    with cluster.connect("row_ledger") as connection:
        headers = row_ledger.fill(connection)
        row_ledger.check(connection, headers)
        assert row_ledger.tidy(connection) is None
        measured = row_ledger.in_one_statement(connection, 20, 2)
        assert all(len(found) == 2 for found in measured.values())
        found = row_ledger.checks(connection, 100, 1)
        assert connection.execute("SELECT count(*) FROM plain").fetchone() == (100,)
        # Rows that were truncated are in neither.
        assert set(found) == {"verify_ledger", "the check of the chain", "count(*)"}
        connection.execute("UPDATE history SET content = content || '{\"note\": \"another\"}' WHERE entry = 7")
        assert connection.execute("SELECT DISTINCT entry FROM check_history()").fetchall() == [(7,)]


def test_targets_of_ledgers_say_what_was_missed():
    def shares(share):
        return {row_ledger.PLAIN: [1.0, 2.0], row_ledger.LEDGER: [share, share * 2], row_ledger.CHAIN: [3.0, 3.0]}
    text = row_ledger.targets(shares(1.05), shares(1.3), shares(0.95), {"verify_ledger": [9.5]}, 1_000_000)
    assert [line.rstrip("| ").rpartition(" ")[2] for line in text.splitlines()[2:]] == ["met", "missed", "met", "met"]


def test_contenders_are_pinned():
    packages = json.loads((BENCHES / "frameworks" / "package.json").read_text())["dependencies"]
    locked = json.loads((BENCHES / "frameworks" / "package-lock.json").read_text())["packages"]
    assert all(locked[f"node_modules/{name}"]["version"] == version for name, version in packages.items())
    assert {"djangorestframework-api-key", "better-auth", "pg"} <= set(frameworks._pinned())
