# SPDX-License-Identifier: LGPL-2.1-only
"""docs/what-moves.md has every refusal of a VM and of a disk, and names tests that are there, and
of what the row says, as far as words tell."""

import os
import re

import pytest

from storage_motion.plan import checks

ROOT = os.path.join(os.path.dirname(__file__), *[os.pardir] * 3)
with open(os.path.join(ROOT, "docs/what-moves.md"), encoding="utf-8") as page:
    DOCUMENT = page.read()
ROWS = [line for line in DOCUMENT.splitlines() if line.startswith("| ") and "`tests/" in line]
VM = {
    "power_state": "Paused",
    "other_config": {checks.CLAIM: "m"},
    "current_operations": {"OpaqueRef:t": "copy"},
}


def tables():
    """(row, the headings of its table) of each table of the page that has tests."""
    for table in re.findall(r"(?:^\|.*\n)+", DOCUMENT, re.MULTILINE):
        head, _, *rows = table.splitlines()
        if cells(head)[-1] == "test":
            for row in rows:
                yield row, cells(head)


def cells(row):
    return [cell.strip() for cell in row.split("|")[1:-1]]


HEADS = dict(tables())


def said_by(row):
    """The texts that a row quotes as those of a refusal."""
    return re.findall("`([^`]+)`", dict(zip(HEADS[row], cells(row))).get("says", ""))


SAID = [said for row in ROWS for said in said_by(row)]
CHECKPOINT = {"image": False, "arrives": True, "stays": "u", "host": "b1"}
# each table of refusals, and what its texts are made of
CONDITIONS = (
    (checks.VM_CHECKS, (VM,)),
    (checks.SUSPENDED_CHECKS, (VM,)),
    (checks.VGPU_CHECKS, (VM,)),
    (checks.COPY_CHECKS, (VM, {})),
    (checks.SNAPSHOT_CHECKS, (VM,)),
    (checks.CHECKPOINT_CHECKS, (CHECKPOINT,)),
    (checks.DISK_CHECKS, ()),
    (checks.TRACKING_CHECKS, ()),
)
# what a row or its table is of -> what a test of that has in it
WORDS = (
    ("halted", "[Hh]alt|clean_shutdown"),
    ("suspended", "[Ss]uspend"),
    ("paused", "[Pp]ause"),
    ("cop(?:y|ied)", "copy|copies|copied"),
    ("snapshot", "snapshot"),
    ("checkpoint", "checkpoint"),
    ("HA", "HA|ha_[a-z_]+"),
    ("TPMs?", "TPM|tpm"),
    ("GPU", "GPU|gpu"),
    ("CDs?", "CD"),
    ("networks?", "network"),
    ("blobs?", "blob"),
)


def texts():
    for table, given in CONDITIONS:
        for _, wrong, _ in table:
            yield wrong(*given) if callable(wrong) else wrong


@pytest.mark.parametrize("text", list(texts()))
def test_each_refusal_has_a_row(text):
    assert any(said in text for said in SAID), "docs/what-moves.md has no %r" % text


def test_no_table_of_refusals_is_forgotten():
    known = [table for table, _ in CONDITIONS]
    assert [
        name
        for name in dir(checks)
        if name.endswith("_CHECKS")
        and not any(set(getattr(checks, name)) <= set(table) for table in known)
    ] == []


def named_by(row):
    """The text of the tests that a row names."""
    paths = re.findall(r"`(tests/[^`]+)`", row)
    assert paths
    found = []
    for path in paths:
        with open(os.path.join(ROOT, path), encoding="utf-8") as stream:
            found.append(stream.read())
    return "\n".join(found)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_each_row_names_a_test_of_what_it_says(row):
    """Its codes, the longest word of each text that it quotes, and what it is of."""
    found = named_by(row)
    wanted = re.findall("`([A-Z]+_[A-Z_]+)`", row)
    for said in said_by(row):
        wanted += sorted(re.findall("[a-z]+", said), key=len)[-1:]
    missing = [word for word in wanted if word not in found]
    subject = " ".join([cells(row)[0], HEADS[row][0]])
    for word, proof in WORDS:
        if re.search(r"\b%s\b" % word, subject) and not re.search(proof, found):
            missing.append(word)
    assert missing == []


@pytest.mark.parametrize("row", list(HEADS), ids=lambda row: row.split("|")[1].strip())
def test_each_row_of_such_a_table_names_one(row):
    assert row in ROWS


def test_the_page_has_its_rows():
    assert len(ROWS) > 20 and len(SAID) > 15
