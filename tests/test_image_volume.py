"""The extension's files in a folder of their own, as CloudNativePG mounts them from an image, and
a server that loads them from there."""

import re
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

import cluster as clusters
import scratch
from cluster import Cluster
from conftest import session, wait_until
from mirror import Mirror

ROOT = Path(__file__).resolve().parent.parent
VERSION = re.search(r"default_version = '(.*)'", (ROOT / "keysmith.control").read_text())[1]
SCRIPT = f"keysmith--{VERSION}.sql"


def ask(pg_config, what):
    return subprocess.check_output([pg_config, f"--{what}"], text=True).strip()


def major(pg_config):
    return int(re.match(r"PostgreSQL (\d+)", ask(pg_config, "version"))[1])


def library(pg_config):
    return Path(ask(pg_config, "pkglibdir")) / "keysmith.so"


def has_this_version(pg_config):
    """Whether what is installed there was made from the sources as they are now."""
    script = Path(ask(pg_config, "sharedir")) / "extension" / SCRIPT
    if not (library(pg_config).exists() and script.exists() and script.read_text() == (ROOT / "sql" / SCRIPT).read_text()):
        return False
    sources = [path for crate in ("src", "pg/src", "core/src") for path in (ROOT / crate).rglob("*.rs")]
    return library(pg_config).stat().st_mtime > max(path.stat().st_mtime for path in sources)


def newer_server():
    """The server of the tests, or else an installed one, or one that `make test-majors` has made:
    the first of 18 or newer that has this version."""
    if major(clusters.PG_CONFIG) >= 18:
        return clusters.PG_CONFIG
    made = subprocess.check_output(["bash", "-c", "source scripts/common.sh; servers"], cwd=ROOT, text=True).strip()
    found = [path for folder in ("/usr/lib/postgresql", made) for path in sorted(Path(folder).glob("*/bin/pg_config"))]
    return next((path for path in found if major(path) >= 18 and has_this_version(path)), None)


def lay_out(pg_config, folder):
    subprocess.run([ROOT / "scripts/image-layout.sh", library(pg_config), str(major(pg_config)), folder],
                   check=True, env=clusters.environment())
    return folder


def files(folder):
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    return lay_out(clusters.PG_CONFIG, tmp_path_factory.mktemp("image"))


def test_the_folder_has_what_an_image_needs_and_nothing_else(layout):
    scripts = {f"share/extension/{path.name}" for path in (ROOT / "sql").glob("keysmith--*.sql")}
    assert f"share/extension/{SCRIPT}" in scripts
    assert files(layout) == scripts | {
        "lib/keysmith.so", "share/extension/keysmith.control", "licenses/keysmith/LICENSE", "licenses/keysmith/LIBRARIES"}
    # The server's user may read all of it.
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in layout.rglob("*"))


def test_what_was_in_the_folder_is_not_in_the_image(layout):
    (layout / "share/extension/keysmith--0.0.1.sql").touch()
    (layout / "lib/other.so").touch()
    before = files(layout)
    lay_out(clusters.PG_CONFIG, layout)
    assert before - files(layout) == {"share/extension/keysmith--0.0.1.sql", "lib/other.so"}


def test_each_linked_library_has_its_licence(layout):
    listed = (layout / "licenses/keysmith/LIBRARIES").read_text()
    # The library names files of the sources that it was compiled from.
    compiled = set(re.findall(rb"/registry/src/[^/]+/([\w-]+?)-(\d+\.\d+\.\d+[\w.+-]*)/", (layout / "lib/keysmith.so").read_bytes()))
    named = {f"{name.decode()} {version.decode()}" for name, version in compiled}
    assert "pgrx 0.18.1" in named or not named
    assert {name for name in named if f"  {name}: " not in listed} == set()
    for heading in re.findall(r"^  (\S+ \S+): ", listed, re.M):
        # In the list, and above its text.
        assert len(re.findall(rf"\b{re.escape(heading)}\b", listed)) > 1, heading
    assert "Copyright (c) PgCentral Foundation" in listed


