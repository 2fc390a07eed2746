"""The documents are correct: their SQL is run, its output compared, their links followed, and
their lists compared with the code."""

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

import threats

ROOT = Path(__file__).resolve().parent.parent
NOT_OURS = {"target", "node_modules", "__pycache__"}


def documents():
    found = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in NOT_OURS and name[0] != "."]
        found += [Path(folder) / name for name in files if name.endswith(".md")]
    return sorted(path.relative_to(ROOT) for path in found)


DOCUMENTS = documents()


# Reading Markdown

@dataclass
class Fence:
    """A fenced block: its info string, its position, and its text."""
    info: str
    indent: int
    line: int
    end: int = 0
    text: str = ""


def fences(document):
    found, opened = [], None
    for number, line in enumerate(document.splitlines(), 1):
        mark = line.strip()
        if opened is None and mark.startswith("```"):
            opened = Fence(mark[3:].strip(), line.index("`"), number)
        elif opened is not None and mark == "```":
            opened.end = number
            found.append(opened)
            opened = None
        elif opened is not None:
            inner = line[:opened.indent].lstrip() + line[opened.indent:]
            opened.text += inner + "\n"
    assert opened is None, f"line {opened.line}: a fence that is not closed"
    return found


def prose(document):
    """The document's lines with fenced blocks made empty."""
    lines = document.splitlines()
    for fence in fences(document):
        lines[fence.line - 1:fence.end] = [""] * (fence.end - fence.line + 1)
    return lines


def headings(document):
    """The headings' texts, in order, without marks of code and links."""
    found = []
    for line in prose(document):
        if match := re.match(r"#{1,6} +(.*?)(?: +#+)? *$", line):
            text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", match[1])
            found.append(text.replace("`", "").replace("*", ""))
    return found


def anchors(document):
    """The anchors of the headings, as GitHub names them."""
    names, seen = set(), {}
    for heading in headings(document):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        count = seen.get(name, 0)
        seen[name] = count + 1
        names.add(f"{name}-{count}" if count else name)
    return names


def section(document, heading):
    """The text below a heading, up to the next heading of its level or above."""
    for match in re.finditer(r"^(#+) +(.*)$", document, re.M):
        if match[2].replace("`", "") == heading:
            rest = document[match.end():]
            end = re.search(rf"^#{{1,{len(match[1])}}} ", rest, re.M)
            return rest[:end.start()] if end else rest
    raise AssertionError(f"there is no heading {heading!r}")


# Running SQL

def examples(document):
    """Each sql block, with the text block that directly follows it, if one does."""
    found = fences(document)
    lines = document.splitlines()
    for fence, after in zip(found, [*found[1:], None]):
        if fence.info != "sql":
            continue
        follows = (after is not None and after.info == "text"
                   and not "".join(lines[fence.end:after.line - 1]).strip())
        yield fence, (after if follows else None)


# Texts that differ from run to run: a pattern, and its replacement. Keys keep their length, so
# that the columns of tables stay aligned.
PREFIX = r"\b((?:[a-z0-9]+_)+"
VARIABLE = [
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "UUID"),
    (re.compile(r"\bkeysmith_[0-9a-f]{32}\b"), "keysmith_CHANNEL"),
    (re.compile(PREFIX + r")[0-9A-Za-z]{49}\b"), r"\1" + 49 * "#"),
    (re.compile(PREFIX + r"(?:live|test)_)[0-9A-Za-z]{5}\b"), r"\1#####"),
    (re.compile(PREFIX + r"\.\.\.)[0-9A-Za-z]{4}\b"), r"\1####"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?(\+\d\d(:\d\d)?)? *"), "TIMESTAMP "),
    (re.compile(r"\bprocess with PID \d+"), "process with PID N"),
]


def normal(output):
    for pattern, stand_in in VARIABLE:
        output = pattern.sub(stand_in, output)
    return [line.rstrip() for line in output.strip("\n").splitlines()]


MARK = "=== block {} of the document ==="


