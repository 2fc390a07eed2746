"""The Dockerfile names files, stages and packages that exist."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "Dockerfile"


def instructions():
    """Each instruction: its name, and the rest of its lines."""
    lines = [line for line in FILE.read_text().splitlines() if line.strip() and not line.startswith("#")]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        name, _, rest = line.partition(" ")
        yield name, rest


class Stage:
    def __init__(self, rest, before):
        self.base, keyword, self.name = rest.split()
        assert keyword == "AS", rest
        self.before = {stage.name for stage in before}
        self.steps = []


def read():
    """The arguments of the whole file, and its stages."""
    arguments, stages = {}, []
    for name, rest in instructions():
        if name == "FROM":
            stages.append(Stage(rest, stages))
        elif stages:
            stages[-1].steps.append((name, rest))
        else:
            assert name == "ARG"
            arguments.update([rest.split("=")])
    return arguments, stages


ARGUMENTS, STAGES = read()


def variables(text):
    return set(re.findall(r"\$\{?([A-Z_]+)", text))


def test_each_variable_is_an_argument_of_its_stage_with_a_default():
    assert all(ARGUMENTS.values())
    for stage in STAGES:
        assert variables(stage.base) <= ARGUMENTS.keys(), stage.base
        known = {"PATH"}
        for name, rest in stage.steps:
            assert variables(rest) <= known, rest
            if name == "ARG":
                assert rest in ARGUMENTS, rest
                known.add(rest)
            elif name == "ENV":
                known |= set(re.findall(r"(\w+)=", rest))


def test_base_images_are_pinned_to_versions():
    for stage in STAGES:
        assert stage.base == "scratch" or re.fullmatch(r"(rust|postgres):\$\{\w+\}-(slim-)?\$\{DEBIAN\}", stage.base), stage.base
    needed = re.search(r'^rust-version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.M)[1]
    assert re.fullmatch(rf"{re.escape(needed)}\.\d+", ARGUMENTS["RUST"])
    assert f"pg{ARGUMENTS['PG_MAJOR']} = " in (ROOT / "Cargo.toml").read_text()


def test_what_is_copied_exists():
    made = {"/usr/local/cargo", "/usr/local/rustup"}
    for stage in STAGES:
        for name, rest in stage.steps:
            if name == "RUN":
                made |= {words[-1] for part in rest.split("&&") if (words := shlex.split(part))[0] == "mv"}
            elif name == "COPY":
                words = rest.split()
                if words[0].startswith("--from="):
                    assert words[0].removeprefix("--from=") in stage.before, rest
                    assert any(words[1] == path or words[1].startswith(path + "/") for path in made), rest
                else:
                    assert all((ROOT / source).exists() for source in words[:-1]), rest


def test_the_image_volume_has_the_folders_of_the_layout():
    (stage,) = (stage for stage in STAGES if stage.name == "image-volume")
    copied = {tuple(rest.split()[1:]) for name, rest in stage.steps if name == "COPY"}
    layout = (ROOT / "scripts/image-layout.sh").read_text()
    folders = re.search(r'rm -rf "\$FOLDER"/\{(.*)\}', layout)[1].split(",")
    assert copied == {(f"/image/{folder}", f"/{folder}") for folder in folders}


def test_what_is_run_is_made_by_the_makefile():
    (stage,) = (stage for stage in STAGES if stage.name == "build")
    makefile = (ROOT / "Makefile").read_text()
    called = [part.split()[1:] for name, rest in stage.steps if name == "RUN" for part in rest.split("&&") if part.split()[0] == "make"]
    targets = [target for targets in called for target in targets]
    assert {"deb", "image-layout"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M), target
    # The Makefile puts it there, and then it is moved.
    assert "$(BUILD)/../image/$(pg_major)" in makefile


def test_servers_do_not_run_as_root_and_preload_the_library():
    for stage in STAGES[-2:]:
        assert [rest for name, rest in stage.steps if name == "USER"][-1] not in ("root", "0")
    (server,) = (stage for stage in STAGES if stage.name == "server")
    assert STAGES[-1] is server
    run = " ".join(rest for name, rest in server.steps if name == "RUN")
    assert "shared_preload_libraries = 'keysmith'" in run
    assert '"/packages/postgresql-${PG_MAJOR}-keysmith"_*.deb' in run


@pytest.mark.parametrize("name", ["target/release/libkeysmith.so", ".git/HEAD", "benches/frameworks/node_modules/x"])
def test_builds_do_not_get_what_is_built_here(name):
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    parts = name.split("/")
    assert any(rule == parts[0] or rule.removeprefix("**/") in parts for rule in ignored)


def test_what_is_built_is_not_left_out():
    for name in ("Cargo.lock", "LICENSE", "keysmith.control", "sql", "debian", "scripts"):
        assert name not in (ROOT / ".dockerignore").read_text().split(), name
