"""Someone who has only a package and a new Debian: installs, upgrades, removes and installs again.

`make stranger` shows all commands and what they print.
"""

import re
import time
from pathlib import Path

import pytest

import debs
import machine as machines
from debs import MAJOR, NAME, ROOT

CONF = f"/etc/postgresql/{MAJOR}/main"
AUTO = f"/var/lib/postgresql/{MAJOR}/main/postgresql.auto.conf"


@pytest.fixture(scope="module")
def base():
    if why := debs.missing() or machines.missing():
        pytest.skip(why)
    try:
        return machines.base()
    except LookupError as why:
        pytest.skip(str(why))


@pytest.fixture
def machine(base):
    with machines.running(base) as machine:
        yield machine


def blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / path).read_text(), re.M | re.S)


def documented_steps(package):
    """The commands of the guide, for the package of this machine."""
    steps, = (block for block in blocks("docs/installing.md", "sh") if "apt-get install" in block)
    steps = re.sub(r"\b15\b", MAJOR, steps).replace("_amd64.deb", f"_{package.stem.split('_')[2]}.deb")
    assert f"./{package.name}" in steps, "the guide names another package"
    return steps


def first_minute():
    """The README's statements until it has verified a key."""
    statements = []
    for block in blocks("README.md", "sql"):
        statements.append(block)
        if "keysmith.verify(" in block:
            return "\n".join(statements)
    raise AssertionError("the README verifies no key")


def preloaded(machine):
    return machine.psql("SHOW shared_preload_libraries")


def restart(machine):
    machine.run(f"pg_ctlcluster {MAJOR} main restart")


def look(machine, *paths):
    """Content, owner and mode of files."""
    return [(machine.path(path).read_text(), *(getattr(machine.path(path).stat(), what) for what in ("st_uid", "st_gid", "st_mode")))
            for path in paths]


def test_a_package_on_a_new_debian(machine, tmp_path, record_property):
    package = debs.package()
    machine.path(package.name).write_bytes(package.read_bytes())
    steps = documented_steps(package)

    # A first key, by the guide's commands.
    start = time.monotonic()
    told = machine.run(steps)
    seconds = time.monotonic() - start
    assert re.search(r"^ ok \| reason\s+-+\+-+\s+ t  \| ok", told, re.M)
    assert f"pg_conftool {MAJOR} main set shared_preload_libraries keysmith" in told
    took = f"{seconds:.1f} s from apt-get install to the first verified key, with the downloads kept"
    record_property("figure", took)
    assert not machine.run("command -v gcc cc cargo rustc || true")
    machine.psql("SELECT api_key FROM keysmith.mint('acme') \\gset\nCREATE TABLE kept AS SELECT :'api_key' AS api_key")

    def verdict():
        return machine.psql("SELECT reason FROM keysmith.verify((SELECT api_key FROM kept))")

    # The README and the demo.
    machine.run("createdb tour && createdb demo", user="postgres")
    machine.psql(first_minute(), "tour")
    shown = machine.run(f"psql -X -v ON_ERROR_STOP=1 -d demo -f /usr/share/doc/{NAME}/examples/demo.sql", user="postgres")
    assert "end of the demo" in shown

    # An upgrade changes no setting, and restarts nothing.
    settings = look(machine, f"{CONF}/postgresql.conf", AUTO)
    started = machine.psql("SELECT pg_postmaster_start_time()")
    upgrade = debs.with_version(package, "0.1.0-1+newer", tmp_path)
    machine.path(upgrade.name).write_bytes(upgrade.read_bytes())
    machine.run(f"apt-get install ./{upgrade.name}")
    assert look(machine, f"{CONF}/postgresql.conf", AUTO) == settings
    assert machine.psql("SELECT pg_postmaster_start_time()") == started
    assert verdict() == "ok"
    restart(machine)
    assert preloaded(machine) == "keysmith" and verdict() == "ok"

    # A removal leaves servers that start, whichever file names the library.
    machine.path(f"{CONF}/conf.d/site.conf").write_text("shared_preload_libraries = 'pg_stat_statements, keysmith' # ours\n")
    machine.path(f"{CONF}/conf.d/site.conf").chmod(0o644)
    machine.run(f"chown postgres: {CONF}/conf.d/site.conf")
    machine.path("etc/postgresql/root.conf").write_text("session_preload_libraries = 'keysmith'\n")
    machine.run(f"echo \"include '/etc/postgresql/root.conf'\" >>{CONF}/postgresql.conf")
    machine.psql("ALTER SYSTEM SET shared_preload_libraries = 'auto_explain', 'keysmith'")
    files = f"{CONF}/postgresql.conf", f"{CONF}/conf.d/site.conf", AUTO
    before = look(machine, *files)
    told = machine.run(f"apt-get remove {NAME}")
    for path, (old, *owner), (new, *still) in zip(files, before, look(machine, *files)):
        assert f"took keysmith out of the libraries to preload, in {path}" in told
        assert "keysmith" in old and "keysmith" not in new and still == owner
    assert "take keysmith out of /etc/postgresql/root.conf, line 1: the server will not start until then" in told
    machine.run(f"sed -i /root.conf/d {CONF}/postgresql.conf; rm /etc/postgresql/root.conf")
    restart(machine)
    assert preloaded(machine) == "auto_explain"
    machine.psql("ALTER SYSTEM RESET shared_preload_libraries")
    restart(machine)
    assert preloaded(machine) == "pg_stat_statements"
    machine.path(f"{CONF}/conf.d/site.conf").unlink()

    # It leaves no file, and comes back without a change of settings.
    machine.run(f"dpkg --purge {NAME}")
    assert not machine.run("find /etc /usr /var/lib/dpkg/info -name '*keysmith*'")
    left = look(machine, f"{CONF}/postgresql.conf", AUTO)
    told = machine.run(f"apt-get install ./{package.name}")
    assert "Let a server preload it" in told
    assert look(machine, f"{CONF}/postgresql.conf", AUTO) == left
    machine.run(f"pg_conftool {MAJOR} main set shared_preload_libraries keysmith")
    restart(machine)
    assert preloaded(machine) == "keysmith" and verdict() == "ok"
    machine.run(f"pg_ctlcluster {MAJOR} main stop")


def inside(folder):
    """The processes whose root a folder is."""
    found = []
    for root in Path("/proc").glob("[0-9]*/root"):
        try:
            found += [root.parent] if root.readlink() == folder else []
        except OSError:
            pass
    return found


def test_nothing_of_a_machine_is_left(base):
    with machines.running(base) as machine:
        machine.run("setsid sleep 1000 </dev/null >/dev/null 2>&1 & disown")
        assert len(inside(machine.folder)) >= 3
    assert not inside(machine.folder) and not machine.folder.exists()
    assert str(machine.folder) not in Path("/proc/mounts").read_text()