def run_blocks(cluster, dbname, blocks):
    """Runs blocks in one psql session and returns the output of each."""
    script = "".join(f"\\echo '{MARK.format(n)}'\n{block.text}" for n, block in enumerate(blocks))
    printed = cluster.program("psql", "-X", "-v", "ON_ERROR_STOP=0", dbname=dbname, input=script,
                              check=False).stdout
    pieces = re.split("^" + MARK.format(r"(\d+)") + "\n", printed, flags=re.M)
    assert pieces[1::2] == [str(n) for n in range(len(blocks))], printed
    return pieces[2::2]


def complaints(cluster, document):
    """Runs a document's SQL and returns the differences from its text."""
    runnable = list(examples(document))
    blocks = [block for block, _ in runnable]
    runs_from_scratch = any("CREATE EXTENSION keysmith" in block.text for block in blocks)
    template = "template1" if runs_from_scratch else "with_keysmith"
    roles = {name for name, in cluster.execute("SELECT rolname FROM pg_roles")}
    cluster.execute(f"CREATE DATABASE documented TEMPLATE {template}")
    try:
        outputs = run_blocks(cluster, "documented", blocks)
    finally:
        cluster.execute("DROP DATABASE documented WITH (FORCE)")
        for name, in cluster.execute("SELECT rolname FROM pg_roles"):
            if name not in roles:
                cluster.execute(f'DROP ROLE "{name}"')
    found = []
    for (block, expected), printed in zip(runnable, outputs):
        where = f"line {block.line}: "
        last = block.text.strip().splitlines()[-1]
        if not (last.endswith(";") or "\\" in last):
            found.append(where + "the last statement has no end")
        if expected is None:
            if "ERROR:" in printed:
                found.append(where + printed)
        elif normal(printed) != normal(expected.text):
            difference = difflib.unified_diff(normal(expected.text), normal(printed),
                                              "documented", "printed", lineterm="")
            found.append(where + "the output is another\n" + "\n".join(difference))
    return found


def with_sql():
    return [path for path in DOCUMENTS if list(examples((ROOT / path).read_text()))]


@pytest.mark.parametrize("path", with_sql(), ids=str)
def test_the_sql_of_documents_does_what_they_say(cluster, path):
    found = complaints(cluster, (ROOT / path).read_text())
    assert not found, "\n\n".join(f"{path}, {complaint}" for complaint in found)


def test_the_documents_that_show_most_are_among_them():
    assert {Path("README.md"), Path("docs/reference.md")} <= set(with_sql())


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_no_sql_escapes_the_test(path):
    for fence in fences((ROOT / path).read_text()):
        looks_like_sql = re.match(r"(?i)\W*(p?sql|plpgsql|pgsql|postgres)", fence.info)
        assert not looks_like_sql or fence.info == "sql", f"{path}, line {fence.line}: {fence.info}"


@pytest.mark.parametrize("document, complaint", [
    ("```sql\nSELECT 1 AS one;\n```\n```text\n one\n-----\n   1\n(1 row)\n```", None),
    ("```sql\nSELECT 1 AS one;\n```\n```text\n one\n-----\n   2\n(1 row)\n```", "another"),
    ("```sql\nSELECT 1 AS one;\n```\n```text\n```", "another"),
    ("```sql\nSELECT 1 / 0;\n```", "division by zero"),
    ("```sql\nSELECT 1 / 0;\n```\n```text\nERROR:  division by zero\n```", None),
    ("```sql\nSELECT 1 / 0;\n```\n\nNot this:\n\n```text\nERROR:  division by zero\n```", "zero"),
    ("```sql\nSELECT 1\n```\n```sql\n;\n```", "no end"),
    ("```sql\nSELECT keysmith.create_tenant('a') AS id \\gset\n```\n"
     "```sql\nSELECT length(:'id');\n```\n```text\n length\n--------\n     36\n(1 row)\n```", None),
])
def test_this_test_notices(cluster, document, complaint):
    found = complaints(cluster, document)
    assert (found == []) if complaint is None else (complaint in "".join(found))


