"""Ledgers in dumps, and in copies of a database."""

import pytest

from conftest import session
from ledgers import CHANGED, assert_right, behind_its_back, cluster, kept_head, problems  # noqa: F401
from test_restore import IN_PARALLEL, RESTORES
from test_row_ledger_heads import MISSING, table  # noqa: F401


@pytest.mark.parametrize("name", RESTORES)
@pytest.mark.parametrize("template", ["template0", "with_keysmith"])
def test_a_dump_has_the_ledger(cluster, dbname, table, tmp_path, name, template):  # noqa: F811
    options, how = RESTORES[name]
    heads = [kept_head(table)]
    table.rows("INSERT INTO t VALUES (11, 'x'); UPDATE t SET v = 'y' WHERE id = 1")
    table.session.execute("CREATE TABLE u (id int, k int, PRIMARY KEY (k, id)) PARTITION BY LIST (k); "
                          "CREATE TABLE u1 PARTITION OF u DEFAULT; "
                          "SELECT keysmith.ledger('u', '{}'); INSERT INTO u VALUES (1, 1)")
    heads += [kept_head(table), kept_head(table, "u")]
    table.session.execute("DELETE FROM u; INSERT INTO u VALUES (2, 2)")
    cluster.program("pg_dump", *options, "-f", tmp_path / "dump", dbname=dbname)
    restored = f"{dbname}_restored"
    cluster.execute(f"CREATE DATABASE {restored} TEMPLATE {template}")
    try:
        if how is None:
            cluster.psql((tmp_path / "dump").read_text(), dbname=restored)
        else:
            where = f"dbname={restored} {IN_PARALLEL}" if "-j" in how else restored
            cluster.program("pg_restore", *how, tmp_path / "dump", dbname=where)
        there = session(cluster, restored)
        for name in ("t", "u"):
            assert problems(there, name, heads) == []
        # Nothing is open, and the head is that of the original.
        assert kept_head(there) == heads[1]
        # An open difference of the original counts.
        assert kept_head(there, "u")["rows"] == 1
        there.session.execute("UPDATE t SET v = 'z'; DELETE FROM t WHERE id = 2; UPDATE u SET k = 9; INSERT INTO u VALUES (3, 3)")
        assert_right(there, "t", "u")
        heads.append(kept_head(there))
        for name in ("t", "u"):
            assert problems(there, name, heads) == []
        assert there.findings() == table.findings()
        behind_its_back(there, "UPDATE t SET v = 'forged' WHERE id = 1")
        assert problems(there, heads=heads) == [CHANGED]
        there.session.close()
    finally:
        cluster.execute(f"DROP DATABASE {restored} WITH (FORCE)")
    # The original goes on, and does not know the copy's block.
    assert_right(table, "t", "u")
    assert problems(table, heads=heads[-1]) == [MISSING.format(3)]


def test_a_database_that_is_a_copy_of_another(cluster, dbname, table):  # noqa: F811
    """Its open differences count, and it goes on by itself."""
    table.rows("INSERT INTO t VALUES (11)")
    heads = [kept_head(table)]
    table.rows("UPDATE t SET v = 'open'")
    table.session.close()
    copied = f"{dbname}_copied"
    cluster.execute(f"CREATE DATABASE {copied} TEMPLATE {dbname}")
    try:
        there = session(cluster, copied)
        assert problems(there, heads=heads) == []
        there.rows("DELETE FROM t WHERE id < 3")
        assert problems(there, heads=heads) == []
        heads.append(kept_head(there))
        assert_right(there)
        assert problems(there, heads=heads) == []
        behind_its_back(there, "UPDATE t SET v = 'forged' WHERE id = 5")
        assert problems(there, heads=heads) == [CHANGED]
        there.session.close()
    finally:
        cluster.execute(f"DROP DATABASE {copied} WITH (FORCE)")


@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("change", ["ALTER TABLE t RENAME TO u; CREATE SCHEMA s; ALTER TABLE u SET SCHEMA s",
                                    "CREATE SCHEMA s; ALTER TABLE t SET SCHEMA s; ALTER TABLE s.t RENAME TO u; "
                                    "CREATE TABLE t (id int)",
                                    "CREATE SCHEMA s; ALTER SCHEMA public RENAME TO old; ALTER TABLE old.t SET SCHEMA s; "
                                    "ALTER TABLE s.t RENAME TO u"])
