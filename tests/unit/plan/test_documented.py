# SPDX-License-Identifier: LGPL-2.1-only
"""docs/what-moves.md has every refusal of a VM and of a disk, and names tests that are there."""

import os
import re

import pytest

from storage_motion.plan import checks

ROOT = os.path.join(os.path.dirname(__file__), *[os.pardir] * 3)
with open(os.path.join(ROOT, "docs/what-moves.md"), encoding="utf-8") as page:
    DOCUMENT = page.read()
ROWS = [line for line in DOCUMENT.splitlines() if line.startswith("| ") and "`tests/" in line]
SAID = [said for row in ROWS for said in re.findall(r"`((?:is|has|belongs) [^`]+)`", row)]
VM = {
    "power_state": "Paused",
    "other_config": {checks.CLAIM: "m"},
    "current_operations": {"OpaqueRef:t": "copy"},
}
CONDITIONS = (
    checks.VM_CHECKS
    + checks.SUSPENDED_CHECKS
    + checks.SNAPSHOT_CHECKS
    + checks.DISK_CHECKS
    + checks.TRACKING_CHECKS
)


@pytest.mark.parametrize(
    "text", [wrong(VM) if callable(wrong) else wrong for _, wrong, _ in CONDITIONS]
)
def test_each_refusal_has_a_row(text):
    assert any(text.startswith(said) for said in SAID), "docs/what-moves.md has no %r" % text


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_each_row_names_a_test_that_is_there(row):
    (path,) = re.findall(r"`(tests/[^`]+)`", row)
    assert os.path.exists(os.path.join(ROOT, path))


def tables():
    """The rows of each table of the page that has tests, without its head."""
    for table in re.findall(r"(?:^\|.*\n)+", DOCUMENT, re.MULTILINE):
        head, _, *rows = table.splitlines()
        if head.strip("| ").split("|")[-1].strip() == "test":
            yield from rows


@pytest.mark.parametrize("row", list(tables()), ids=lambda row: row.split("|")[1].strip())
def test_each_row_of_such_a_table_names_one(row):
    assert row in ROWS


def test_the_page_has_its_rows():
    assert len(ROWS) > 20 and len(SAID) > 15
