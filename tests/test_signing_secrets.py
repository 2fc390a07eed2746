"""The file of signing secrets: rotation, reloads, files that can't be used, standbys."""

import os
import signal
import uuid
from types import SimpleNamespace

import jwt
import psycopg
import pytest

from cluster import Cluster
from conftest import session, wait_until
from tokens import Signer

ONE, TWO = (f"{n}:{str(n) * 64}\n" for n in (1, 2))
PROBLEM = "SELECT value FROM keysmith.metrics WHERE name = 'keysmith_signing_key_file_problem'"


@pytest.fixture
def server():
    """A server with one secret, and a session whose tenant has a key."""
    cluster = Cluster("signing")
    try:
        cluster.init(keysmith__signing_key_file=cluster.write_secrets("signing", ONE), max_wal_senders=4).start()
        cluster.execute("CREATE EXTENSION keysmith")
        cluster.db = session(cluster)
        cluster.db.tenant()
        cluster.key = cluster.db.mint().api_key
        yield cluster
    finally:
        cluster.remove()


def reload(server, sessions, text, logged, mode=0o600, by=None):
    """Writes the file, and waits until the server and the sessions have noticed."""
    start = server.log.stat().st_size
    server.write_secrets("signing", text, mode)
    server.marks = getattr(server, "marks", 0) + 1
    server.configure(test__mark=server.marks)
    (by or server.db).rows("SELECT pg_reload_conf()")
    wait_until(lambda: logged in server.log.read_bytes()[start:].decode())
    for each in sessions:
        wait_until(lambda each=each: each.value("SELECT current_setting('test.mark', true)") == str(server.marks))


def kids(db, keyspace="default"):
    return [key["kid"] for key in db.value("SELECT keysmith.jwks(%s)", keyspace)["keys"]]


def token(db, key):
    return db.one("derive_token", key).token


def kid(text):
    return jwt.get_unverified_header(text)["kid"]


def offline(text, jwks):
    """Whether another service that has this JWK set takes a token."""
    try:
        key = jwt.PyJWKSet.from_dict(jwks)[kid(text)]
        jwt.decode(text, key, algorithms=["EdDSA"], issuer="default", audience="default")
        return True
    except (KeyError, jwt.InvalidTokenError):
        return False


def test_rotation_with_overlap(server):
    db, key = server.db, server.key
    sessions = [db, session(server)]
    old_keys, old = kids(db), token(db, key)
    reload(server, sessions, ONE + TWO, "keysmith.signing_key_file was read again: its generations are 2, 1")
    for each in [*sessions, session(server)]:
        both = each.value("SELECT keysmith.jwks()")
        assert len(kids(each)) == 2 and kids(each)[1:] == old_keys
        new = token(each, key)
        assert kid(new) == kids(each)[0] and kid(old) == kids(each)[1]
        assert each.verify(old).ok and each.verify(new).ok
        assert offline(old, both) and offline(new, both)
    reload(server, sessions, TWO, "its generations are 2")
    for each in [*sessions, session(server)]:
        only = each.value("SELECT keysmith.jwks()")
        assert kids(each) == [kid(new)]
        assert each.verify(new).ok and not each.verify(old).ok
        assert offline(new, only) and not offline(old, only)
    # A generation may come back, and with another secret its tokens stay ended.
    reload(server, sessions, ONE + TWO, "its generations are 2, 1")
    assert all(each.verify(old).ok for each in sessions)
    reload(server, sessions, f"1:{'33' * 32}\n" + TWO, "its generations are 2, 1")
    assert not any(each.verify(old).ok for each in sessions) and kid(old) not in kids(db)


def test_a_file_that_can_not_be_used_changes_nothing(server):
    db, key = server.db, server.key
    sessions = [db, session(server)]
    before, old = kids(db), token(db, key)
    assert not [each for each in db.findings() if each.subject == "signing"] and db.value(PROBLEM) == 0
    for text, mode, why in [
        ("", 0o600, "no line of the form generation:hex"),
        ("# nothing\n", 0o600, "no line of the form generation:hex"),
        ("2:nonsense\n", 0o600, "line 1: the secret must be hex"),
        (ONE + "0:unpeppered\n", 0o600, "line 2: the generation must be a number from 1 to 32767"),
        (ONE + ONE, 0o600, "line 2: this generation is already there"),
        (f"2:{'22' * 31}\n", 0o600, "line 1: the secret must have at least 32 bytes (64 hex digits)"),
        (TWO, 0o644, "must be a file that no one but the server's user can read or change"),
    ]:
        reload(server, sessions, text, f"keysmith.signing_key_file {why}; the secrets that were read before stay in force", mode)
        sessions.append(session(server))
        for each in sessions:
            assert kids(each) == before and each.verify(old).ok and kid(token(each, key)) == before[0]
        (finding,) = [each for each in db.findings() if each.subject == "signing"]
        assert (finding.level, "Signing secrets" in finding.remedy) == ("error", True) and why in finding.finding
        assert db.value(PROBLEM) == 1
    server.write_secrets("signing", ONE + TWO)
    (finding,) = [each for each in db.findings() if each.subject == "signing"]
    assert "was changed since it was read: reload" in finding.finding and db.value(PROBLEM) == 1
    # Only the postmaster logs, and never a secret.
    log = server.log.read_text()
    assert log.count("this generation is already there") == 1
    assert not any(str(n) * 31 in log for n in (1, 2))