def test_a_table_that_is_renamed_in_a_copy(cluster, dbname, table, change, writes):  # noqa: F811
    """The copy knows it by another number of the database, whether it wrote before or not."""
    head = kept_head(table)
    table.session.close()
    copied = f"{dbname}_copied"
    cluster.execute(f"CREATE DATABASE {copied} TEMPLATE {dbname}")
    try:
        there = session(cluster, copied)
        if writes:
            there.rows("UPDATE t SET v = 'x'")
            kept_head(there)
        there.session.execute(change)
        there.rows("INSERT INTO s.u VALUES (12)")
        assert problems(there, "s.u", head) == []
        assert_right(there, "s.u")
        there.call("maintain")
        there.call("ledger", "s.u")
        assert problems(there, "s.u", head) == []
        assert there.rows("SELECT relation::text FROM keysmith.ledgers") == [("s.u",)]
        there.session.close()
    finally:
        cluster.execute(f"DROP DATABASE {copied} WITH (FORCE)")


def test_a_dump_while_others_write(cluster, dbname, table, connect, database):  # noqa: F811
    """It has the table and its ledger as of one moment, with a transaction in progress."""
    writer = database(connect())
    writer.session.execute("BEGIN; INSERT INTO t VALUES (50, 'late')")
    table.rows("INSERT INTO t VALUES (11)")
    text = cluster.program("pg_dump", dbname=dbname).stdout
    writer.session.execute("COMMIT")
    restored = f"{dbname}_restored"
    cluster.execute(f"CREATE DATABASE {restored}")
    try:
        cluster.psql(text, dbname=restored)
        there = session(cluster, restored)
        assert_right(there)
        there.session.close()
    finally:
        cluster.execute(f"DROP DATABASE {restored} WITH (FORCE)")
    assert_right(table)


def test_a_dump_without_the_table(cluster, dbname, table):  # noqa: F811
    """The ledgers of other tables are restored."""
    table.session.execute("CREATE TABLE u (id int PRIMARY KEY); SELECT keysmith.ledger('u'); INSERT INTO u VALUES (1)")
    head = kept_head(table, "u")
    text = cluster.program("pg_dump", "--exclude-table=t", dbname=dbname).stdout
    restored = f"{dbname}_restored"
    cluster.execute(f"CREATE DATABASE {restored}")
    try:
        cluster.psql(text, dbname=restored)
        there = session(cluster, restored)
        assert problems(there, "u", head) == []
        assert [row.relation for row in there.rows("SELECT relation::text FROM keysmith.ledgers")] == ["u"]
        there.call("maintain")
        # A new table with the name of the missing one can have its own ledger.
        there.session.execute("CREATE TABLE t (id int PRIMARY KEY, v text); SELECT keysmith.ledger('t'); INSERT INTO t VALUES (1)")
        assert_right(there, "t", "u")
        there.session.execute("SELECT keysmith.unledger('t'), keysmith.ledger('t')")
        assert_right(there, "t")
        there.session.close()
    finally:
        cluster.execute(f"DROP DATABASE {restored} WITH (FORCE)")


def test_a_dump_of_the_table_alone(cluster, dbname, table):  # noqa: F811
    """Its ledger is not in the dump, so a new one begins there."""
    text = cluster.program("pg_dump", "-t", "t", dbname=dbname).stdout
    restored = f"{dbname}_restored"
    cluster.execute(f"CREATE DATABASE {restored} TEMPLATE with_keysmith")
    try:
        cluster.psql(text, dbname=restored)
        there = session(cluster, restored)
        assert "ledger" in there.refused("KS409", "verify_ledger", "t")
        there.call("ledger", "t")
        there.rows("INSERT INTO t VALUES (11)")
        assert_right(there)
        there.session.close()
    finally:
        cluster.execute(f"DROP DATABASE {restored} WITH (FORCE)")
