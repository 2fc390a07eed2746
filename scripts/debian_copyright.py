#!/usr/bin/env python3
"""Writes debian/copyright: debian/copyright.in, and the Rust libraries that are linked in.

With --check it only says whether the file is right.
"""

import re
import sys
from pathlib import Path

import licenses

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "debian/copyright"
MARK = "@LIBRARIES@\n"
# Debian's names, as far as they differ.
NAMES = {"MIT": "Expat", "OR": "or", "AND": "and", "/": "or"}
HOLDER = re.compile(r"^\W*Copyright\s+(?:(?:\(c\)|©)\s*)*(?=[^\s\[{])(.*?)[.\s]*$", re.I | re.M)
NOT_A_HOLDER = re.compile(r"notice|license|holder|owner|statement|assignment|^and\b|^[\d-]+$", re.I)
PLATFORMS = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"]


def license_of(package):
    words = re.findall(r"[\w.-]+|/|[()]", package["license"])
    text = " ".join(NAMES.get(word, word) for word in words)
    return re.sub(r"\( (.*?) \) and", r"\1, and", text)


def holders(package):
    folder, found = Path(package["manifest_path"]).parent, []
    for file in sorted(folder.glob("*")):
        if re.match(r"(licen[sc]e|copyright|notice)", file.name, re.I) and file.is_file():
            found += [holder for holder in HOLDER.findall(file.read_text(errors="replace"))
                      if not NOT_A_HOLDER.search(holder)]
    found, names = ([re.sub(r"\s*<.*", "", name) for name in names] for names in (found, package["authors"]))
    return list(dict.fromkeys(found)) or names or [f"The developers of {package['name']}"]


def stanza(package):
    copyrights = "\n           ".join(holders(package))
    return (f"Files: vendor/{package['name']}-{package['version']}/*\n"
            f"Copyright: {copyrights}\nLicense: {license_of(package)}\n")


def text():
    template = (ROOT / "debian/copyright.in").read_text()
    whole = template.replace(MARK, "\n".join(map(stanza, licenses.linked("pg15", *PLATFORMS))))
    texts = set(re.findall(r"^License: (\S+)\n ", whole, re.M))
    for terms in re.findall(r"^License: (.*)", whole, re.M):
        for name in re.split(r",? (?:and|or) ", terms):
            if name not in texts:
                sys.exit(f"debian/copyright.in lacks the text of the license {name}")
    return whole


if __name__ == "__main__":
    written = text()
    if sys.argv[1:] == ["--check"]:
        if FILE.read_text() != written:
            sys.exit("debian/copyright is stale: run scripts/debian_copyright.py")
    else:
        FILE.write_text(written)