def test_an_identity_ends_with_the_secret_of_its_token(server):
    other = session(server)
    with pytest.raises(psycopg.Error) as error, other.session.transaction():
        assert other.verify(token(server.db, server.key), sign_in=True).ok
        reload(server, [], TWO, "its generations are 2")
        server.db.mint()
        other.rows("SELECT keysmith.current_key()")
    assert error.value.sqlstate == "KS401" and "token" in error.value.diag.message_primary


def test_a_session_that_can_not_read_what_the_server_has_read(server):
    """A secret that was taken away does not stay in force there."""
    db, idle, file = server.db, session(server), server.dir / "signing"
    old = token(db, server.key)
    assert idle.verify(old).ok
    reload(server, [], TWO, "its generations are 2")
    file.rename(server.dir / "elsewhere")
    assert idle.reason(old) == "ok" and not session(server).verify(old).ok
    assert server.log.read_text().count("which this session may lack") == 1
    (server.dir / "elsewhere").rename(file)
    wait_until(lambda: not idle.verify(old).ok)
    assert kids(idle) == kids(session(server))


def test_a_reload_reaches_sessions_that_read_the_file_before(server):
    db, other = server.db, session(server)
    server.write_secrets("signing", ONE + TWO)
    # It looks into the file, as it does not know the key of this token.
    unknown = Signer(generation=2).token(SimpleNamespace(key_id=uuid.uuid4()))
    wait_until(lambda: other.reason(unknown) == "token_invalid" and len(kids(other)) == 2)
    reload(server, [db, other], ONE, "received SIGHUP")
    wait_until(lambda: len(kids(other)) == 1)


def test_a_server_that_crashed_remembers_what_it_has_read(server):
    old = token(server.db, server.key)
    reload(server, [], TWO, "its generations are 2")
    pid = server.db.value("SELECT pg_backend_pid()")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: "reinitializing" in server.log.read_text() and up(server))
    after = session(server)
    assert after.reason(old) == "malformed_key" and len(kids(after)) == 1
    reload(server, [], ONE + TWO, "its generations are 2, 1", by=after)
    assert after.verify(old).ok


def up(server):
    try:
        server.connect().close()
        return True
    except psycopg.OperationalError:
        return False


def test_a_server_does_not_start_with_a_bad_file(server):
    server.stop()
    server.write_secrets("signing", "1:nonsense\n")
    assert server.start(check=False).returncode != 0
    assert "keysmith.signing_key_file line 1: the secret must be hex" in server.log.read_text()
    inside = server.data / "signing"
    server.write_secrets("data/signing", ONE)
    server.configure(keysmith__signing_key_file=inside)
    assert server.start(check=False).returncode != 0
    assert "keysmith.signing_key_file must be outside the data directory" in server.log.read_text()


def test_only_superusers_see_the_path(server):
    server.db.rows("CREATE ROLE someone LOGIN")
    with server.connect(user="someone") as other, pytest.raises(psycopg.Error, match="superuser|permission"):
        other.execute("SHOW keysmith.signing_key_file")
    with pytest.raises(psycopg.Error, match="cannot be changed"):
        server.db.rows("SET keysmith.signing_key_file = ''")


@pytest.mark.parametrize("preload", [True, False])
def test_without_a_file_there_are_no_tokens(preload):
    cluster = Cluster("unsigned")
    try:
        cluster.init(preload=preload).start()
        cluster.execute("CREATE EXTENSION keysmith")
        db = session(cluster)
        db.tenant()
        message = db.refused("KS409", "derive_token", db.mint().api_key)
        assert "keysmith.signing_key_file is not set" in message
        assert db.value("SELECT keysmith.jwks()") == {"keys": []}
        db.call("define_endpoint", "default", "POST", "/t", "derive_token")
        answer = db.one("serve", f'{{"X-API-Key": "{db.mint().api_key}"}}', "POST", "/t")
        # That is for the operator to know, and not for the client.
        assert answer.status == 500 and "signing" not in str(answer.body)
        assert "keysmith.signing_key_file is not set" in cluster.log.read_text()
    finally:
        cluster.remove()


def test_standbys_make_tokens(server):
    standby = server.backup("standby", 5433)
    try:
        # Each server reads its own file.
        standby.configure(keysmith__signing_key_file=standby.write_secrets("signing", ONE + TWO))
        standby.start()
        wait_until(lambda: server.db.one("wait_for_replay")[0] == 1)
        replica = session(standby)
        assert replica.value("SELECT pg_is_in_recovery()")
        made = token(replica, server.key)
        assert kids(replica)[1:] == kids(server.db) and kid(made) == kids(replica)[0]
        assert replica.verify(made).ok and replica.verify(token(server.db, server.key)).ok
        # The primary does not know this generation yet.
        assert not server.db.verify(made).ok
        reload(server, [server.db], ONE + TWO, "its generations are 2, 1")
        assert server.db.verify(made).ok
        server.db.rows("SELECT keysmith.revoke(key_id) FROM keysmith.keys")
        server.db.one("wait_for_replay")
        assert replica.reason(made) == "revoked"
        replica.refused("KS401", "derive_token", server.key)
    finally:
        standby.remove()
