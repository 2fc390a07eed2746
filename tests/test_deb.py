"""The Debian package: what is in it, that it is built the same way twice, and what its removal does
to settings. tests/test_stranger.py installs it."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

import cluster as clusters
import debs
import scratch
from debs import MAJOR, NAME, ROOT


@pytest.fixture(scope="module")
def package():
    if why := debs.missing():
        pytest.skip(why)
    return debs.package()


def test_two_builds_are_identical(package, tmp_path):
    """Each is built in a new folder."""
    again = debs.build(tmp_path)
    assert again.name == package.name and again.read_bytes() == package.read_bytes()


def test_it_holds_what_a_server_needs_and_no_path_of_this_machine(package, tmp_path):
    subprocess.run(["dpkg-deb", "--extract", package, tmp_path], check=True)
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    extension, documents = f"usr/share/postgresql/{MAJOR}/extension", f"usr/share/doc/{NAME}"
    scripts = {path.name for path in (ROOT / "sql").glob("keysmith--*.sql")}
    assert files >= {
        f"usr/lib/postgresql/{MAJOR}/lib/keysmith.so", f"{extension}/keysmith.control",
        *(f"{extension}/{name}" for name in scripts), f"{documents}/copyright", f"{documents}/changelog.gz",
        f"{documents}/README.md.gz", f"{documents}/README.Debian", f"{documents}/examples/demo.sql",
        f"{documents}/examples/monitoring/alerts.yml"}
    assert {file.rsplit("/", 1)[0] for file in files if file.startswith("usr/lib")} == {f"usr/lib/postgresql/{MAJOR}/lib"}
    library = (tmp_path / f"usr/lib/postgresql/{MAJOR}/lib/keysmith.so").read_bytes()
    for path in (ROOT, debs.BUILD, os.environ.get("CARGO_HOME") or Path.home() / ".cargo"):
        assert f"{path}/".encode() not in library
    depends = subprocess.check_output(["dpkg-deb", "--field", package, "Depends"], text=True)
    assert {f"postgresql-{MAJOR}", "libc6"} <= set(re.findall(r"[\w.-]+(?=,| |$)", depends))


def test_lintian_finds_nothing(package):
    if not shutil.which("lintian"):
        pytest.skip("lintian is not there; run scripts/setup.sh deb")
    done = subprocess.run(["lintian", "--display-info", "--allow-root", package], text=True, stdout=subprocess.PIPE)
    assert done.stdout == "" and done.returncode == 0


@pytest.mark.parametrize("file, old, new, problem", [
    ("Cargo.toml", '\nversion = "', '\nversion = "9.', "another version than Cargo.toml"),
    ("debian/control.in", "Section: database", "Section: misc", "debian/control is stale"),
])
def test_files_that_disagree_build_nothing(tmp_path, file, old, new, problem):
    if why := debs.missing():
        pytest.skip(why)
    for name in ("debian", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("Cargo.toml", file):
        shutil.copy(ROOT / name, tmp_path / name)
    changed = (ROOT / file).read_text().replace(old, new, 1)
    assert changed != (ROOT / file).read_text()
    (tmp_path / file).write_text(changed)
    done = subprocess.run([tmp_path / "scripts/deb.sh", "build", tmp_path / "deb"], text=True, stderr=subprocess.PIPE,
                          env=os.environ | {"PG_CONFIG": clusters.PG_CONFIG})
    assert done.returncode != 0 and problem in done.stderr


def test_the_copyright_names_every_library_that_is_linked_in():
    subprocess.run(["python3", ROOT / "scripts/debian_copyright.py", "--check"], check=True)


@pytest.fixture
def host():
    with tempfile.TemporaryDirectory(dir=scratch.folder()) as folder:
        Path(folder).chmod(0o755)
        yield Host(Path(folder))


class Host:
    """Settings of a cluster, as Debian keeps them."""

    def __init__(self, folder):
        self.folder = folder
        self.conf = folder / f"etc/{MAJOR}/main"
        self.data = folder / "data"
        (self.conf / "conf.d").mkdir(parents=True)
        self.data.mkdir(mode=0o700)
        self.write("conf/pg_ctl.conf", "# keysmith is not an argument here\n")
        if clusters._SERVER_USER:
            for path in (folder, *folder.rglob("*")):
                self.give(path)

    def give(self, path):
        os.chown(path, clusters._SERVER_USER.pw_uid, clusters._SERVER_USER.pw_gid)

    def path(self, name):
        top, _, rest = name.partition("/")
        return {"conf": self.conf, "data": self.data}[top] / rest

    def write(self, name, content, mode=0o640, root=False):
        path = self.path(name)
        path.write_text(content)
        path.chmod(mode)
        if clusters._SERVER_USER and not root:
            self.give(path)
        return path

    def main(self, content):
        return self.write("conf/postgresql.conf", f"data_directory = '{self.data}'\n{content}include_dir 'conf.d'\n")

    def run(self, *arguments, before="", **variables):
        """The package's script, as dpkg calls it: after commands of a shell, if any. It never fails."""
        script = self.folder / "prerm"
        script.write_text((ROOT / "debian/prerm.in").read_text().replace("PGVERSION", MAJOR))
        variables = {"PG_CLUSTER_CONF_ROOT": str(self.folder / "etc")} | variables
        shell = [shutil.which("bash"), "-c", f'{before}\nexec "$@"', "-"]
        done = subprocess.run([*shell, shutil.which("perl"), "-w", script, *arguments],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | variables)
        told = done.stdout.decode()
        assert done.returncode == 0, told
        assert re.fullmatch("(?:[ -~]*\r?\n)*", told)
        return told


