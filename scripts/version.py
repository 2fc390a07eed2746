#!/usr/bin/env python3
"""The version, and the other places that name it. Cargo.toml has the version.

    version.py               prints it
    version.py check         prints each place that names another one
    version.py set VERSION   writes it everywhere, and renames the scripts that are not released
"""

import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SQL = ROOT / "sql"
# The install and upgrade scripts of released versions, with their checksums.
RELEASED = SQL / "released.sha256"
NUMBER = r"\d+\.\d+\.\d+"

# A file, and a pattern whose group is the version.
PLACES = [
    ("Cargo.toml", rf'^version = "({NUMBER})"$'),
    ("Cargo.lock", rf'^name = "keysmith(?:-\w+)?"\nversion = "({NUMBER})"$'),
    ("fuzz/Cargo.lock", rf'^name = "keysmith-core"\nversion = "({NUMBER})"$'),
    ("keysmith.control", rf"^default_version = '({NUMBER})'$"),
    # Not that of the form of the file, which is deeper than the one and higher than the other.
    ("META.json", rf'^(?:  |      )"version": "({NUMBER})",?$'),
    ("META.json", rf"sql/keysmith--({NUMBER})\.sql"),
    ("clients/python/pyproject.toml", rf'^version = "({NUMBER})"$'),
    ("clients/node/package.json", rf'^  "version": "({NUMBER})",$'),
    ("clients/portal/package.json", rf'^  "version": "({NUMBER})",$'),
]
DEBIAN = ("debian/changelog", rf"\Akeysmith \(({NUMBER})-\d+\)")
# What documents call it by. A table's column keeps its width.
DOCUMENT = (rf"\bkeysmith(?:--|[-:_ ])({NUMBER})\b|\b[Vv]ersion:? ({NUMBER})\b(?: as the extension *\|)?"
            rf"|\"version\": \"({NUMBER})\"")


def current():
    return re.search(PLACES[0][1], (ROOT / "Cargo.toml").read_text(), re.M)[1]


def documents():
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md")),
             *sorted((ROOT / "clients").glob("*/README.md"))]
    return [str(path.relative_to(ROOT)) for path in found if path.exists()]


def places():
    named = [*PLACES, DEBIAN, *((name, DOCUMENT) for name in documents())]
    return [(name, pattern) for name, pattern in named if (ROOT / name).exists()]


def versions_in(name, pattern):
    """The line and the version of each place in a file."""
    text = (ROOT / name).read_text()
    for match in re.finditer(pattern, text, re.M):
        number = match.lastindex
        yield text.count("\n", 0, match.start(number)) + 1, match[number]


def problems():
    """What does not agree with the version."""
    version = current()
    for name, pattern in places():
        found = list(versions_in(name, pattern))
        if not found and pattern != DOCUMENT:
            yield f"{name} names no version"
        for line, other in found:
            if other != version:
                yield f"{name}, line {line}: {other} is not {version}"
    # A place that `set` would overlook.
    for name in documents():
        known = {line for line, _ in versions_in(name, DOCUMENT)}
        for line, _ in versions_in(name, rf"(?<![\d.])({re.escape(version)})(?![\d.])"):
            if line not in known:
                yield f"{name}, line {line}: {version} is in words that scripts/version.py does not know"
    if not (SQL / f"keysmith--{version}.sql").exists():
        yield f"sql/keysmith--{version}.sql is missing"


def released():
    """The checksums of released scripts, by their names."""
    lines = RELEASED.read_text().splitlines() if RELEASED.exists() else []
    return {name: checksum for checksum, name in (line.split() for line in lines)}


def name_in_package(old, new):
    """The package's changelog refers to ours. If the old version is not released, its entry becomes the new one's."""
    path = ROOT / DEBIAN[0]
    if not path.exists() or old == new:
        return
    entries = path.read_text()
    if f"keysmith--{old}.sql" in released():
        end = re.search(r"^ -- .*$", entries, re.M)[0]
        entries = f"keysmith ({new}-1) unstable; urgency=medium\n\n  * The changes are in CHANGELOG.md.\n\n{end}\n\n{entries}"
    else:
        entries = re.sub(DEBIAN[1], f"keysmith ({new}-1)", entries)
    path.write_text(entries)


def set_version(new):
    old = current()
    if not re.fullmatch(NUMBER, new):
        raise SystemExit(f"a version has the form 1.2.3, and {new} does not")

    def replaced(match):
        number = match.lastindex
        start, end = match.start(number) - match.start(), match.end(number) - match.start()
        text = match[0][:start] + new + match[0][end:]
        return text[:-1].rstrip().ljust(len(match[0]) - 1) + "|" if text.endswith("|") else text

    for name, pattern in places():
        if name != DEBIAN[0]:
            path = ROOT / name
            path.write_text(re.sub(pattern, replaced, path.read_text(), flags=re.M))
    name_in_package(old, new)
    frozen = released()
    for path in sorted(SQL.glob(f"keysmith--*{old}.sql")):
        if path.name.removesuffix(".sql").split("--")[-1] == old and old != new:
            other = path.with_name(path.name.removesuffix(f"{old}.sql") + f"{new}.sql")
            if path.name not in frozen:
                path.rename(other)
            elif path.name == f"keysmith--{old}.sql":
                shutil.copyfile(path, other)


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            print(current())
        case ["check"]:
            found = list(problems())
            print("\n".join(found), end="\n" if found else "")
            sys.exit(bool(found))
        case ["set", version]:
            set_version(version)
        case _:
            raise SystemExit("usage: version.py [check | set VERSION]")
