"""Releases: a made-up one in a copy of the tree, and what stops one. It compiles nothing."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import version as versions  # noqa: E402


def run(folder, *command, check=True, **environment):
    done = subprocess.run(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env={**os.environ, "CARGO_TARGET_DIR": str(folder.parent / "target"), **environment})
    assert not check or done.returncode == 0, done.stdout
    return done.stdout if check else done


def git(folder, *arguments):
    return run(folder, "git", *arguments)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A repository with the files of this one, whether they are committed or not."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs the repository: this is a copy without its history")
    folder = tmp_path_factory.mktemp("release") / "keysmith"
    for name in git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
        if name and (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "config", "user.name", "A maintainer")
    git(folder, "config", "user.email", "maintainer@example.com")
    commit(folder)
    return folder


@pytest.fixture
def clone(tree, tmp_path):
    folder = tmp_path / "keysmith"
    git(tree, "clone", "--quiet", tree, folder)
    for name in ("name", "email"):
        git(folder, "config", f"user.{name}", "maintainer@example.com")
    return folder


def commit(folder):
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "-m", "More")


def change(folder, name, old, new):
    text = (folder / name).read_text()
    assert old in text, name
    (folder / name).write_text(text.replace(old, new, 1))


def release(folder, version, *options, check=True):
    return run(folder, "scripts/release.sh", version, "--no-builds", *options, check=check)


def refused(folder, version="98.0.0"):
    before = git(folder, "rev-parse", "HEAD"), git(folder, "status", "--porcelain"), git(folder, "tag")
    done = release(folder, version, check=False)
    assert done.returncode != 0
    assert (git(folder, "rev-parse", "HEAD"), git(folder, "status", "--porcelain"), git(folder, "tag")) == before
    return done.stdout


def make_script(folder, text):
    """`make script`, as if the library had this text."""
    build = folder.parent / "build"
    build.mkdir(exist_ok=True)
    (build / "text").write_text(text)
    program = build / "keysmith-schema"
    program.write_text(f'#!/bin/sh\ncp "{build}/text" "$3"\n')
    program.chmod(0o755)
    return run(folder, "make", "--old-file=build", "script", f"BUILD={build}", check=False)


def results(folder, version):
    return folder.parent / "target/releases" / version


def test_this_tree_names_one_version():
    assert list(versions.problems()) == []


def test_scripts_of_released_versions_are_unchanged():
    for name, checksum in versions.released().items():
        assert hashlib.sha256((versions.SQL / name).read_bytes()).hexdigest() == checksum, name


# The file for PGXN

def test_pgxn_accepts_the_metadata():
    """By the specification: https://pgxn.org/meta/spec.txt"""
    meta = json.loads((ROOT / "META.json").read_text())
    assert {"name", "abstract", "version", "maintainer", "license", "provides", "meta-spec"} <= meta.keys()
    assert meta.keys() <= {"name", "abstract", "version", "maintainer", "license", "provides", "meta-spec", "description",
                           "generated_by", "tags", "no_index", "prereqs", "release_status", "resources"}
    assert re.fullmatch(r"[^/\\\s]{2,}", meta["name"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", meta["version"])
    assert meta["license"] == "postgresql"
    assert meta["release_status"] in ("stable", "testing", "unstable")
    assert re.fullmatch(r".+ <\S+@\S+>", meta["maintainer"])
    assert all(2 <= len(tag) < 256 and not re.search(r"[/\\\x00-\x1f]", tag) for tag in meta["tags"])
    assert len(set(meta["tags"])) == len(meta["tags"])
    assert meta["meta-spec"]["version"] == "1.0.0"
    assert meta["prereqs"]["runtime"]["requires"]["PostgreSQL"] == f"{min(majors())}.0.0"
    (name, extension), = meta["provides"].items()
    assert name == "keysmith" and extension["version"] == meta["version"]
    assert extension["abstract"] == re.search(r"^comment = '(.*)'$", (ROOT / "keysmith.control").read_text(), re.M)[1]
    for what in ("file", "docfile"):
        assert (ROOT / extension[what]).is_file()


def majors():
    return [int(major) for major in re.findall(r"^pg(\d+) = ", (ROOT / "Cargo.toml").read_text(), re.M)]


def test_the_source_is_packed_the_same_each_time_and_has_what_is_built(clone):
    packed = []
    for _ in range(2):
        run(clone, "make", "dist", TZ="Asia/Tokyo" if packed else "UTC")
        packed.append((clone.parent / f"target/dist/keysmith-{versions.current()}.zip").read_bytes())
        (clone / "not committed").touch()
    assert packed[0] == packed[1]
    with zipfile.ZipFile(clone.parent / f"target/dist/keysmith-{versions.current()}.zip") as archive:
        names = archive.namelist()
        archive.extractall(clone.parent / "unpacked")
        assert (archive.getinfo(f"keysmith-{versions.current()}/scripts/setup.sh").external_attr >> 16) & 0o111
    assert {name.split("/")[0] for name in names} == {f"keysmith-{versions.current()}"}
    unpacked = clone.parent / f"unpacked/keysmith-{versions.current()}"
    files = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    assert files == set(git(clone, "ls-files").split("\n")) - {""}
    assert {"META.json", "Makefile", "Cargo.lock", "keysmith.control", "LICENSE", "README.md", "pg_test/run",
            "sql/install/verdict.sql", f"sql/keysmith--{versions.current()}.sql"} <= files
    # The targets that PGXN's client calls.
    for target in ("all", "install", "installcheck"):
        run(unpacked, "make", "--dry-run", target)


# A release

def test_a_release_is_committed_tagged_and_packed(clone):
    before = git(clone, "rev-parse", "HEAD").strip()
    items = re.search(r"## \[Unreleased\]\n(.*?)(?=^## |\Z)", (clone / "CHANGELOG.md").read_text(), re.S | re.M)[1].strip()
    release(clone, "98.0.0")
    assert git(clone, "status", "--porcelain") == ""
    assert git(clone, "log", "--format=%s", f"{before}..HEAD") == "Release 98.0.0\n"
    assert git(clone, "cat-file", "-t", "v98.0.0") == "tag\n"
    assert git(clone, "rev-parse", "v98.0.0^{}") == git(clone, "rev-parse", "HEAD")

    # The version is everywhere.
    assert run(clone, "scripts/version.py").strip() == "98.0.0"
    assert run(clone, "scripts/release.py", "check") == ""
    assert "default_version = '98.0.0'" in (clone / "keysmith.control").read_text()
    assert json.loads((clone / "META.json").read_text())["provides"]["keysmith"]["version"] == "98.0.0"
    assert json.loads(run(clone, "cargo", "metadata", "--offline", "--locked", "--no-deps", "--format-version", "1"))[
        "packages"][0]["version"] == "98.0.0"
    assert "This is version 98.0.0" in (clone / "README.md").read_text()
    assert versions.current() not in (clone / "README.md").read_text()

    # The changelog has the items below the version, and nothing above it.
    assert re.search(r"## \[Unreleased\]\n\n## \[98\.0\.0\] - \d{4}-\d\d-\d\d\n", (clone / "CHANGELOG.md").read_text())
    assert run(clone, "scripts/release.py", "notes", "98.0.0").strip() == items

    # The install script is that of before, and frozen.
    assert [path.name for path in (clone / "sql").glob("keysmith--*.sql")] == ["keysmith--98.0.0.sql"]
    assert (clone / "sql/keysmith--98.0.0.sql").read_bytes() == (versions.SQL / f"keysmith--{versions.current()}.sql").read_bytes()
    run(clone / "sql", "sha256sum", "--check", "released.sha256")

    # What is published.
    assert {path.name for path in results(clone, "98.0.0").iterdir()} == {"keysmith-98.0.0.zip", "NOTES.md", "SHA256SUMS"}
    run(results(clone, "98.0.0"), "sha256sum", "--check", "SHA256SUMS")
    with zipfile.ZipFile(results(clone, "98.0.0") / "keysmith-98.0.0.zip") as archive:
        assert archive.comment.decode() == git(clone, "rev-parse", "HEAD").strip()
        assert json.loads(archive.read("keysmith-98.0.0/META.json"))["version"] == "98.0.0"


def test_a_dry_run_changes_nothing(clone):
    before = git(clone, "rev-parse", "HEAD"), git(clone, "tag")
    release(clone, "98.0.0", "--dry-run")
    assert (git(clone, "rev-parse", "HEAD"), git(clone, "tag")) == before
    assert git(clone, "status", "--porcelain") == ""
    assert (results(clone, "98.0.0") / "SHA256SUMS").exists()


def test_the_next_release_keeps_the_scripts_of_the_one_before(clone):
    release(clone, "98.0.0")
    assert "v98.0.0 is tagged already" in refused(clone, "98.0.0")
    change(clone, "CHANGELOG.md", "## [Unreleased]\n", "## [Unreleased]\n\n- More.\n")
    commit(clone)

    # Nothing of the schema has changed: the upgrade is empty.
    release(clone, "98.0.1")
    scripts = {path.name for path in (clone / "sql").glob("keysmith--*.sql")}
    assert scripts == {"keysmith--98.0.0.sql", "keysmith--98.0.1.sql", "keysmith--98.0.0--98.0.1.sql"}
    assert {line.split()[1] for line in (clone / "sql/released.sha256").read_text().splitlines()} == scripts
    assert run(clone, "scripts/release.py", "notes", "98.0.1").strip() == "- More."

    # The script of a released version is not written again.
    written = (clone / "sql/keysmith--98.0.1.sql").read_text()
    assert "is released: scripts/version.py set VERSION" in make_script(clone, written + "CREATE TABLE keysmith.more ();\n").stdout
    assert make_script(clone, written).returncode == 0
    assert git(clone, "status", "--porcelain") == ""

    # With a change, the upgrade is written by hand, for the version that comes next.
    run(clone, "scripts/version.py", "set", "98.1.0")
    assert make_script(clone, written + "CREATE TABLE keysmith.more ();\n").returncode == 0
    change(clone, "CHANGELOG.md", "## [Unreleased]\n", "## [Unreleased]\n\n- Even more.\n")
    commit(clone)
    assert "no script leads from 98.0.1 to 98.1.0" in refused(clone, "98.1.0")
    (clone / "sql/keysmith--98.0.1--98.1.0.sql").write_text("CREATE TABLE keysmith.more ();\n")
    commit(clone)
    # It may be released by another number.
    release(clone, "99.0.0")
    assert {path.name for path in (clone / "sql").glob("keysmith--*.sql")} - scripts == {
        "keysmith--99.0.0.sql", "keysmith--98.0.1--99.0.0.sql"}
    assert run(clone, "scripts/release.py", "check") == ""


# What stops one: a change of the tree, and what is said

def uncommitted(folder):
    (folder / "new file").touch()


def other_version(folder):
    change(folder, "META.json", f'"version": "{versions.current()}"', '"version": "7.7.7"')


def unknown_place(folder):
    change(folder, "docs/installing.md", "# Installing\n", f"# Installing\n\nWe speak of {versions.current()} here.\n")


def nothing_new(folder):
    text = (folder / "CHANGELOG.md").read_text()
    (folder / "CHANGELOG.md").write_text(re.sub(r"## \[Unreleased\]\n.*?(?=^## |\Z)", "## [Unreleased]\n", text, flags=re.S | re.M))


def reminder(folder):
    change(folder, "LICENSE", "PostgreSQL License\n", "PostgreSQL License\n\n" + "TO" + "DO: more\n")


def bad_licence(folder):
    change(folder, "deny.toml", '    "Zlib",\n', "")


def lost_script(folder):
    (folder / f"sql/keysmith--{versions.current()}.sql").unlink()


def changed_script(folder):
    release(folder, "97.0.0")
    with open(folder / "sql/keysmith--97.0.0.sql", "a") as script:
        script.write("-- a change\n")


STOPS = [
    (uncommitted, "not committed: ?? \"new file\""),
    (other_version, "META.json, line 5: 7.7.7 is not"),
    (unknown_place, "docs/installing.md, line 3"),
    (nothing_new, "nothing is under Unreleased"),
    (reminder, "work is left: LICENSE:3"),
    (bad_licence, "deny.toml does not accept the licence of foldhash: Zlib"),
    (lost_script, f"sql/keysmith--{versions.current()}.sql is missing"),
    (changed_script, "sql/keysmith--97.0.0.sql is released, and was changed"),
]


@pytest.mark.parametrize("spoil, said", STOPS, ids=[spoil.__name__ for spoil, _ in STOPS])
def test_a_tree_that_is_not_whole_is_not_released(clone, spoil, said):
    spoil(clone)
    if spoil is not uncommitted:
        commit(clone)
    assert said in refused(clone)


@pytest.mark.parametrize("arguments", [[], ["1.2"], ["1.2.3-rc1"], ["--all"], ["v1.2.3"]])
def test_a_version_has_three_numbers(clone, arguments):
    done = run(clone, "scripts/release.sh", *arguments, check=False)
    assert done.returncode != 0 and "usage: release.sh VERSION" in done.stdout
