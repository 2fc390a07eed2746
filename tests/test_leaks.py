"""Leaked keys: patterns that find them, a hook that keeps them out of commits, and the effect of
a report."""

import json
import os
import random
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from psycopg.types.json import Jsonb

import examples

HOOK = Path(__file__).resolve().parent.parent / "examples/pre-commit/keysmith-pre-commit"
PLAIN = {"LC_ALL": "C", "PATH": os.environ["PATH"]}


def grep(pattern, text):
    done = subprocess.run(["grep", "-oE", pattern], input=text, capture_output=True, text=True, env=PLAIN)
    return done.stdout.splitlines()


@pytest.fixture
def keyspaces(db):
    """Keys of several keyspaces, by keyspace, and the regular expression of each."""
    db.call("create_keyspace", "studio", Jsonb({
        "secret": {"live": "studio_", "test": "studio_test_", "eu": "s_"}, "publishable": {"live": "pub_"}}))
    keys = {}
    for keyspace, environments in {"default": ["live", "test"], "studio": ["live", "test", "eu"]}.items():
        db.tenant(keyspace=keyspace)
        keys[keyspace] = [db.mint(keyspace=keyspace, environment=environment).api_key
                          for environment in environments for _ in range(5)]
    return keys, {row.keyspace: row.regex for row in db.call("scanner_patterns")}


def test_every_minted_key_is_matched_by_its_keyspaces_pattern_alone(db, keyspaces):
    keys, patterns = keyspaces
    assert set(patterns) == {"default", "studio"}
    for keyspace, pattern in patterns.items():
        other = next(name for name in keys if name != keyspace)
        for key in keys[keyspace]:
            for text in (key, f'API_KEY="{key}"', f"https://x/?k={key}&b=1", f"%20{key}%0A", f"({key})\\n",
                         f"key={key}"):
                # As scanners do: the first group is what they report.
                assert re.search(pattern, text)[1] == key
                assert db.value("SELECT (regexp_match(%s, %s))[1]", text, pattern) == key
                (found,) = grep(pattern, text)
                assert found.startswith(key) and len(found) <= len(key) + 1
        for key in keys[other] + [keys[keyspace][0][:-1], keys[keyspace][0] + "x", "ks_live_51H" + "x" * 90]:
            assert not re.search(pattern, key)
            assert not db.value("SELECT %s ~ %s", key, pattern) and not grep(pattern, key)


def test_what_patterns_there_are(db, keyspaces):
    _, patterns = keyspaces
    (row,) = db.call("scanner_patterns", "studio")
    assert row == ("studio", "keysmith-studio", patterns["studio"], patterns["studio"])
    # Publishable keys are not secret.
    assert "pub_" not in row.regex
    assert "does not exist" in db.refused("KS404", "scanner_patterns", "none")


def gitleaks(rule):
    (rule,) = tomllib.loads(rule)["rules"]
    return rule["id"], rule["regex"], rule["secretGroup"], rule["keywords"]


def trufflehog(rule):
    (rule,) = yaml.safe_load(rule)
    return rule["name"], rule["regex"]["key"], 1, rule["keywords"]


@pytest.mark.parametrize("read", [gitleaks, trufflehog])
def test_the_rules_of_scanners_find_keys_and_nothing_like_them(db, keyspaces, read):
    """Scanners look at a file only if it has a keyword; then they report the group."""
    keys, patterns = keyspaces
    for row in db.call("scanner_patterns", format=read.__name__):
        name, regex, group, keywords = read(row.rule)
        assert (name, regex) == (row.name, row.regex) and regex == patterns[row.keyspace]
        for key in keys[row.keyspace]:
            text = f"curl -H 'Authorization: Bearer {key}' https://example.com"
            assert re.search(regex, text)[group] == key and any(keyword in text.lower() for keyword in keywords)
            for near in (key[:-1], key + "x", key.replace("_", "-", 1), key[:20] + "." + key[21:], key.upper()):
                assert not re.search(regex, near)
        others = [key for keyspace, others in keys.items() if keyspace != row.keyspace for key in others]
        assert not any(re.search(regex, key) for key in others)
    for bad in ("grep", "", None):
        assert "format" in db.refused("KS400", "scanner_patterns", format=bad)


