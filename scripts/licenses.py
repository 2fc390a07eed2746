#!/usr/bin/env python3
"""Prints the licences of the libraries that are linked into ours, each text once.

    licenses.py FEATURE        such as pg18

It needs no network: the libraries' sources are where Cargo has put them. Equal sources give an
equal text.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAMES = re.compile(r"(licen[cs]es?|copying|copyright|notice|unlicense)\b", re.I)
# Some packages come without a text: then their authors and the text that their licence names.
MIT = """\
Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""
STANDARD_LIBRARY = ("The Rust standard library", "MIT OR Apache-2.0", ["The Rust Project contributors"])


def linked(feature, *platforms):
    """The packages that the library is linked from, on this machine's platform or on those given:
    what it depends on, without the programs and the macros that only the build runs."""
    where = [f"--filter-platform={platform}" for platform in platforms] or [f"--filter-platform={host()}", "--offline"]
    command = [os.environ.get("CARGO", "cargo"), "metadata", "--format-version", "1", "--locked",
               "--no-default-features", "--features", feature, *where]
    metadata = json.loads(subprocess.check_output(command, cwd=ROOT))
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    found, waiting = set(), [metadata["resolve"]["root"]]
    while waiting:
        package = waiting.pop()
        is_macro = any("proc-macro" in target["kind"] for target in packages[package]["targets"])
        if package not in found and not is_macro:
            found.add(package)
            waiting += [needed["pkg"] for needed in nodes[package]["deps"]
                        if any(kind["kind"] is None for kind in needed["dep_kinds"])]
    # Those without a source are ours.
    return sorted((packages[package] for package in found if packages[package]["source"]),
                  key=lambda package: (package["name"], package["version"]))


def host():
    printed = subprocess.check_output([os.environ.get("RUSTC", "rustc"), "-vV"], text=True)
    return re.search(r"^host: (.*)$", printed, re.M)[1]


def texts(package):
    """The texts of a package's files, in the order of their names."""
    folder = Path(package["manifest_path"]).parent
    files = []
    for entry in sorted(folder.iterdir()):
        if NAMES.match(entry.name):
            files += sorted(entry.rglob("*")) if entry.is_dir() else [entry]
    return [file.read_text(encoding="utf-8").strip("\n") + "\n" for file in files if file.is_file()]


def of_authors(name, license, authors):
    if "MIT" not in re.split(r"[ /()]+", license) or not authors:
        raise SystemExit(f"{name} comes without a licence text: {license}")
    return "".join(f"Copyright (c) {re.sub(r' *<.*>', '', author)}\n" for author in authors) + "\n" + MIT


def printed(packages):
    """A list of the packages, and then each text below the packages that have it."""
    names, owners = [], {}
    for package in packages:
        name = f"{package['name']} {package['version']}"
        names.append((name, package["license"]))
        for text in texts(package) or [of_authors(name, package["license"], package["authors"])]:
            owners.setdefault(text, []).append(name)
    names.append(STANDARD_LIBRARY[:2])
    owners.setdefault(of_authors(*STANDARD_LIBRARY), []).append(STANDARD_LIBRARY[0])
    lines = ["These libraries are linked into keysmith, with their licences. The texts follow.", ""]
    lines += [f"  {name}: {license}" for name, license in names]
    for text, having in owners.items():
        lines += ["", "-" * 78, ", ".join(having), "-" * 78, "", text.rstrip("\n")]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: licenses.py FEATURE")
    sys.stdout.write(printed(linked(sys.argv[1])))
