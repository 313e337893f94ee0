# SPDX-License-Identifier: LGPL-2.1-only
"""Prints what the fuzzing did."""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import pytest  # noqa: E402

import fuzz_bounds  # noqa: E402


def pytest_collection_modifyitems(items):
    """A test of the long run may take as long as its inputs together; each of these has bounds of
    its own."""
    for item in items:
        if fuzz_bounds.TOTAL:
            item.add_marker(pytest.mark.timeout(60 + fuzz_bounds.TOTAL // 10))


def pytest_terminal_summary(terminalreporter):
    for line in fuzz_bounds.summary():
        terminalreporter.write_line(line)