def test_gitleaks_itself_finds_them(db, keyspaces, tmp_path):
    """Its expressions are Go's, which have no backtracking."""
    program = examples.require("gitleaks") / "venv/bin/gitleaks"
    keys, _ = keyspaces
    rules = tmp_path / "rules.toml"
    rules.write_text("\n\n".join(row.rule for row in db.call("scanner_patterns", format="gitleaks")))
    source = tmp_path / "source"
    source.mkdir()
    for keyspace, minted in keys.items():
        near = [near for key in minted for near in (
            key[:-1], key + "x", key.replace("_", "-", 1), key[:20] + "." + key[21:], key.upper())]
        texts = {"config.py": [f'KEY = "{key}"' for key in minted], "url": [f"https://x/?k={key}&b=1" for key in minted],
                 "near": near, "last": minted[-1:]}
        for name, lines in texts.items():
            (source / f"{keyspace}-{name}").write_text("\n".join(lines))
    report = tmp_path / "report"
    subprocess.run([program, "dir", source, "--config", rules, "--report-path", report, "--report-format", "json",
                    "--exit-code", "0", "--no-banner", "--log-level", "error"], env=PLAIN, check=True)
    found = {}
    for leak in json.loads(report.read_text()):
        found.setdefault(Path(leak["File"]).name, set()).add((leak["RuleID"], leak["Secret"]))
    expected = {(keyspace, key): (f"keysmith-{keyspace}", key) for keyspace, minted in keys.items() for key in minted}
    assert found == {
        f"{keyspace}-{name}": {expected[keyspace, key] for key in (minted[-1:] if name == "last" else minted)}
        for keyspace, minted in keys.items() for name in ("config.py", "url", "last")}


def test_the_default_keyspace_has_one_before_its_first_key(db):
    (row,) = db.call("scanner_patterns")
    assert row.keyspace == "default" and "ks_live_" in row.regex and "pk_" not in row.regex
    assert db.call("scanner_patterns", "default") == [row]


def test_keys_of_a_former_prefix_are_matched(db, keyspaces):
    keys, _ = keyspaces
    db.call("alter_keyspace", "studio", Jsonb({"prefixes": {"secret": {"live": "atelier_", "test": "studio_test_"}}}))
    (row,) = db.call("scanner_patterns", "studio")
    assert all(re.search(row.regex, key) for key in keys["studio"])
    assert re.search(row.regex, db.mint(keyspace="studio").api_key)


# The hook

@pytest.fixture(params=[shell for shell in ("sh", "bash", "dash") if shutil.which(shell)])
def repository(request, tmp_path):
    """A repository with the hook, run by each installed shell."""
    def run(*command, check=True, **options):
        environment = PLAIN | {"HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1",
                               "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.com",
                               "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.com"}
        return subprocess.run(command, cwd=tmp_path, env=environment, check=check, capture_output=True,
                              text=True, **options)

    run("git", "init", "-q")
    hook = tmp_path / ".git/hooks/pre-commit"
    hook.write_text(f'#!/bin/sh\nexec {request.param} {HOOK} "$@"\n')
    hook.chmod(0o755)

    def commit(name, content):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        run("git", "add", "-A")
        done = run("git", "commit", "-q", "-m", "a change", check=False)
        if done.returncode:
            run("git", "rm", "-q", "--cached", "-f", name)
            file.unlink()
        return done

    commit.folder = tmp_path
    return commit


def test_the_hook_refuses_keys_and_nothing_else(db, keyspaces, repository):
    keys, patterns = keyspaces
    key = keys["default"][0]
    assert repository("README", "nothing here\n").returncode == 0
    for name, text in [("config.py", f'KEY = "{key}"\n'), ("a b.env", f"KEY={key}"), ("deep/x", f"\n\n{key} {key}\n"),
                       ("two", f"{keys['default'][1]},{key}\n"), ("bytes", b"\x00\xff" + key.encode() + b"\n")]:
        done = repository(name, text)
        assert done.returncode != 0, name
        assert "an API key: " + key[:4] in done.stderr and key not in done.stderr
    # A wrong checksum, and a text that is not a key, are not leaks.
    last = random.choice([c for c in "0123456789" if c != key[-1]])
    for number, text in enumerate([key[:-1] + last, key[:-1], key + "0", "ks_live_" + "x" * 49, keys["studio"][0]]):
        assert repository(f"harmless {number}", text + "\n").returncode == 0, text
    # With a file of patterns, only those apply.
    (repository.folder / ".keysmith-patterns").write_text("".join(f"{p}\n" for p in patterns.values()))
    assert repository("patterns", "are there\n").returncode == 0
    for number, key in enumerate(keys["studio"][::5] + keys["default"][:1]):
        assert repository(f"refused {number}", f"KEY={key}\n").returncode != 0
    # The hook checks only added lines.
    assert repository("README", "nothing here, still\n").returncode == 0


# Reports

def test_a_report_revokes_audits_and_tells(db):
    db.tenant()
    key = db.mint()
    db.rows(f"LISTEN {db.one('event_channel')[0]}")
    assert db.call("report_leak", key.api_key, "a public repository") == [(key.key_id,)]
    assert db.reason(key.api_key) == "revoked"
    entry = db.row("SELECT action, key_id, after ->> 'revoked_reason' FROM keysmith.audit "
                   "WHERE keyspace = 'default' ORDER BY entry DESC LIMIT 1")
    assert entry == ("revoke", key.key_id, "leaked: a public repository")
    (event,) = db.session.notifies(timeout=60, stop_after=1)
    assert str(key.key_id) in event.payload and key.api_key not in event.payload
    assert {row.ok for row in db.call("audit_verify")} == {True}