def test_what_differs_from_run_to_run_is_not_compared():
    one = """ 00000000-0000-0000-0000-000000000000 | ks_live_{} | ks_test_abcde | a_live_...wxyz
    keysmith_{} "2026-01-02T03:04:05.6+00:00" 2026-01-02 03:04:05.678901+00 | process with PID 1
    """.format(49 * "a", 32 * "0")
    two = """ 12345678-9abc-def0-1234-56789abcdef0 | ks_live_{} | ks_test_01234 | a_live_...0000
    keysmith_{} "2027-10-20T03:04:05.6789+00:00" 2026-01-02 03:04:05.67+00    | process with PID 23
    """.format(49 * "Z", 32 * "f")
    assert normal(one) == normal(two)
    for same in ("ks_live_" + 48 * "a", "images_write", "kp_live_typo", "2030-01-31", "in 10 s"):
        assert normal(same) == [same]


# Links

LINK = re.compile(r"\[[^]]*\]\(\s*<?([^)\s>]+)[^)]*\)|^\[[^]]+\]:\s*(\S+)", re.M)


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_links_lead_somewhere(path):
    text = "\n".join(prose((ROOT / path).read_text()))
    text = re.sub(r"`[^`\n]*`", lambda code: "`" * len(code[0]), text)
    for match in LINK.finditer(text):
        link = match[1] or match[2]
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / path.parent / name).resolve() if name else ROOT / path
        where = f"{path}, line {text.count(chr(10), 0, match.start()) + 1}: {link}"
        assert target.is_relative_to(ROOT) and target.exists(), where
        if anchor:
            assert anchor in anchors(target.read_text()), where


def test_the_index_answers_what_a_newcomer_asks():
    """Each question once, and each with a link; the test above follows the links."""
    index = section((ROOT / "README.md").read_text(), "How do I …")
    rows = [row for row in re.findall(r"^\| (.+?) \| (.+) \|$", index, re.M) if row[0] != "I want to …"]
    questions = [question for question, _ in rows]
    assert len(questions) >= 20 and len(set(questions)) == len(questions)
    for question, answer in rows:
        assert LINK.search(answer), question


# Lists

REFERENCE = ROOT / "docs/reference.md"


@pytest.fixture(scope="module")
def functions(cluster):
    """Our functions: names, arguments and results."""
    return cluster.execute("""
        SELECT proname, pg_get_function_arguments(oid), pg_get_function_result(oid)
        FROM pg_proc
        WHERE pronamespace = 'keysmith'::regnamespace AND prorettype <> 'trigger'::regtype
        ORDER BY proname, oid""", dbname="with_keysmith")


def test_every_function_has_a_heading(functions):
    missing = {name for name, _, _ in functions} - set(headings(REFERENCE.read_text()))
    assert not missing


def test_every_entry_of_the_reference_is_something_of_ours(cluster, functions):
    """Removed objects must not stay there."""
    others = cluster.execute("""
        SELECT relname FROM pg_class WHERE relnamespace = 'keysmith'::regnamespace
            OR relnamespace = 'keysmith_private'::regnamespace AND relkind = 'c'
        UNION SELECT name FROM pg_settings WHERE name LIKE 'keysmith.%'""", dbname="with_keysmith")
    known = {name for name, _, _ in functions} | {name for name, in others} | {"Reasons"}
    entries = re.findall(r"^### +`?([^`\n]+)`?$", REFERENCE.read_text(), re.M)
    assert len(entries) > 20 and set(entries) <= known


def test_the_schema_has_only_what_people_call(cluster, functions):
    """Functions of our own code are in the other schema. Trigger functions have smaller headings."""
    document = REFERENCE.read_text()
    triggers = {name for name, in cluster.execute("""
        SELECT proname FROM pg_proc
        WHERE pronamespace = 'keysmith'::regnamespace AND prorettype = 'trigger'::regtype""", dbname="with_keysmith")}
    entries = {name for name in re.findall(r"^### (\w+)$", document, re.M)
               if f"\nkeysmith.{name}(" in section(document, name)}
    assert {name for name, _, _ in functions} == entries
    assert triggers == set(re.findall(r"^#### (\w+)$", document, re.M))