def identity(path):
    found = path.stat()
    return found.st_ino, found.st_uid, found.st_gid, found.st_mode


@pytest.mark.parametrize("line, left", [
    ("shared_preload_libraries = 'keysmith'", "shared_preload_libraries = ''"),
    ("shared_preload_libraries = keysmith # ours", "shared_preload_libraries = '' # ours"),
    ("shared_preload_libraries 'a,keysmith,b'", "shared_preload_libraries 'a, b'"),
    ("  Shared_Preload_Libraries='\"a,b\", \"keysmith\"'\t#", "  Shared_Preload_Libraries='\"a,b\"'\t#"),
    (f"session_preload_libraries = 'a, $libdir/keysmith.so, /usr/lib/postgresql/{MAJOR}/lib/keysmith'",
     "session_preload_libraries = 'a'"),
    ("shared_preload_libraries = 'it''s, keysmith, it\\'s'", "shared_preload_libraries = 'it''s, it''s'"),
    *((line, line) for line in (
        "#shared_preload_libraries = 'keysmith'",
        "shared_preload_libraries = 'keysmith_too, /opt/keysmith'",
        "shared_preload_libraries = 'a,b' # keysmith",
        "keysmith.usage_buffer = 1000",
        "shared_preload_libraries = 'keysmith",
    )),
])
def test_a_removal_takes_the_library_out_of_a_line(host, line, left):
    path = host.main(f"{line}\n")
    before, was = path.read_text(), identity(path)
    told = host.run("remove")
    assert path.read_text() == before.replace(line, left) and identity(path) == was
    assert (f"{path}, line 2\n" in told) == (line != left)


def test_a_removal_changes_every_file_of_the_settings(host):
    host.main("include 'more'\ninclude_if_exists = 'none'\ninclude 'postgresql.conf'\n")
    line = "shared_preload_libraries = 'keysmith, a'\n"
    (host.conf / "elsewhere").mkdir()
    paths = [
        host.write("conf/more", "include 'elsewhere/most'\n" + line),
        host.write("conf/elsewhere/most", line),
        host.write("data/postgresql.auto.conf", line, mode=0o600),
    ]
    others = [host.write("conf/conf.d/.hidden.conf", line), host.write("conf/conf.d/other", line)]
    was = [identity(path) for path in paths]
    told = host.run("remove", "in-favour", "another")
    for path in paths:
        assert "'a'" in path.read_text() and f"in {path}, line" in told
    assert [identity(path) for path in paths] == was
    assert [path.read_text() for path in others] == [line, line]
    assert "A running server keeps the library until it restarts." in told
    assert host.run("remove") == ""


@pytest.mark.parametrize("arguments", [("upgrade", "0.2.0"), ("failed-upgrade", "0.1.0"),
                                       ("deconfigure", "in-favour", "another", "1.0"), ()])
def test_nothing_but_a_removal_changes_settings(host, arguments):
    path = host.main("shared_preload_libraries = 'keysmith'\n")
    before = path.read_text()
    assert host.run(*arguments) == "" and path.read_text() == before