def test_the_licences_are_the_same_each_time(layout, tmp_path):
    again = lay_out(clusters.PG_CONFIG, tmp_path / "again")
    for name in ("LICENSE", "LIBRARIES"):
        assert (again / "licenses/keysmith" / name).read_bytes() == (layout / "licenses/keysmith" / name).read_bytes()


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """A server that has none of our files, and the folder."""
    pg_config = newer_server()
    if pg_config is None:
        pytest.skip("needs PostgreSQL 18 with this version: run make test-majors")
    folder = Path(tempfile.mkdtemp(prefix="keysmith-volume-", dir=scratch.folder()))
    folder.chmod(0o755)
    try:
        mirror = Mirror(folder / "server", pg_config)
        mirror.remove_ours()
        yield mirror, lay_out(pg_config, folder / "extensions/keysmith")
    finally:
        shutil.rmtree(folder)


@contextmanager
def mounting(programs, name):
    """A cluster that loads the extension from the folder, not yet started."""
    mirror, mounted = programs
    cluster = Cluster(name, bin=mirror.bin)
    try:
        yield cluster.init(extension_control_path=f"$system:{mounted}/share", dynamic_library_path=f"$libdir:{mounted}/lib")
    finally:
        cluster.remove()


@pytest.fixture(scope="module")
def newer(programs):
    with mounting(programs, "volume") as cluster:
        cluster.start()
        yield cluster


def test_a_server_loads_it_from_the_folder_alone(newer):
    db = session(newer)
    # Without the folder there is no keysmith.
    db.rows("SET extension_control_path = '$system'")
    assert db.value("SELECT count(*) FROM pg_available_extensions WHERE name = 'keysmith'") == 0
    db.rows("RESET extension_control_path")
    db.rows("CREATE DATABASE product")
    db.session.close()
    db = session(newer, "product")
    db.rows("CREATE EXTENSION keysmith")
    db.tenant()
    minted = db.mint(scopes=["docs:read"])
    assert db.verify(minted.api_key, scopes=["docs:read"]).ok
    assert db.row("SELECT preloaded, version FROM keysmith.status()") == (True, VERSION)
    assert [row for row in db.findings() if row.subject == "library"] == []
    # The background worker loads the library by the same setting.
    wait_until(lambda: db.value("SELECT coalesce(sum(requests), 0) FROM keysmith.usage_daily") >= 1)
    db.call("revoke", minted.key_id)
    assert db.reason(minted.api_key) == "revoked"
    db.session.close()


def test_a_newer_image_updates_the_extension(newer, programs):
    newer.execute("CREATE DATABASE updated")
    db = session(newer, "updated")
    db.rows("CREATE EXTENSION keysmith")
    db.tenant()
    key = db.mint().api_key
    (programs[1] / f"share/extension/keysmith--{VERSION}--99.0.0.sql").write_text(
        "CREATE FUNCTION keysmith.newer() RETURNS text LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_current_tenant';")
    db.rows("ALTER EXTENSION keysmith UPDATE TO '99.0.0'")
    db.session.close()
    db = session(newer, "updated")
    with db.session.transaction():
        assert db.verify(key, sign_in=True).ok
        assert db.value("SELECT keysmith.newer()") == "acme"
    db.session.close()


def test_pg_upgrade_finds_it_there(programs):
    with mounting(programs, "old") as old, mounting(programs, "new") as new:
        old.start()
        db = session(old)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        key = db.mint().api_key
        db.session.close()
        old.stop()
        done = clusters.run("pg_upgrade", "-b", old.bin, "-B", new.bin, "-d", old.data, "-D", new.data, "-s", new.dir,
                            "-U", "postgres", "--no-sync", as_server=True, cwd=new.dir, bin=new.bin, check=False)
        assert done.returncode == 0, done.stdout
        new.start()
        db = session(new)
        assert db.verify(key).ok
        db.session.close()
