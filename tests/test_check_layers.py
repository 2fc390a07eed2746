"""The check of layers in `make lint`: what it reports, and what it accepts."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts/check_layers.py"
_spec = importlib.util.spec_from_file_location("check_layers", SCRIPT)
checker = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(checker)

# In two parts: this file is checked as well.
FEATURE, VERSION = 'feature = ' + '"pg18"', "server_" + "version"

FAULTS = {
    "an import from above": (
        {"catalog/mod.rs": "pub mod scan;", "catalog/scan.rs": "use crate::manage::key;", "manage/key.rs": ""},
        "catalog/scan.rs imports manage::key, which is not below it"),
    "one from beside": (
        {"usage/mod.rs": "use crate::{audit::{self, Act}, settings};", "audit/mod.rs": "", "settings.rs": ""},
        "usage/mod.rs imports audit, which is not below it"),
    "one that is written out": (
        {"limit/mod.rs": "fn f() { crate::calls::verify::f() }", "calls/verify.rs": ""},
        "limit/mod.rs imports calls::verify, which is not below it"),
    "two files that import each other": (
        {"rows/mod.rs": "", "rows/a.rs": "use super::b::B;", "rows/b.rs": "use super::a::A;"},
        "imports itself: rows::a -> rows::b -> rows::a"),
    "a circle by way of a room": (
        {"rows/mod.rs": "use a::A;\nuse self::a::B;", "rows/a.rs": "use super::b::f;", "rows/b.rs": "use crate::rows::T;"},
        "imports itself: "),
    "a room that is new": ({"portal.rs": ""}, "portal is in no layer"),
    "a file of SQL for no room": ({"../sql/install/portal/views.sql": ""}, "portal is no room of src/"),
    "a callback past the guard": (
        {"rows/mod.rs": 'unsafe extern "C-unwind" fn at_exit() {}'}, "rows/mod.rs:1: PostgreSQL calls this past the guard"),
    "code for one major": ({"lag.rs": f'#[cfg(not({FEATURE}))]\nuse a::b;'}, "lag.rs:1: only pg/src/major.rs knows"),
    "SQL for one major": ({"../sql/install/lag.sql": f"current_setting('{VERSION}_num')"}, "lag.sql:1: only pg/src/major.rs knows"),
    "a test of one major": ({"../tests/test_lag.py": f"if db.info.{VERSION} < 180000:"}, "test_lag.py:1: only tests/majors.py knows"),
}


def write(root, files):
    for name, text in files.items():
        (root / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "src" / name).write_text(text)
    (root / "pg/src").mkdir(parents=True, exist_ok=True)


@pytest.mark.parametrize("files, problem", FAULTS.values(), ids=FAULTS)
def test_what_is_found(tmp_path, capsys, files, problem):
    write(tmp_path, files)
    assert checker.main(tmp_path) == 1
    assert problem in capsys.readouterr().out


def test_what_is_left_alone(tmp_path, capsys):
    write(tmp_path, {
        "lib.rs": "mod calls;\nuse calls::verify;",
        "calls/mod.rs": "pub mod verify;\nmod arguments;",
        "calls/verify.rs": "use super::arguments::spend;\nuse crate::catalog::{self, policy::Policy};\n// use crate::manage::x;",
        "calls/arguments.rs": "use pg::call::Call;",
        "catalog/mod.rs": "pub mod policy;",
        "catalog/policy.rs": "use crate::settings;",
        "settings.rs": "use std::sync::Once;",
        "../pg/src/major.rs": f"cfg!({FEATURE})",
        "../tests/majors.py": f"info.{VERSION}",
    })
    assert checker.main(tmp_path) == 0
    assert capsys.readouterr().out == ""