def test_signatures_are_those_of_the_functions(functions):
    document = REFERENCE.read_text()
    for name, arguments, result in functions:
        # A procedure has no result.
        declared = f"keysmith.{name}({arguments})" + (f" RETURNS {result}" if result else "")
        assert signature(declared) in [signature(fence.text) for fence in
                                       fences(section(document, name))], declared


# The worker of a standby calls it: its entry needs no example.
INTERNAL = {"usage_collect"}


def entry(document, name):
    """The text below a heading, without that of the headings below it."""
    return re.split(r"^#", section(document, name), maxsplit=1, flags=re.M)[0]


def incomplete(text, use):
    """The missing parts of an entry: an example that shows the use and its output, and errors."""
    shown = any(re.search(use, block.text) for block, output in examples(text) if output)
    return [*([] if shown else ["an example with its output"]),
            *([] if "**Errors:**" in text else ["its errors"])]


def test_every_function_has_an_example_and_its_errors(functions):
    document = REFERENCE.read_text()
    names = {name for name, _, _ in functions}
    assert INTERNAL <= names
    lacking = {name: incomplete(entry(document, name), rf"\bkeysmith\.{name}\(")
               for name in names - INTERNAL}
    assert not {name: missing for name, missing in lacking.items() if missing}


def test_every_view_has_an_example(cluster):
    document = REFERENCE.read_text()
    views = cluster.execute("""SELECT viewname FROM pg_views
        WHERE schemaname = 'keysmith'""", dbname="with_keysmith")
    lacking = {view for view, in views if "an example with its output" in
               incomplete(entry(document, view), rf"\bkeysmith\.{view}\b(?!\()")}
    assert len(views) > 10 and not lacking


@pytest.mark.parametrize("text, missing", [
    ("```sql\nSELECT keysmith.f();\n```\n```text\n f\n```\n**Errors:** none.", []),
    ("```sql\nSELECT keysmith.f();\n```\n**Errors:** none.", ["an example with its output"]),
    ("```sql\nSELECT keysmith.ff(), f();\n```\n```text\n f\n```\n**Errors:** none.",
     ["an example with its output"]),
    ("```sql\nSELECT keysmith.f();\n```\n```text\n f\n```\n", ["its errors"]),
])
def test_what_an_entry_lacks_is_noticed(text, missing):
    assert incomplete(text, r"\bkeysmith\.f\(") == missing


def signature(text):
    """A declaration without insignificant differences."""
    text = re.sub(r"::[a-z ]+(\[\])?", "", text).replace("timestamp with time zone", "timestamptz")
    return re.sub(r"\s*([(),])\s*", r"\1", " ".join(text.split())).lower()


@pytest.mark.parametrize("name", [
    "verdict", "explanation", "minted", "keys", "routes", "audit", "usage", "usage_hourly",
    "usage_daily", "usage_units", "usage_tags", "usage_endpoints", "top_keys", "top_refusals", "touches", "tenants", "members", "scopes", "roles",
    "expiring_soon", "stale_keys", "recent_refusals", "overprivileged_keys", "hashing_progress",
    "isolation", "metrics", "alarms", "usage_nodes", "ledgers"])
def test_every_column_is_described(cluster, name):
    columns = cluster.execute(f"""
        SELECT attname FROM pg_attribute
        WHERE attrelid = coalesce(to_regclass('keysmith.{name}'), to_regclass('keysmith_private.{name}'))
          AND attnum > 0 AND NOT attisdropped
        ORDER BY attnum""", dbname="with_keysmith")
    described = first_cells(section(REFERENCE.read_text(), name))
    assert [column for column, in columns] == [cell for cell in described if (cell,) in columns]


