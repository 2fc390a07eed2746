"""Stolen tables, dumps and digests, and their use to a thief. test_storage.py has more."""

import hashlib
import os

import psycopg
import pytest

import cluster as clusters
from cluster import Cluster, running
from conftest import Database, session

ONE, TWO = f"1:{'11' * 32}\n", f"2:{'22' * 32}\n"
DOMAIN = b"keysmith.key.v1\0"


@pytest.fixture
def peppered():
    """A server with a pepper, which can be given others."""
    cluster = Cluster("stolen")

    def pepper(text):
        file = cluster.dir / "peppers"
        file.write_text(text)
        file.chmod(0o600)
        if clusters._SERVER_USER:
            os.chown(file, clusters._SERVER_USER.pw_uid, clusters._SERVER_USER.pw_gid)
        cluster.restart()
        return session(cluster)

    cluster.init(keysmith__pepper_file=cluster.dir / "peppers")
    cluster.pepper = pepper
    try:
        yield cluster
    finally:
        cluster.remove()


def stolen(db):
    return [digest for digest, in db.rows("SELECT digest FROM keysmith_private.key ORDER BY created_at")]


def answers(db, keys, digests):
    """The reasons that a thief gets for keys, their digests, and the stored values."""
    return {db.reason(key.api_key) for key in keys} \
        | {db.one("verify_digest", hashlib.sha256(key.api_key.encode()).digest()).reason for key in keys} \
        | {db.one("verify_digest", digest).reason for digest in digests}


def test_a_stolen_dump_authenticates_nobody_where_the_pepper_is_not(peppered):
    db = peppered.pepper(ONE)
    db.rows("CREATE EXTENSION keysmith")
    db.tenant()
    keys = [db.mint() for _ in range(3)]
    keys.append(db.one("rotate", keys[0].key_id))
    assert db.verify(keys[1].api_key).ok
    text = peppered.program("pg_dump").stdout
    with running("thief") as thief:
        thief.execute("CREATE DATABASE loot")
        thief.psql(text, dbname="loot")
        theirs = session(thief, "loot")
        assert theirs.value("SELECT count(*) FROM keysmith_private.key") == 4
        assert answers(theirs, keys, stolen(theirs)) == {"not_found"}
        # Nor after they add the line for no pepper.
        theirs.rows("UPDATE keysmith_private.key SET generation = 0")
        assert answers(theirs, keys, stolen(theirs)) == {"not_found"}
    # Nor with another pepper of that number.
    guessed = peppered.pepper(f"1:{'12' * 32}\n")
    assert answers(guessed, keys, stolen(guessed)) == {"not_found"}
    assert peppered.pepper(ONE).verify(keys[1].api_key).ok


def test_the_tables_owner_makes_no_key_without_the_pepper(peppered):
    """They know the algorithm and can write, but have no pepper."""
    db = peppered.pepper(ONE)
    db.rows("CREATE EXTENSION keysmith")
    db.tenant()
    honest = db.mint()
    chosen = honest.api_key[:8] + "0" * (len(honest.api_key) - 8)
    inner = hashlib.sha256(chosen.encode()).digest()
    guesses = [hashlib.sha256(DOMAIN + inner).digest(), inner, hashlib.sha256(inner).digest()]
    for generation in (0, 1, 2, 32767):
        for guess in guesses:
            db.rows("""INSERT INTO keysmith_private.key (tenant_id, generation, digest, keyspace, environment,
                           kind, created_by)
                       SELECT tenant_id, %s, %s, keyspace, 'live', 'secret', 'thief' FROM keysmith_private.tenant
                       ON CONFLICT (digest, keyspace) DO UPDATE SET generation = excluded.generation""",
                    generation, guess)
        db.rows("UPDATE keysmith_private.keyspace SET has_imports = true, generation = 0")
        assert db.reason(chosen) == db.one("verify_digest", inner).reason == "not_found"
    # A digest that was moved to another row still belongs to the key that it was made from.
    assert db.verify(honest.api_key).ok


