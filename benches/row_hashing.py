"""The cost of digests and seals: statements on tables that differ only in their triggers.
Every contender runs once in each round, in a different order each time. The processor time of the
backend is counted, so that other load on the machine affects all of them alike.
"""

import argparse
import os
import random
import statistics
from pathlib import Path

from dataset import clusters

SETUP = """
    CREATE EXTENSION keysmith;
    CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
    CREATE TABLE plain (id bigint, email text, note text);
    CREATE TABLE trivial (LIKE plain); CREATE TABLE one (LIKE plain); CREATE TABLE two (LIKE plain);
    CREATE TABLE sealed (LIKE plain);
    CREATE TRIGGER nothing BEFORE INSERT OR UPDATE ON trivial FOR EACH ROW EXECUTE FUNCTION nothing();
    SELECT keysmith.protect('one', 'email'), keysmith.protect('two', 'email=hmac'),
           keysmith.seal_rows('sealed');
"""

CONTENDERS = {
    "no trigger": "plain",
    "a PL/pgSQL trigger that does nothing": "trivial",
    "protect, sha256": "one",
    "protect, hmac": "two",
    "seal_rows": "sealed",
}


def processor_time(pid):
    """Processor seconds of a process, in the kernel or not."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def insert_one_by_one(session, table, rows):
    session.execute(f"DO $$ BEGIN FOR n IN 1 .. {rows} LOOP "
                    f"INSERT INTO {table} VALUES (n, 'user' || n || '@example.org', 'note'); END LOOP; END $$")


def copy(session, table, rows):
    with session.cursor() as cursor, cursor.copy(f"COPY {table} (id, email, note) FROM STDIN") as copying:
        copying.write("".join(f"{n}\tuser{n}@example.org\tnote\n" for n in range(rows)))


def update(session, table, rows):
    session.execute(f"UPDATE {table} SET note = 'other' WHERE id < {rows}")


WORK = {"INSERT, a row a statement": insert_one_by_one, "COPY": copy, "UPDATE of another column": update}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    spent = {(work, name): [] for work in WORK for name in CONTENDERS}
    cluster = clusters.Cluster("rows")
    try:
        pepper = cluster.dir / "peppers"
        pepper.write_text(f"1:{'11' * 32}\n")
        pepper.chmod(0o600)
        if clusters._SERVER_USER:
            os.chown(pepper, clusters._SERVER_USER.pw_uid, clusters._SERVER_USER.pw_gid)
        cluster.init(keysmith__pepper_file=pepper, autovacuum="off").start()
        cluster.psql(SETUP)
        with cluster.connect() as session:
            pid = session.execute("SELECT pg_backend_pid()").fetchone()[0]
            for _ in range(options.rounds):
                for name, table in random.sample(list(CONTENDERS.items()), len(CONTENDERS)):
                    for work, run in WORK.items():
                        # Updates change the copied rows.
                        if run is not update:
                            session.execute(f"TRUNCATE {table}")
                        before = processor_time(pid)
                        run(session, table, options.rows)
                        spent[work, name].append(processor_time(pid) - before)
    finally:
        cluster.remove()
    for work in WORK:
        print(f"\n{work}, {options.rows} rows: microseconds of processor time a row, and beside no trigger")
        base = statistics.mean(spent[work, "no trigger"])
        for name in CONTENDERS:
            mean = statistics.mean(spent[work, name])
            print(f"  {name:38s} {1e6 * mean / options.rows:6.2f}  {mean / base:5.2f}")


if __name__ == "__main__":
    main()
