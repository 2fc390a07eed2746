#!/usr/bin/env python3
"""Checks that dependencies point down: no file imports one that imports it, directly or
through others, and no room imports from a room above it. Files of SQL are named after rooms. See
docs/architecture.md. One file of the code and one of the tests know PostgreSQL's majors."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# From the bottom up. Rooms in one line may not import from each other.
LAYERS = [
    ["settings", "random"],
    ["request_id"],
    ["secret_file"],
    ["pepper", "signing"],
    ["catalog", "limit"],
    ["verdict", "lag"],
    ["usage", "audit", "rows"],
    ["ledger"],
    ["decide"],
    ["identity"],
    ["calls", "manage", "tracking"],
    ["serve"],
    ["transaction", "install"],
    ["lib"],
]
# Files of SQL that belong to no room.
WHOLE = ["schema", "privileges"]
# The files that know how PostgreSQL's majors differ, and where no other file may.
MAJORS = {
    "pg/src/major.rs": ["src", "pg/src", "core/src", "sql/install"],
    "tests/majors.py": ["tests", "fuzz", "history"],
}
MAJOR = re.compile(r'feature *= *"pg\d|\bserver_version|\bPG_(VERSION|MAJORVERSION)')
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}


def modules(source):
    """Names of modules by path, as crate::a::b has them, with their files."""
    found = {}
    for file in source.rglob("*.rs"):
        parts = list(file.relative_to(source).with_suffix("").parts)
        found["::".join(parts[:-1] if parts[-1] == "mod" else parts)] = file
    return found


def paths(text):
    """Every path in a use declaration or in the code."""
    text = re.sub(r"//.*", "", text)
    for tree in re.findall(r"\buse\s+([^;]+);", text):
        yield from expanded(re.sub(r"\s+", "", re.sub(r"\s+as\s+\w+", "", tree)))
    yield from re.findall(r"\b(?:crate|super|self)(?:::\w+)+", text)


def expanded(tree):
    """a::{b, c::{d}} as a::b and a::c::d."""
    head, brace, rest = tree.partition("{")
    if not brace:
        yield tree
        return
    depth, item = 0, ""
    for char in rest[:rest.rindex("}")] + ",":
        if char == "," and depth == 0:
            if item:
                yield from (head + path for path in expanded(item))
            item = ""
            continue
        depth += {"{": 1, "}": -1}.get(char, 0)
        item += char


def imports(name, file, known):
    """The modules that a file imports from."""
    is_folder = file.name in ("mod.rs", "lib.rs")
    here = [] if name == "lib" else name.split("::")
    found = set()
    for path in paths(file.read_text()):
        parts = path.split("::")
        place = list(here if is_folder else here[:-1])
        if parts[0] == "crate":
            place = []
        elif parts[0] == "self":
            place = list(here)
        elif parts[0] == "super":
            place = list(here[:-1])
            while parts[1:2] == ["super"]:
                place, parts = place[:-1], parts[1:]
        else:
            continue
        parts = place + parts[1:]
        target = next((t for n in range(len(parts), 0, -1) if (t := "::".join(parts[:n])) in known), None)
        if target and target != name:
            found.add(target)
    return found


def circle(graph):
    """The files of an import cycle, if there is one."""
    done, way = set(), []

    def visit(name):
        if name in way:
            return [*way[way.index(name):], name]
        if name in done:
            return None
        way.append(name)
        for target in sorted(graph[name]):
            if found := visit(target):
                return found
        done.add(way.pop())
        return None

    return next((found for name in sorted(graph) if (found := visit(name))), None)


def problems(source, ranks):
    known = modules(source)
    graph = {name: imports(name, file, known) for name, file in known.items()}
    for name, targets in sorted(graph.items()):
        room = name.split("::")[0]
        if ranks and room not in ranks:
            yield f"{known[name]}: {room} is in no layer: give it a line in {Path(__file__).name}"
            continue
        for target in sorted(targets):
            other = target.split("::")[0]
            if ranks and other != room and ranks.get(other, -1) >= ranks[room]:
                yield (f"{known[name]} imports {target}, which is not below it. Move what both need down, "
                       f"or hand it in as an argument.")
    if way := circle(graph):
        yield (f"{known[way[0]]} imports itself: {' -> '.join(way)}. Move what they share into a file of "
               f"its own, below both.")


def callbacks(source):
    """PostgreSQL's errors must not unwind through frames of C: macros declare the functions that
    PostgreSQL calls."""
    for file in source.rglob("*.rs"):
        for number, line in enumerate(file.read_text().splitlines(), 1):
            if 'extern "C-unwind" fn' in line and "_PG_init" not in line:
                yield (f"{file}:{number}: PostgreSQL calls this past the guard: declare it by a macro of the "
                       f"crate keysmith-pg")


def majors(root):
    """Code that depends on PostgreSQL's major version, outside the file for that."""
    for home, folders in MAJORS.items():
        files = (file for folder in folders for file in sorted((root / folder).rglob("*")))
        for file in files:
            if file.suffix in (".rs", ".sql", ".py") and file != root / home:
                for number, line in enumerate(file.read_text().splitlines(), 1):
                    if MAJOR.search(line):
                        yield f"{file}:{number}: only {home} knows PostgreSQL's majors: give it a name there"


def strangers(folder):
    """Files of SQL whose name, or whose folder's, is that of no room."""
    for file in sorted(folder.rglob("*.sql")):
        room = file.relative_to(folder).with_suffix("").parts[0]
        if room not in RANK and room not in WHOLE:
            yield f"{file}: {room} is no room of src/: name it after the room whose code it is for"


def main(root):
    found = [*problems(root / "src", RANK), *problems(root / "pg/src", None), *callbacks(root / "src"),
             *strangers(root / "sql/install"), *majors(root)]
    for problem in found:
        print(problem)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT))