def test_what_a_pepper_seals_or_digests_opens_no_key(peppered):
    """Many roles can have rows sealed and values digested. A verifier who can also write to the
    table of keys stores such a result as a key, and presents its input."""
    db = peppered.pepper(ONE)
    db.rows("CREATE EXTENSION keysmith")
    db.tenant()
    db.mint()
    db.rows("""CREATE ROLE thief LOGIN; GRANT pg_write_all_data TO thief;
               SELECT keysmith.grant_access('thief', 'verifier')""")
    tenant = db.value("SELECT tenant_id FROM keysmith_private.tenant")
    with peppered.connect(user="thief", row_factory=psycopg.rows.namedtuple_row) as thief:
        thief = Database(thief)
        thief.rows("""CREATE TEMP TABLE oracle (seal bytea);
            CREATE TRIGGER oracle BEFORE INSERT ON oracle
                FOR EACH ROW EXECUTE FUNCTION keysmith.seal_row('seal', 'AAAAAAAA');
            INSERT INTO oracle VALUES (NULL)""")
        # A seal covers at least 32 bytes: as many as a key's SHA-256 has.
        seal = thief.value("SELECT seal FROM oracle")
        sealed = b"keysmith.row.v1\0" + bytes([0, 0, 0, 0, 0, 0, 0, 8]) + b"AAAAAAAA"
        assert (seal[:3], len(seal), len(sealed)) == (b"\1\0\1", 35, 32)
        value = hashlib.sha256(b"value").digest()
        digest = bytes.fromhex(thief.value("SELECT keysmith.digest('value', 'hmac')").removeprefix("ks-hmac-1:"))
        for stored, handed_in in ((seal[3:], sealed), (digest, value)):
            thief.rows("""INSERT INTO keysmith_private.key
                              (tenant_id, generation, digest, keyspace, environment, kind, created_by)
                          VALUES (%s, 1, %s, 'default', 'live', 'secret', 'thief')""", tenant, stored)
            assert thief.one("verify_digest", handed_in).reason == "not_found"


def test_without_a_pepper_a_stolen_table_opens_nothing_by_digest(db):
    """verify_digest does not accept the stored value."""
    db.tenant()
    keys = [db.mint() for _ in range(3)]
    for key, digest in zip(keys, stolen(db)):
        taken = hashlib.sha256(key.api_key.encode()).digest()
        assert digest == hashlib.sha256(DOMAIN + taken).digest() and digest != taken
        assert db.one("verify_digest", taken).ok
        assert db.one("verify_digest", digest).reason == "not_found"
        assert db.reason(digest.hex()) == "malformed_key"
    # Nor does importing the stored value give anything but a key that nobody has.
    db.one("import_key", "acme", stolen(db)[0])
    assert [db.verify(key.api_key).key_id for key in keys] == [key.key_id for key in keys]


def peppers(db):
    return tuple(db.row("SELECT newest_pepper, keys_with_older_pepper FROM keysmith.status()"))


def test_status_counts_keys_by_pepper(peppered):
    db = peppered.pepper(ONE)
    peppered.configure(keysmith__pepper_file="")
    peppered.restart()
    db = session(peppered)
    db.rows("CREATE EXTENSION keysmith")
    db.tenant()
    assert peppers(db) == (0, 0)
    old = db.mint()
    db.mint()
    assert peppers(db) == (0, 0)
    peppered.configure(keysmith__pepper_file=peppered.dir / "peppers")
    db = peppered.pepper("0:unpeppered\n" + ONE)
    db.mint()
    db = peppered.pepper("0:unpeppered\n" + ONE + TWO)
    db.mint()
    assert peppers(db) == (2, 3)
    # A key moves when it is rotated; a key that has ended is not counted.
    rotated = db.one("rotate", old.key_id)
    assert peppers(db) == (2, 2)
    db.call("revoke", rotated.key_id)
    assert peppers(db) == (2, 2)
    status = db.one("status")
    assert (status.keys_active, status.keys_revoked, status.keys_disabled, status.keys_expired) == (3, 2, 0, 0)
