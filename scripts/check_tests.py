#!/usr/bin/env python3
"""Finds assertions of tests that cannot fail, and those that fail on a slow machine.

A row is a tuple, and a tuple of one false value is true: `assert all(db.rows("SELECT ok …"))`
passes whatever the rows are. Where a line is right all the same, it ends in
`# not checked: REASON`.
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ALWAYS_A_ROW = {"row", "one"}
ALWAYS_ROWS = {"call", "rows", "fetchall"}
AGGREGATE = re.compile(
    r"\s*SELECT\s+(count|sum|min|max|avg|bool_and|bool_or|every|array_agg|string_agg|jsonb?_agg"
    r"|coalesce|exists)\s*\(", re.I)
LAZY = {"map", "filter", "zip", "iter", "enumerate", "reversed"}
BROAD = {"Exception", "BaseException", "psycopg.Error", "psycopg.DatabaseError"}
CLOCKS = {"time.time", "time.monotonic", "time.perf_counter"}
# Durations that a busy machine may not keep.
ENOUGH = 30
def _functions_of_one_row():
    """Our functions that do not return a set."""
    scripts = "".join(path.read_text() for path in (ROOT / "sql/install").rglob("*.sql"))
    for declared in scripts.split("CREATE FUNCTION keysmith.")[1:]:
        if not re.match(r"(SETOF|TABLE)\b", declared.partition("RETURNS ")[2]):
            yield re.match(r"\w+", declared)[0]


ONE_ROW = set(_functions_of_one_row())
EXCUSE = re.compile(r"# not checked: \S")


def check(source):
    """Pairs of a line and its fault."""
    tree = ast.parse(source)
    found = []
    for scope in ast.walk(tree):
        if isinstance(scope, (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef)):
            found += Scope(scope).problems()
    lines = source.splitlines()
    return sorted((line, problem) for line, problem in set(found)
                  if not EXCUSE.search(lines[line - 1]))


class Scope:
    """A function, or the module outside all functions: a scope of names."""

    def __init__(self, node):
        self.nodes = [node for statement in node.body for node in _within(statement)]
        self.in_loops = {part for node in self.nodes if isinstance(node, (ast.For, ast.While))
                         for part in ast.walk(node)}
        self.values = {}
        for node in self.nodes:
            for target, value in _assignments(node):
                for name in ast.walk(target):
                    if isinstance(name, ast.Name):
                        # The value of a name that is assigned more than once is unknown.
                        is_plain = name is target and name.id not in self.values
                        self.values[name.id] = value if is_plain else None

    def problems(self):
        for node in self.nodes:
            if isinstance(node, ast.Assert):
                yield from self.condition(node.test)
            elif isinstance(node, ast.Call):
                yield from self.call(node)
            elif isinstance(node, (ast.With, ast.AsyncWith)):
                yield from self.raises(node)
            elif isinstance(node, ast.For) and _called(node.iter) == "range" and len(node.iter.args) == 1:
                times = _number(node.iter.args[0])
                for part in ast.walk(node):
                    pause = _number(part.args[0]) if _called(part) == "time.sleep" else None
                    if times and pause and times * pause < ENOUGH:
                        yield part.lineno, f"a busy machine may take longer than this: {ENOUGH} seconds at least"

    def call(self, node):
        name, limits = _name(node.func), []
        if name == "wait_until" and node.args:
            if isinstance(node.args[0], ast.Lambda):
                yield from self.condition(node.args[0].body)
            limits = [*node.args[1:2], *(k.value for k in node.keywords if k.arg == "seconds")]
        elif _method(node) == "result":
            limits = [*node.args, *(k.value for k in node.keywords)]
        elif name == "time.time":
            yield node.lineno, "the wall clock can be set: time.monotonic()"
        elif name == "time.sleep" and node not in self.in_loops:
            yield node.lineno, "how long is enough? wait_until() asks"
        if any(_number(limit) is not None and _number(limit) < ENOUGH for limit in limits):
            yield node.lineno, f"a busy machine may take longer than this: {ENOUGH} seconds at least"

    def condition(self, test):
        """The asserted expression, and each part of it that counts separately."""
        if isinstance(test, ast.BoolOp):
            for part in test.values:
                yield from self.condition(part)
        elif isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            yield from self.condition(test.operand)
        elif isinstance(test, ast.Compare):
            yield from self.comparison(test)
        elif why := self.is_always_true(test):
            yield test.lineno, why
        elif isinstance(test, ast.Call) and _name(test.func) in ("all", "any") and test.args:
            yield from self.each(test)

    def each(self, call):
        """The expression that all() and any() evaluate for each element."""
        (of,) = call.args
        of = self.resolved(of)
        if isinstance(of, (ast.GeneratorExp, ast.ListComp, ast.SetComp)):
            element = of.elt
            if why := self.is_always_true(element):
                yield call.lineno, f"each element is true: {why}"
            elif isinstance(element, ast.Name) and any(
                    isinstance(part.target, ast.Name) and part.target.id == element.id
                    and self.are_rows(part.iter) for part in of.generators):
                yield call.lineno, "a row is a tuple, and true whatever is in it"
            else:
                yield from self.condition(element)
        elif self.are_rows(of):
            yield call.lineno, "a row is a tuple, and true whatever is in it"
        elif isinstance(of, (ast.List, ast.Tuple, ast.Set)):
            for element in of.elts:
                yield from self.condition(element)

    def comparison(self, test):
        sides = [test.left, *test.comparators]
        for left, operator, right in zip(sides, test.ops, sides[1:]):
            if ast.dump(left) == ast.dump(right) and not any(
                    isinstance(node, (ast.Call, ast.Await)) for node in ast.walk(left)):
                yield test.lineno, "a value is compared with itself"
            if isinstance(operator, ast.IsNot) and _is(right, None) and self.is_row(left):
                yield test.lineno, "a row is never None"
            if isinstance(operator, ast.GtE) and _is(right, 0) and _called(left) == "len":
                yield test.lineno, "a length is never below zero"
            least, most = (left, right) if isinstance(operator, (ast.Lt, ast.LtE)) else (right, left)
            if isinstance(operator, (ast.Lt, ast.LtE, ast.Gt, ast.GtE)) and self.is_duration(least) \
                    and (bound := _number(most)) is not None and bound < ENOUGH:
                yield test.lineno, "a busy machine may take longer than this"

    def raises(self, block):
        for item in block.items:
            call = item.context_expr
            if not (isinstance(call, ast.Call) and _name(call.func) == "pytest.raises" and call.args):
                continue
            kinds = call.args[0].elts if isinstance(call.args[0], ast.Tuple) else call.args[:1]
            if not any(_name(kind) in BROAD for kind in kinds) or any(k.arg == "match" for k in call.keywords):
                continue
            name = item.optional_vars
            if name is None or not any(isinstance(node, ast.Name) and node.id == name.id
                                       and node is not name for node in self.nodes):
                yield call.lineno, "any error passes: match=, a class, or a look at what was raised"

    def is_always_true(self, value):
        value = self.resolved(value)
        if isinstance(value, (ast.Tuple, ast.List, ast.Set)) and value.elts \
                or isinstance(value, ast.Dict) and value.keys:
            return "a literal that is not empty is true"
        if isinstance(value, ast.Constant) and value.value and value.value is not False:
            return "a constant"
        if isinstance(value, (ast.Lambda, ast.GeneratorExp)) or _called(value) in LAZY:
            return "a generator or function is true before it is asked"
        if self.is_row(value):
            return "a row is a tuple, and true whatever is in it"
        if _method(value) == "call" and value.args and getattr(value.args[0], "value", None) in ONE_ROW:
            return "the result is a row, and true whatever is in it"
        if self.are_rows(value) and _is_aggregate(value):
            return "there is always one row, and it is true whatever is in it"
        return None

    def is_row(self, value):
        value = self.resolved(value)
        return _method(value) in ALWAYS_A_ROW or _method(value) == "fetchone" and _is_aggregate(value.func.value) \
            or isinstance(value, ast.Subscript) and self.are_rows(value.value) \
            and isinstance(_number(value.slice), int)

    def are_rows(self, value):
        value = self.resolved(value)
        return _method(value) in ALWAYS_ROWS

    def is_duration(self, value):
        value = self.resolved(value)
        return isinstance(value, ast.BinOp) and isinstance(value.op, ast.Sub) \
            and any(_called(self.resolved(side)) in CLOCKS for side in (value.left, value.right))

    def resolved(self, value):
        if isinstance(value, ast.Name):
            return self.values.get(value.id) or value
        return value


def _within(node):
    """All parts of a statement except nested functions, which are separate scopes."""
    yield node
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        for child in ast.iter_child_nodes(node):
            yield from _within(child)


def _assignments(node):
    if isinstance(node, ast.Assign):
        return [(target, node.value) for target in node.targets]
    if isinstance(node, (ast.AugAssign, ast.For, ast.comprehension)):
        return [(node.target, None)]
    if isinstance(node, ast.NamedExpr):
        return [(node.target, node.value)]
    if isinstance(node, ast.withitem) and node.optional_vars:
        return [(node.optional_vars, None)]
    return []


def _name(node):
    """`a.b.c` as written."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (left := _name(node.value)):
        return f"{left}.{node.attr}"
    return None


def _called(node):
    return _name(node.func) if isinstance(node, ast.Call) else None


def _method(node):
    """The last name of a call on an object."""
    return node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else None


def _is_aggregate(call):
    """Whether a statement's first result is one row, for any number of rows in the table."""
    if not (isinstance(call, ast.Call) and call.args):
        return False
    text = call.args[0]
    parts = text.values if isinstance(text, ast.JoinedStr) else [text]
    written = "".join(part.value for part in parts
                      if isinstance(part, ast.Constant) and isinstance(part.value, str))
    return bool(AGGREGATE.match(written)) and not re.search(r"\b(GROUP BY|HAVING|OVER|LIMIT)\b", written, re.I)


def _number(node):
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    return None


def _is(node, value):
    return isinstance(node, ast.Constant) and type(node.value) is type(value) and node.value == value


def main(paths):
    files = sorted(file for path in map(Path, paths)
                   for file in (path.rglob("*.py") if path.is_dir() else [path]))
    found = [(file, *problem) for file in files for problem in check(file.read_text())]
    for file, line, problem in found:
        print(f"{file}:{line}: {problem}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["tests"]))