def test_a_removal_goes_on_where_it_can_change_nothing(host):
    os.mkfifo(host.conf / "conf.d/pipe.conf")
    (host.conf / "conf.d/folder.conf").mkdir()
    (host.conf / "conf.d/gone.conf").symlink_to("nowhere")
    host.write("conf/pg_ctl.conf", "pg_ctl_options = '-o \"-c shared_preload_libraries=keysmith\"'\n")
    (host.folder / f"etc/{MAJOR}/empty").mkdir()
    path = host.main("include_dir 'nowhere'\nnonsense '\nshared_preload_libraries = 'keysmith'\n")
    told = host.run("remove")
    assert f"in {path}, line 4" in told and f"{host.conf}/pg_ctl.conf names keysmith: take it out" in told


LINE = "shared_preload_libraries = 'keysmith'\n"


def test_files_that_include_each_other_are_read_once(host):
    """Each path leads to two longer ones."""
    path = host.main("include './postgresql.conf'\ninclude '../main/postgresql.conf'\n" + LINE)
    told = host.run("remove")
    assert "'keysmith'" not in path.read_text() and told.count("\n") == 2


def test_files_are_included_as_deep_as_a_server_includes_them(host):
    paths = [host.write(f"conf/{depth}", f"include '{depth + 1}'\n{LINE}") for depth in range(1, 13)]
    host.main("include '1'\n")
    host.run("remove")
    assert ["'keysmith'" in path.read_text() for path in paths] == [False] * 10 + [True] * 2


@pytest.mark.parametrize("noise", ["\n" * 500_000, " " * 500_000 + "\n", "include" + " " * 500_000 + "\n",
                                   f"shared_preload_libraries = 'keysmith, a{' ' * 500_000}b'\n",
                                   f"shared_preload_libraries = 'keysmith,{'a,' * 250_000}b'\n",
                                   "shared_preload_libraries = 'keysmith, " + '"' * 100_001 + "'\n",
                                   f"shared_preload_libraries = '{'a' * 500_000}\n",
                                   "keysmit" * 70_000 + "\n", "#keysmith\n" * 50_000,
                                   "data_directory" + " " * 500_000 + "\n"],
                         ids=["lines", "spaces", "include", "gap", "list", "quotes", "unclosed", "almost", "comments", "data"])
def test_long_settings_are_read_to_their_end(host, noise):
    """The script gives up after a minute, and then says so."""
    path = host.main(noise + LINE)
    host.write("conf/conf.d/comment.conf", noise + "# keysmith\n")
    told = host.run("remove")
    assert f"took keysmith out of the libraries to preload, in {path}, line" in told
    assert "to its end" not in told and LINE not in path.read_text()


def test_a_huge_file_is_not_read(host):
    path = host.main("")
    path.write_text(path.read_text() + LINE)
    data = [host.write("data/postgresql.auto.conf", LINE + "#" * ((1 << 20) - len(LINE)), mode=0o600)]
    data += [host.write("conf/pg_ctl.conf", ""), host.write("conf/conf.d/a.conf", LINE), host.write("conf/conf.d/b.conf", LINE)]
    for huge in data[1:3]:
        os.truncate(huge, 10 << 40)
    # A test that fails takes no more memory than this.
    told = host.run("remove", before="ulimit -v 1000000")
    assert told.count("is larger than 1 MB, and was not read") == 2 and all(f"{huge} is larger" in told for huge in data[1:3])
    assert all(f"in {small}, line" in told for small in (path, data[0], data[3]))


def test_more_files_than_anyone_has_are_not_all_read(host):
    host.main("include 'none'\n" * 2000 + LINE)
    assert f"{host.conf} is left as it is: it has more than 1000 files" in host.run("remove")


def test_messages_hold_only_printable_characters(host):
    """run() checks all that is printed."""
    host.main("")
    shown = []
    for name in ("\x1b]0;owned\x07.conf", "a\nb.conf", "ä\u202e\x7f\t.conf"):
        path = host.write(f"conf/conf.d/{name}", LINE)
        shown.append("".join("?" * len(c.encode()) if not " " <= c <= "~" else c for c in str(path)))
    told = host.run("remove")
    assert all(f"in {name}, line 1\n" in told for name in shown)
    (host.conf.parent / "\x1b[2J\nx").symlink_to("nowhere")
    (host.conf.parent / "\x1b[3J\nx").mkdir()
    (host.conf.parent / "\x1b[3J\nx/postgresql.conf").write_text("data_directory = '/nowhere'")
    host.run("remove")