def test_every_view_has_a_heading(cluster):
    views = cluster.execute("SELECT viewname FROM pg_views WHERE schemaname = 'keysmith'",
                            dbname="with_keysmith")
    assert {view for view, in views} <= set(headings(REFERENCE.read_text()))


@pytest.mark.parametrize("level", ["verifier", "host", "issuer", "auditor"])
def test_what_a_level_comes_with_is_in_the_table(cluster, level):
    """The trigger functions are named below the table."""
    rows = re.findall(rf"^\| `{level}` \| (.*?) \| (.*?) \|", section(REFERENCE.read_text(), "Access"), re.M)
    (calls, reads), = [[set(re.findall(r"`(\w+)`", cell)) for cell in row] for row in rows]
    with cluster.connect("with_keysmith", autocommit=False) as connection:
        connection.execute(f"CREATE ROLE of_{level}")
        connection.execute("SELECT keysmith.grant_access(%s, %s)", [f"of_{level}", level])
        granted = lambda query: {name for name, in connection.execute(query, {"role": f"of_{level}"})}
        functions = granted("""SELECT proname FROM pg_proc, aclexplode(proacl) AS a
            WHERE pronamespace = 'keysmith'::regnamespace AND a.grantee = %(role)s::regrole""")
        views = granted("""SELECT relname FROM pg_class, aclexplode(relacl) AS a
            WHERE relnamespace = 'keysmith'::regnamespace AND a.grantee = %(role)s::regrole""")
        connection.rollback()
    triggers = set(re.findall(r"^#### (\w+)", REFERENCE.read_text(), re.M))
    assert functions - triggers == calls
    # Groups of views have one name, which links to them.
    assert reads <= views and reads


def test_the_threats_to_a_ledger_are_those_of_the_tests():
    assert threats.markdown() in section((ROOT / "docs/row-ledger.md").read_text(), "Threats")


def first_cells(text):
    """The names in the first column of tables, each in code marks."""
    return [name for row in re.findall(r"^\| *((?:`[^`]+`(?:, )?)+) *\|", text, re.M)
            for name in re.findall(r"`([^`]+)`", row)]


def test_every_reason_and_code_is_in_the_table():
    source = (ROOT / "core/src/policy/verdict.rs").read_text()
    table = section(REFERENCE.read_text(), "Reasons")
    reasons = re.findall(r'Reason::\w+ => "([a-z_]+)"', source)
    answers = dict(re.findall(r'Answer::(\w+) => "([a-z_]+)"', source))
    assert len(reasons) > 10 and len(answers) > 4
    assert first_cells(table) == reasons
    # Those of errors are on their page, with their statuses.
    errors = dict(re.findall(r"^\| *`([a-z_]+)` *\| *(\d{3}) *\|", section((ROOT / "docs/errors.md").read_text(), "Over HTTP"),
                             re.M))
    assert set(re.findall(r"\| *\d{3} *\| *`([a-z_]+)`", table)) | set(errors) == set(answers.values())
    statuses = source.partition("fn status")[2].partition("fn code")[0]
    for name, code in answers.items():
        if code in errors:
            assert re.search(rf"\bAnswer::{name}\b[^=]*=> {errors[code]}\b", statuses), code


def test_every_setting_has_a_heading(cluster):
    settings = cluster.execute("SELECT name FROM pg_settings WHERE name LIKE 'keysmith.%'",
                               dbname="with_keysmith")
    assert settings and {name for name, in settings} <= set(headings(REFERENCE.read_text()))


def test_the_table_of_errors_is_that_of_the_code():
    ours = re.findall(r'b"([0-9A-Z]{5})"', (ROOT / "pg/src/error.rs").read_text())
    listed = re.findall(r"^\| *`([0-9A-Z]{5})`", section((ROOT / "docs/errors.md").read_text(),
                                                         "Our errors"), re.M)
    assert ours and sorted(ours) == sorted(listed)
