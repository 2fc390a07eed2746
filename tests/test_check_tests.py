"""The check of tests in `make lint`: what it reports, and what it accepts."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts/check_tests.py"
_spec = importlib.util.spec_from_file_location("check_tests", SCRIPT)
checker = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(checker)

FAULTS = {
    "rows that are asked for their truth": [
        'assert all(db.rows("SELECT ok FROM keysmith.audit_verify()"))',
        'assert any(db.call("audit_verify"))',
        'assert all(row for row in db.call("audit_verify"))',
        'assert not all(session(cluster).rows("SELECT ok"))',
        'rows = db.rows("SELECT ok")\nassert all(rows)',
        'assert all((row.ok, row.problem) for row in rows)',
    ],
    "a row that is": [
        'assert db.row("SELECT false")',
        'assert done and db.one("verify", key)',
        'row = db.row("SELECT false")\nassert row',
        'assert cursor.execute("SELECT count(*) FROM x").fetchone()',
        'assert db.rows("SELECT ok FROM x")[0]',
        'assert db.row("SELECT a FROM x") is not None',
        'wait_until(lambda: db.row("SELECT a FROM x"))',
    ],
    "what always has a row": [
        'assert db.rows("SELECT count(*) FROM x WHERE false")',
        'assert db.rows(f"  select  bool_and(ok) FROM {x}")',
        'assert db.call("current_key")',
        'wait_until(lambda: db.rows("SELECT count(*) FROM x"))',
    ],
    "what is true by its form": [
        'assert (x == 1, "x is 1")', 'assert [x]', 'assert {"a": x}', 'assert "text"', 'assert True',
        'assert (n > 1 for n in x)', 'assert map(bool, x)', 'assert lambda: x', 'assert x or "text"',
    ],
    "a comparison that is": [
        'assert x == x', 'assert a.b <= a.b', 'assert len(x) >= 0',
    ],
    "any error": [
        'with pytest.raises(psycopg.Error):\n    x()',
        'with pytest.raises((ValueError, Exception)):\n    x()',
        'with pytest.raises(psycopg.Error) as error:\n    x()',
    ],
    "a bound for a quick machine": [
        'start = time.monotonic()\nassert time.monotonic() - start < 3',
        'start = time.monotonic()\nx()\ntaken = time.monotonic() - start\nassert 0.5 > taken',
        'wait_until(x, 5)', 'wait_until(x, seconds=5)', 'assert waiting.result(10) == 1',
        'waiting.result(timeout=5)', 'for _ in range(50): time.sleep(0.1)', 'time.sleep(1)', 'with x:\n    time.sleep(1)',
    ],
    "a clock that can be set": ['start = time.time()'],
}

SOUND = [
    'assert all(row.ok for row in db.call("audit_verify"))',
    'assert all(ok for ok, in db.rows("SELECT ok FROM x"))',
    'assert db.rows("SELECT ok FROM x")',
    'assert db.rows("SELECT a, count(*) FROM x GROUP BY a")',
    'assert db.rows("SELECT count(*) FROM x") == [(0,)]',
    'assert db.row("SELECT a FROM x").a',
    'assert db.value("SELECT count(*) FROM x")',
    'row = db.row("SELECT a")\nrow = None\nassert row',
    'assert cursor.execute("SELECT a FROM x").fetchone()',
    'assert x, "a message"', 'assert x == (1, 2)', 'assert []', 'assert f(x) == f(x)',
    'assert len(x) >= 1', 'assert db.call("list_keys", "acme")',
    'with pytest.raises(psycopg.Error, match="x"):\n    x()',
    'with pytest.raises(psycopg.errors.DivisionByZero):\n    x()',
    'with pytest.raises(psycopg.Error) as error:\n    x()\nassert error.value.sqlstate == "KS400"',
    'assert time.monotonic() < end', 'wait_until(x)', 'wait_until(x, 60)', 'waiting.result(60)',
    'start = time.monotonic()\nassert time.monotonic() - start >= 3',
    'while x():\n    time.sleep(0.1)', 'for _ in range(400):\n    time.sleep(0.1)', 'for _ in x:\n    time.sleep(0.1)',
    'time.sleep(1)  # not checked: a head start',
]


@pytest.mark.parametrize("source", [source for sources in FAULTS.values() for source in sources])
@pytest.mark.parametrize("form", ["{}", "def test():\n{}", "class A:\n def f(self):\n{}"])
def test_it_finds(source, form):
    indented = "\n".join("  " + line for line in source.splitlines()) if form != "{}" else source
    found = checker.check(form.format(indented))
    lines = form.format(indented).splitlines()
    assert len(found) == 1 and found[0][1]
    fault = "raises" if "raises" in source else lines[-1].strip()
    assert fault in lines[found[0][0] - 1]


@pytest.mark.parametrize("source", SOUND)
def test_it_leaves_alone(source):
    assert checker.check(source) == []


def test_an_excuse_has_a_reason():
    assert len(checker.check("time.sleep(1)  # not checked:")) == 1


def test_names_are_those_of_a_function():
    assert checker.check('def a():\n    row = db.row("x")\n    assert row.a\ndef b(row):\n    assert row') == []