@pytest.mark.parametrize("before, variables", [
    ("exec >/dev/full", {}),
    ("exec >&-", {}),
    ("exec >&- 2>&-", {}),
    ("exec > >(exit); wait $!", {}),
    ("trap '' CHLD ALRM", {}),
    ("cd \"$(mktemp -d)\"; rmdir \"$PWD\"", {}),
    ("", {"PERL_UNICODE": "SDA"}),
    ("", {"PERLIO": ":crlf"}),
    ("", {"LC_ALL": "nonsense", "PERL_BADLANG": "0", "PATH": "/nowhere"}),
])
def test_a_removal_succeeds_wherever_it_is_run(host, before, variables):
    path = host.main("# \xe4\r\n" + LINE)
    other, huge = host.write("conf/conf.d/a.conf", LINE), host.write("conf/conf.d/huge.conf", "#" * (2 << 20))
    host.run("remove", before=before, **variables)
    assert LINE not in other.read_text() and set(huge.read_text()) == {"#"}
    assert path.read_bytes().endswith("# \xe4\r\nshared_preload_libraries = ''\ninclude_dir 'conf.d'\n".encode())


@pytest.mark.parametrize("root", ["/nowhere", "/dev/null", "a b\n* {c,d}'", "~"])
def test_a_removal_succeeds_where_no_settings_are(host, root):
    assert host.run("remove", PG_CLUSTER_CONF_ROOT=root) == ""


def test_a_removal_goes_on_where_memory_runs_out(host):
    host.main("\n" * 1_000_000 + LINE)
    told = host.run("remove", before="ulimit -v 60000")
    assert f"{host.conf} was not read to its end: if a file there preloads keysmith, take it out" in told


@pytest.mark.skipif(os.geteuid() != 0, reason="only root acts as another user")
def test_the_owner_of_a_cluster_lends_no_rights_of_root(host):
    """The owner names files that only root can write, by an include or by a link."""
    host.main(f"include '{host.folder}/another'\n")
    target = host.folder / "another"
    target.write_text(LINE)
    secret = host.folder / "secret"
    secret.write_text(LINE)
    secret.chmod(0o660)
    mine = host.write("conf/conf.d/root.conf", LINE, mode=0o644, root=True)
    fine = host.write("conf/conf.d/fine.conf", "keysmith.usage_buffer = 1000\n", mode=0o644, root=True)
    os.chown(host.conf, -1, 0)
    (host.conf / "conf.d/secret.conf").symlink_to(secret)
    told = host.run("remove")
    assert [path.read_text() for path in (target, secret, mine)] == [LINE] * 3
    for path in (target, mine):
        assert (f"take keysmith out of {path}, line 1: the server will not start until then, and "
                f"{clusters._SERVER_USER.pw_name} can't write this file") in told
    assert "secret" not in told and str(fine) not in told and "A running server" not in told


@pytest.mark.skipif(os.geteuid() != 0, reason="only root acts as another user")
def test_settings_of_root_belong_to_the_owner_of_the_data(host):
    path = host.main(LINE)
    auto = host.write("data/postgresql.auto.conf", LINE, mode=0o600)
    for mine in (host.conf, path):
        os.chown(mine, 0, clusters._SERVER_USER.pw_gid)
    told = host.run("remove")
    assert LINE in path.read_text() and f"take keysmith out of {path}, line 2" in told
    assert "'keysmith'" not in auto.read_text()
    # Root does not read what the owner can't read.
    path.chmod(0o600)
    auto.write_text(LINE)
    assert "is left as it is: it is not clear whose cluster it is" in host.run("remove")
    path.chmod(0o644)
    shutil.rmtree(host.data)
    assert "is left as it is: it is not clear whose cluster it is" in host.run("remove")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root acts as another user")
def test_a_link_belongs_to_who_made_it(host):
    """The owner of the folder of all clusters can't make root act as somebody else."""
    path = host.main(LINE)
    for name in ("", "conf.d", "postgresql.conf"):
        os.chown(host.conf / name, 1, 1)
    moved = host.folder / "moved"
    host.conf.rename(moved)
    host.conf.symlink_to(moved)
    os.chown(host.conf, clusters._SERVER_USER.pw_uid, -1, follow_symlinks=False)
    (moved / "postgresql.conf").chmod(0o644)
    assert f"take keysmith out of {path}, line 2" in host.run("remove")
    os.chown(host.conf, 0, -1, follow_symlinks=False)
    assert f"in {path}, line 2" in host.run("remove")
