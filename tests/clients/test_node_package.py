"""The package for Node as it is published: its files, its entries, its types, and its own tests."""

import json
import subprocess

import pytest

from node_project import ROOT, Project

PACKAGE = ROOT / "clients/node"
MANIFEST = json.loads((PACKAGE / "package.json").read_text())
ENTRIES = [name.replace(".", "keysmith", 1) for name in MANIFEST["exports"] if name != "./package.json"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """An empty folder into which the packed package was installed, and nothing else."""
    folder = tmp_path_factory.mktemp("packed")
    packed = json.loads(run(["npm", "pack", "--json", "--pack-destination", folder], PACKAGE))[0]
    project = folder / "project"
    project.mkdir()
    (project / "package.json").write_text('{"private": true}')
    run(["npm", "install", "--offline", "--no-audit", "--no-fund", "--ignore-scripts", "--omit=peer", "--legacy-peer-deps",
         folder / packed["filename"]], project)
    return project, [file["path"] for file in packed["files"]]


def run(command, folder):
    done = subprocess.run(list(map(str, command)), cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_what_is_packed(installed):
    _, files = installed
    sources = {str(path.relative_to(PACKAGE)) for path in (PACKAGE / "src").iterdir()}
    assert set(files) == sources | {"package.json", "README.md"}
    for name, entry in MANIFEST["exports"].items():
        for path in [entry] if isinstance(entry, str) else entry.values():
            assert path.removeprefix("./") in files, name


def test_it_needs_nothing_else(installed):
    project, _ = installed
    assert "dependencies" not in MANIFEST
    assert [path.name for path in (project / "node_modules").iterdir() if not path.name.startswith(".")] == ["keysmith"]
    assert all(MANIFEST["peerDependenciesMeta"][name] == {"optional": True} for name in MANIFEST["peerDependencies"])


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if entry != "keysmith/drizzle"])
def test_each_entry_is_loaded_by_import_and_require(installed, entry):
    """Drizzle's own entry needs Drizzle: test_node_drizzle.py loads it."""
    project, _ = installed
    names = run(["node", "--input-type=module", "-e", f"console.log(Object.keys(await import('{entry}')).sort().join())"], project)
    required = run(["node", "--disable-warning=ExperimentalWarning", "-e", f"console.log(Object.keys(require('{entry}')).filter(n => n !== '__esModule').sort().join())"], project)
    assert names == required and names.strip()


def test_the_types_hold(tmp_path):
    project = Project(tmp_path, "node_types", "postgresql://nowhere")
    printed = project.run("node", "node_modules/typescript/bin/tsc", "--project", ".", check=False)
    # The declarations of other packages have faults of their own.
    ours = [line for line in printed.splitlines() if line.startswith(("sample.ts", "node_modules/keysmith", "error"))]
    assert not ours, "\n".join(ours)


def test_the_version_is_the_extensions():
    control = (ROOT / "keysmith.control").read_text()
    assert f"default_version = '{MANIFEST['version']}'" in control


def test_its_own_tests():
    printed = run(["node", "--test", *sorted((PACKAGE / "test").glob("*.test.js"))], PACKAGE)
    assert "# fail 0" in printed and "# pass 0" not in printed
