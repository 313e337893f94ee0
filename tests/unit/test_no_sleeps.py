# SPDX-License-Identifier: LGPL-2.1-only
"""A test that sleeps hopes. It waits for what it needs to see instead, and with a bound:
tests/eventually.py."""

import ast
import os

import pytest

from tests.eventually import eventually, never

TESTS = os.path.abspath(os.path.join(os.path.dirname(__file__), ".."))
SLEEPERS = {"eventually.py": "between two looks"}
"""{file: why it may sleep}"""


def sleeps(text):
    """The lines of a program at which it uses time.sleep, by whatever name. Another program's text
    in it is a string, and does not count."""
    tree, modules, lines = ast.parse(text), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name for alias in node.names if alias.name == "time"}
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            lines |= {node.lineno for alias in node.names if alias.name == "sleep"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "sleep":
            if isinstance(node.value, ast.Name) and node.value.id in modules:
                lines.add(node.lineno)
    return sorted(lines)


def test_no_test_sleeps():
    found = {}
    for directory, _, names in os.walk(TESTS):
        for name in names:
            if name.endswith(".py"):
                path = os.path.join(directory, name)
                with open(path, encoding="utf-8") as source:
                    lines = sleeps(source.read())
                if lines:
                    found[os.path.relpath(path, TESTS)] = lines
    assert {path: lines for path, lines in found.items() if path not in SLEEPERS} == {}
    assert set(found) == set(SLEEPERS), "an exception that is none"


@pytest.mark.parametrize(
    "text, found",
    [
        ("import time\ntime.sleep(1)", [2]),
        ("import time as t, os\n\nt.sleep(1)", [3]),
        ("def f():\n    from time import monotonic, sleep as s", [2]),
        ("import time\nf(time.sleep)", [2]),
        ("import time\nrun('import time; time.sleep(600)')\ntime.monotonic()", []),
        ("clock.sleep(1)", []),
    ],
)
def test_what_counts(text, found):
    assert sleeps(text) == found


def test_what_comes_true_is_answered_and_what_does_not_is_told():
    values = iter((None, [], 7))
    assert eventually(lambda: next(values), "a value", poll=0.001) == 7
    with pytest.raises(AssertionError, match=r"^not within 0\.01 s: the end: 5 of 6$"):
        eventually(lambda: False, "the end", 0.01, seen=lambda: "5 of 6", poll=0.001)
    with pytest.raises(ZeroDivisionError):
        eventually(lambda: 1 // 0, "what cannot be")


def test_what_must_not_come_true():
    values = iter((None, [], 7))
    with pytest.raises(AssertionError, match="^it has come: 7$"):
        never(lambda: next(values), "it has come", 60, poll=0.001)
    looks = []
    never(lambda: looks.append(1), "it has come", 0.01, poll=0.001)
    assert len(looks) > 1
