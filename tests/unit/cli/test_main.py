# SPDX-License-Identifier: LGPL-2.1-only
"""What a person sees of `sxm` when it is asked wrongly, or what it asks goes wrong."""

import os
import subprocess
import sys

import pytest

from fake_pool import failure
from storage_motion.cli import exit_codes, main

REPOSITORY = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))


@pytest.mark.parametrize("name", sorted(main.COMMANDS))
def test_each_command_explains_itself_within_80_columns(sxm, name):
    seen = sxm(name, "--help")
    assert (seen.status, seen.err) == (0, "")
    assert "\n    sxm " in seen.out, "an example"
    assert "--json" in seen.out and "--server" in seen.out
    assert max(len(line) for line in seen.out.splitlines()) <= 80
    assert "\x1b" not in seen.out


def test_what_is_not_understood_is_said_in_a_line(sxm):
    seen = sxm("lst")
    assert seen.status == exit_codes.NOT_UNDERSTOOD and seen.out == ""
    assert seen.err == "sxm: SXM_NOT_UNDERSTOOD: No such command 'lst'. Did you mean 'list'?\n"


@pytest.mark.parametrize(
    "error, status, told",
    [
        (
            failure("SXM_BAD_ARGUMENTS", "vm: a", "vdi: b"),
            5,
            ["SXM_BAD_ARGUMENTS: vm: a", "  vdi: b"],
        ),
        (failure("SXM_UNREACHABLE", "https://b", "c"), 3, ["SXM_UNREACHABLE: https://b", "  c"]),
        (OSError(13, "Permission denied", "/x"), 1, ["SXM_OS_ERROR: /x: Permission denied"]),
        (ValueError("odd"), 1, ["SXM_INTERNAL: ValueError: odd"]),
        (KeyboardInterrupt(), 130, ["SXM_INTERRUPTED: by you"]),
    ],
)
def test_no_traceback_reaches_a_user(sxm, error, status, told):
    def fail(_):
        raise error

    sxm.answers["list"] = fail
    seen = sxm("list")
    assert seen.status == status and seen.out == ""
    assert seen.err.splitlines()[0].startswith("sxm: " + told[0])
    assert seen.err.splitlines()[1 : len(told)] == told[1:]
    document = sxm("list", "--json")
    assert document.status == status and document.err == ""
    assert document.document["error"]["code"] == told[0].partition(":")[0]


@pytest.mark.parametrize("words", [["lst"], ["lst", "--json"], ["--version"]])
def test_no_traceback_where_nobody_reads(words):
    """As of `sxm ... | head`, or where a terminal has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "storage_motion.cli.main"] + words,
            cwd=REPOSITORY,
            stdout=writing,
            stderr=subprocess.PIPE if "--json" in words or "--version" in words else writing,
            env={"PATH": os.environ["PATH"]},
        )
    finally:
        os.close(writing)
    failed = exit_codes.FAILED if words == ["--version"] else exit_codes.NOT_UNDERSTOOD
    assert (ended.returncode, ended.stderr or b"") == (failed, b"")


def test_the_common_options_may_stand_before_or_after_the_command(sxm):
    sxm.answers["list"] = {"migrations": [], "unreadable": []}
    assert sxm("-s", "lyon", "list").status == sxm("list", "-s", "lyon").status == 0
    assert sxm("--json", "list").document == sxm("list", "--json").document
    assert [name for name, _, _ in sxm.asked] == ["lyon", "lyon", "paris", "paris"]


def test_the_reference_has_every_command_and_exit_status():
    with open(os.path.join(REPOSITORY, "docs/sxm.md")) as stream:
        text = stream.read()
    assert [name for name in main.COMMANDS if "| `%s` |" % name not in text] == []
    rows = ["| %d | %s |" % item for item in exit_codes.MEANINGS.items()]
    assert [row for row in rows if row not in text] == []


def test_the_manual_page_has_every_command_and_option():
    """It runs by itself, without what dom0 has: so does `sxm`."""
    page = subprocess.run(
        [sys.executable, os.path.join(REPOSITORY, "tools/man_page.py")],
        check=True,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
    ).stdout
    assert [name for name in main.COMMANDS if "\n.SS %s\n" % name not in page] == []
    assert "\n.B \\-\\-to\\-sr SR\n" in page and "\b" not in page
    assert "sxm \\-s paris plan \\-\\-vm web" in page


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes(shell):
    """As typer's scripts for the shells ask for it."""
    words = {"_TYPER_COMPLETE_ARGS": "sxm pl", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    asked = {"COMP_WORDS": "sxm pl", "COMP_CWORD": "1"} if shell == "bash" else words
    answer = subprocess.run(
        [sys.executable, "-c", "from storage_motion.cli.main import main; main([])"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env=dict(asked, PATH=os.environ["PATH"], _SXM_COMPLETE="complete_" + shell),
    )
    assert "plan" in answer.stdout and "list" not in answer.stdout, answer
