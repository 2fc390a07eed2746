"""The heads of ledgers in a git repository, by the script of examples/heads."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

import cluster as clusters
from ledgers import BLOCK, STORED, behind_its_back, fewer, problems

SCRIPT = Path(__file__).resolve().parent.parent / "examples/heads/keep-heads"
AUTHOR = {f"GIT_{who}_{what}": f"{who.lower()}@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


class Repository:
    """A repository in which the script keeps heads, run by a shell."""

    def __init__(self, folder, shell, cluster, dbname):
        self.folder, self.shell = folder, shell
        self.said = ""
        plain = clusters.environment()
        self.environment = plain | AUTHOR | {
            "PATH": f"{cluster.bin}:{plain['PATH']}", "HOME": str(folder.parent), "GIT_CONFIG_NOSYSTEM": "1",
            "PGHOST": str(cluster.dir), "PGPORT": str(cluster.port), "PGDATABASE": dbname, "PGUSER": "postgres"}
        self.git("init", "-q")

    def run(self, *command, check=True, **environment):
        return subprocess.run(command, cwd=self.folder, env=self.environment | environment, check=check,
                              capture_output=True, text=True)

    def git(self, *arguments):
        return self.run("git", *arguments).stdout

    def keep(self, status=0, **environment):
        """Runs the script, and returns the problems that it reports."""
        done = self.run(self.shell, SCRIPT, self.folder, check=False, **environment)
        assert done.returncode == status, done
        assert list(self.folder.glob(".git/keep-heads*")) == []
        self.said = done.stdout + done.stderr
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    def lines(self):
        """The committed lines, by table."""
        lines = map(json.loads, self.git("show", "HEAD:heads.jsonl").splitlines())
        return {line["relation"]: line for line in lines}

    def commits(self):
        return int(self.git("rev-list", "--count", "HEAD"))

    def edit(self, change):
        file = self.folder / "heads.jsonl"
        file.write_text(change(file.read_text()))
        self.git("commit", "-q", "-a", "-m", "An act of our own")

    def remove_line(self, table):
        self.edit(lambda text: "".join(line for line in text.splitlines(True) if table not in line))


@pytest.fixture(params=[shell for shell in ("sh", "bash", "dash") if shutil.which(shell)])
def repository(request, tmp_path, cluster, dbname):
    folder = tmp_path / "the heads"
    folder.mkdir()
    return Repository(folder, request.param, cluster, dbname)


@pytest.fixture
def tables(db):
    for name in ("accounts", "orders"):
        db.rows(f"CREATE TABLE {name} (id int PRIMARY KEY, note text)")
        db.call("ledger", name)
    db.rows("INSERT INTO accounts VALUES (1, 'ann'), (2, 'bob')")
    return db


def test_heads_are_kept_when_they_change(tables, repository):
    assert repository.keep() == []
    assert repository.said == ""
    first = repository.lines()
    assert set(first) == {"public.accounts", "public.orders"}
    assert first["public.accounts"]["rows"] == 2
    assert repository.keep() == []
    assert repository.commits() == 1
    tables.rows("INSERT INTO orders VALUES (1, 'x')")
    assert repository.keep() == []
    second = repository.lines()
    assert repository.commits() == 2
    assert second["public.accounts"] == first["public.accounts"]
    assert second["public.orders"]["position"] > first["public.orders"]["position"]
    assert repository.git("status", "--porcelain") == ""


def test_what_a_check_finds_is_reported_until_it_is_fixed(tables, repository):
    repository.keep()
    kept = repository.lines()
    behind_its_back(tables, "DELETE FROM accounts WHERE id = 2")
    tables.rows("INSERT INTO accounts VALUES (3, 'cid'); INSERT INTO orders VALUES (1, 'x')")
    for _ in range(2):
        (problem,) = repository.keep(2)
        assert (problem["relation"], problem["problem"]) == ("public.accounts", fewer(1))
        assert repository.lines()["public.accounts"] == kept["public.accounts"]
    assert repository.lines()["public.orders"]["rows"] == 1
    behind_its_back(tables, "INSERT INTO accounts VALUES (2, 'bob')")
    assert repository.keep() == []
    assert repository.lines()["public.accounts"]["rows"] == 3


def test_a_state_from_before_a_kept_head_is_reported(tables, repository):
    """The table and all of its ledger, put back together."""
    tables.call("ledger_head", "accounts")
    older = {table: table.replace("keysmith_private.", "older_") for table in STORED}
    for table, copy in older.items():
        tables.rows(f"CREATE TABLE {copy} AS TABLE {table}")
    tables.rows("INSERT INTO accounts VALUES (3, 'cid')")
    repository.keep()
    kept = repository.lines()["public.accounts"]
    behind_its_back(tables, "DELETE FROM accounts WHERE id = 3")
    for table, copy in older.items():
        tables.rows(f"DELETE FROM {table}")
        tables.rows(f"INSERT INTO {table} TABLE {copy}")
    assert problems(tables, "accounts") == []
    (problem,) = repository.keep(2)
    assert (problem["relation"], problem["position"]) == ("public.accounts", kept["position"])
    assert repository.lines()["public.accounts"] == kept


def test_a_ledger_that_cannot_go_on_is_checked_all_the_same(tables, repository):
    repository.keep()
    kept = repository.lines()
    tables.rows(f"UPDATE {BLOCK} SET block = set_byte(block, 30, get_byte(block, 30) # 1)")
    tables.rows("INSERT INTO accounts VALUES (3, 'cid')")
    found = repository.keep(2)
    assert {problem["relation"] for problem in found} == {"public.accounts", "public.orders"}
    assert {problem["problem"] for problem in found} & {"block 1 was altered", "block 2 was altered"}
    assert repository.lines() == kept


@pytest.mark.parametrize("statement", [
    "SELECT keysmith.unledger('orders')", "ALTER TABLE orders RENAME TO others",
    "SELECT keysmith.unledger('orders'); DROP TABLE orders"])
def test_a_ledger_that_is_gone_is_reported_until_its_line_is(tables, repository, statement):
    repository.keep()
    kept = repository.lines()
    tables.rows(statement)
    (line,) = repository.keep(2)
    assert line == kept["public.orders"]
    repository.remove_line("public.orders")
    assert repository.keep() == []


def test_a_table_that_was_renamed_goes_on_with_its_head(tables, repository):
    repository.keep()
    tables.rows("ALTER TABLE orders RENAME TO others")
    repository.edit(lambda text: text.replace("public.orders", "public.others"))
    assert repository.keep() == []
    assert set(repository.lines()) == {"public.accounts", "public.others"}


def test_a_new_ledger_is_kept_when_its_old_line_is_removed(tables, repository):
    repository.keep()
    kept = repository.lines()["public.orders"]
    tables.rows("SELECT keysmith.unledger('orders')")
    tables.rows("SELECT keysmith.ledger('orders')")
    (problem,) = repository.keep(2)
    assert (problem["relation"], problem["position"]) == ("public.orders", 1)
    repository.remove_line("public.orders")
    assert repository.keep() == []
    assert repository.lines()["public.orders"]["head"] != kept["head"]


def test_committed_heads_count_even_if_a_run_was_interrupted(tables, repository):
    repository.keep()
    kept = repository.lines()
    (repository.folder / "heads.jsonl").write_text("")
    repository.git("add", "heads.jsonl")
    assert repository.keep() == []
    assert repository.lines() == kept
    assert repository.commits() == 1


def test_any_name_of_a_table_is_kept(db, repository):
    names = ["../../escape", "two\nlines", "quo'te", 'quo"te', "$(touch x)", "a:b :kept", "back\\slash", "ü"]
    for name in names:
        quoted = name.replace('"', '""')
        db.rows(f'CREATE TABLE "{quoted}" (id int PRIMARY KEY)')
        db.rows("SELECT keysmith.ledger(oid) FROM pg_class WHERE relname = %s", name)
    assert repository.keep() == []
    lines = repository.lines()
    assert len(lines) == len(names)
    behind_its_back(db, 'INSERT INTO "two\nlines" VALUES (1)')
    (problem,) = repository.keep(2)
    assert "two\nlines" in problem["relation"]
    assert repository.lines() == lines
    assert {path.name for path in repository.folder.iterdir()} == {".git", "heads.jsonl"}


def test_heads_are_pushed(tables, repository, tmp_path):
    origin = tmp_path / "origin.git"
    repository.git("init", "-q", "--bare", str(origin))
    repository.git("remote", "add", "origin", str(origin))
    repository.keep()
    head = repository.git("rev-parse", "HEAD")
    assert head in repository.git("ls-remote", str(origin)).replace("\t", "\n")
    shutil.rmtree(origin)
    repository.keep(1)
    assert "not pushed" in repository.said
    behind_its_back(tables, "INSERT INTO orders VALUES (1, 'x')")
    assert len(repository.keep(2)) == 1


def test_a_role_needs_no_right_on_partitions(tables, repository):
    tables.rows("CREATE ROLE keeps_heads LOGIN")
    try:
        tables.rows("CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id); "
                    "CREATE TABLE part PARTITION OF parted DEFAULT")
        tables.call("ledger", "parted")
        tables.call("grant_access", "keeps_heads", "verifier")
        tables.rows("GRANT SELECT ON parted TO keeps_heads")
        assert repository.keep(PGUSER="keeps_heads") == []
        assert set(repository.lines()) == {"public.parted"}
    finally:
        tables.rows("DROP OWNED BY keeps_heads CASCADE")
        tables.rows("DROP ROLE keeps_heads")


def test_a_role_keeps_the_heads_of_the_tables_that_it_may_read(tables, repository):
    tables.rows("CREATE ROLE keeps_heads LOGIN")
    try:
        tables.call("grant_access", "keeps_heads", "verifier")
        tables.rows("GRANT SELECT ON accounts TO keeps_heads")
        assert repository.keep(PGUSER="keeps_heads") == []
        assert set(repository.lines()) == {"public.accounts"}
        tables.rows("ALTER TABLE accounts ENABLE ROW LEVEL SECURITY")
        (line,) = repository.keep(2, PGUSER="keeps_heads")
        assert "none that this role may check" in repository.said
        assert repository.lines() == {"public.accounts": line}
    finally:
        tables.rows("DROP OWNED BY keeps_heads CASCADE")
        tables.rows("DROP ROLE keeps_heads")


@pytest.mark.parametrize("database", ["nowhere", "postgres"])
def test_without_ledgers_to_ask_nothing_is_kept(tables, repository, database):
    repository.keep()
    kept = repository.lines()
    repository.keep(1, PGDATABASE=database)
    assert "the ledgers can't be listed" in repository.said
    assert repository.lines() == kept


def test_a_folder_that_is_not_a_repository_is_refused(tables, repository):
    shutil.rmtree(repository.folder / ".git")
    repository.keep(1, GIT_CEILING_DIRECTORIES=str(repository.folder.parent))
    assert "is not a git repository" in repository.said
    assert list(repository.folder.iterdir()) == []
