#!/usr/bin/env python3
"""What a release needs of the tree, and what it changes in it. release.sh calls it.

    release.py check               prints what stops a release of this tree
    release.py prepare VERSION     makes this tree that of the version, dated today
    release.py notes VERSION       prints the version's section of the changelog
"""

import datetime
import hashlib
import re
import subprocess
import sys

import licenses
import version as versions
from version import ROOT, SQL

CHANGELOG = ROOT / "CHANGELOG.md"
UNRELEASED = "## [Unreleased]\n"
REMINDERS = "TODO|FIXME|XXX"


def git(*arguments, check=True):
    return subprocess.run(["git", *arguments], cwd=ROOT, check=check, text=True, stdout=subprocess.PIPE).stdout


def section(heading):
    """The text below a heading of the changelog, or None."""
    found = re.search(rf"^## \[{re.escape(heading)}\](.*)\n((?:(?!## ).*\n)*)", CHANGELOG.read_text(), re.M)
    return found and (found[1], found[2].strip())


def is_clean():
    for line in git("status", "--porcelain").splitlines():
        yield f"not committed: {line}"


def changelog():
    """It tells of the version, with a date, or of what is to be released."""
    version = versions.current()
    dated = section(version)
    if dated:
        if not re.fullmatch(r" - \d{4}-\d\d-\d\d", dated[0]):
            yield f"CHANGELOG.md: the section of {version} has no date"
        if not dated[1]:
            yield f"CHANGELOG.md: the section of {version} is empty"
    elif f"keysmith--{version}.sql" in versions.released():
        yield f"CHANGELOG.md has no section of {version}, which is released"
    elif not (section("Unreleased") or ("", ""))[1]:
        yield "CHANGELOG.md: nothing is under Unreleased"


def checksum(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def frozen():
    """Scripts of released versions never change."""
    for name, expected in versions.released().items():
        path = SQL / name
        if not path.exists():
            yield f"sql/{name} is released, and missing"
        elif checksum(path) != expected:
            yield f"sql/{name} is released, and was changed: scripts/version.py set VERSION begins the next one"


def scripts():
    """What each script installs or upgrades: [version] or [from, to]."""
    return [path.name.removesuffix(".sql").split("--")[1:] for path in SQL.glob("keysmith--*.sql")]


def roads():
    """Every released version can be upgraded to this one."""
    steps = {tuple(step) for step in scripts() if len(step) == 2}
    reached = {versions.current()}
    while more := {start for start, end in steps if end in reached} - reached:
        reached |= more
    for name, in (step for step in scripts() if len(step) == 1):
        if name not in reached:
            yield f"no script leads from {name} to {versions.current()}: sql/keysmith--{name}--{versions.current()}.sql"


def reminders():
    """Of work that is left."""
    for line in git("grep", "-wnIE", REMINDERS, "--", ".", ":!scripts/release.py", check=False).splitlines():
        yield f"work is left: {line}"


def licences():
    """Each library that is linked in has a licence that we accept, and its text."""
    if "PostgreSQL License" not in (ROOT / "LICENSE").read_text():
        yield "LICENSE is not the PostgreSQL License"
    accepted = set(re.findall(r'^    "(.*)",$', (ROOT / "deny.toml").read_text(), re.M))
    features = re.findall(r"^(pg\d+) = ", (ROOT / "Cargo.toml").read_text(), re.M)
    packages = licenses.linked(features[-1])
    for package in packages:
        # Of `A OR B` one is enough, of `A AND B` both are needed.
        needed = [set(re.split(r" OR |/", part.strip(" ()"))) for part in package["license"].split(" AND ")]
        if not all(choice & accepted for choice in needed):
            yield f"deny.toml does not accept the licence of {package['name']}: {package['license']}"
    licenses.printed(packages)


CHECKS = [is_clean, versions.problems, changelog, frozen, roads, reminders, licences]


# The changes

def prepare(version):
    old, frozen_before = versions.current(), versions.released()
    if f"keysmith--{version}.sql" in frozen_before or section(version):
        raise SystemExit(f"{version} is released already")
    versions.set_version(version)
    today = datetime.datetime.now(datetime.timezone.utc)
    date_changelog(version, today)
    date_package(today)
    if f"keysmith--{old}.sql" in frozen_before:
        step_without_changes(old, version)
    freeze()


def date_changelog(version, today):
    text = CHANGELOG.read_text()
    assert UNRELEASED in text
    CHANGELOG.write_text(text.replace(UNRELEASED, f"{UNRELEASED}\n## [{version}] - {today:%Y-%m-%d}\n", 1))


def date_package(today):
    path = ROOT / versions.DEBIAN[0]
    if path.exists():
        path.write_text(re.sub(r"^( -- .*>  ).*$", rf"\g<1>{today:%a, %d %b %Y %H:%M:%S} +0000", path.read_text(), count=1, flags=re.M))


def step_without_changes(old, version):
    """If both install scripts are the same, the upgrade is empty."""
    step = SQL / f"keysmith--{old}--{version}.sql"
    if not step.exists() and checksum(SQL / f"keysmith--{old}.sql") == checksum(SQL / f"keysmith--{version}.sql"):
        step.write_text(f"-- {version} has the objects of {old}: only the library is newer.\n")


def freeze():
    """All scripts are of released versions now."""
    lines = [f"{checksum(path)}  {path.name}\n" for path in sorted(SQL.glob("keysmith--*.sql"))]
    versions.RELEASED.write_text("".join(lines))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["check"]:
            found = [problem for check in CHECKS for problem in check()]
            print("\n".join(found), end="\n" if found else "")
            sys.exit(bool(found))
        case ["prepare", version]:
            prepare(version)
        case ["notes", version]:
            print((section(version) or ("", ""))[1])
        case _:
            raise SystemExit("usage: release.py check | prepare VERSION | notes VERSION")
