"""A stranger's application with the packages, and its own tests; how long its parts are is reported."""

from pathlib import Path

import pytest

import project

TRIAL = Path(__file__).parent / "trial_python"
PARTS = {"app": ["app.py"], "models": ["models.py"], "migrations": ["migrations", "alembic.ini", "prepare.sql"],
         "tests": ["tests"]}


def lines(names):
    files = [file for name in names for file in ([TRIAL / name] if (TRIAL / name).is_file() else (TRIAL / name).rglob("*.py"))]
    return sum(len([line for line in file.read_text().splitlines() if line.strip()]) for file in files)


def test_it_works(cluster, record_property):
    for package in ("fastapi", "alembic", "sqlalchemy"):
        pytest.importorskip(package)
    try:
        printed = project.run("pytest -q -p no:cacheprovider -p keysmith.pytest_plugin", TRIAL, cluster,
                              PYTHONPATH=f"{project.SOURCE}:{TRIAL}")
    finally:
        for role in ("photos_owner", "photos_app"):
            cluster.execute(f"DROP ROLE IF EXISTS {role}")
    assert "6 passed" in printed, printed
    counts = {part: lines(names) for part, names in PARTS.items()}
    record_property("figure", f"the trial in Python: {sum(counts.values())} lines that are not empty: {counts}")
