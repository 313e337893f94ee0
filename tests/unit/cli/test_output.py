# SPDX-License-Identifier: LGPL-2.1-only
"""Text for a person fits the width, leaves nothing out, and holds nothing that a terminal obeys."""

import io
import subprocess
import sys

import pytest
from rich.console import Console

from storage_motion.cli import output
from storage_motion.cli.output import Output


def written(show, width=80, **more):
    screen = io.StringIO()
    show(Output(console=Console(file=screen, width=width, highlight=False, markup=False), **more))
    return screen.getvalue().splitlines()


def test_a_table_is_folded_and_not_cut():
    cells = ("0f0e0d0c-0000-4000-8000-000000000001", "a" * 70, "[bold]b")
    lines = written(lambda out: out.table(("Id", "Name", "x"), [cells]))
    assert max(map(len, lines)) <= 80 and not [line for line in lines if line.endswith(" ")]
    text = "".join("".join(lines).split())
    assert text.count("a") >= 70 and "[bold]b" in text


def test_a_paragraph_hangs_and_keeps_uuids_whole():
    uuid = "0f0e0d0c-0000-4000-8000-000000000001"
    lines = written(lambda out: out.paragraph("- of %s and %s" % (uuid, uuid), 2, 2), 46)
    assert lines == ["  - of " + uuid, "    and " + uuid]


def test_on_a_terminal_a_warning_is_broken_at_blanks_and_a_path_never():
    path = "/home/me/" + "a" * 60
    screen = io.StringIO()
    out = Output()
    out.errors = Console(file=screen, width=50, force_terminal=True, highlight=False, markup=False)
    out.warning("interface 0 goes to network guests, as it is called like its own: " + path)
    lines = screen.getvalue().splitlines()
    assert lines[0] == "sxm: warning: interface 0 goes to network guests,"
    assert lines[-1] == path and len(lines) == 3


def test_with_json_nothing_but_the_document():
    def show(out):
        out.line("x")
        out.table(("a",), [("b",)])
        out.pairs([("a", "b")])
        out.paragraph("x")
        out.document({"k": "ü"})

    assert written(show, json=True) == ["{", '  "k": "\\u00fc"', "}"]


@pytest.mark.parametrize("text", ["a\x1b[31mb", "a\nb", "a\u202eb", "a\x9bb"])
def test_what_a_terminal_obeys_is_not_written(text):
    (line,) = written(lambda out: out.line(text))
    assert line.startswith("a?") and line.endswith("b")


def test_figures():
    assert [output.size(one) for one in (None, 0, 1023, 1536, 5 << 40)] == [
        "unknown",
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 TiB",
    ]
    assert [output.duration(one) for one in (0.4, 75, 3720)] == ["0 s", "1 min 15 s", "1 h 02 min"]


def test_a_name_that_the_locale_cannot_write_is_no_error():
    program = (
        "from storage_motion.cli import main, output\n"
        "main.main(['--version'])\n"
        "output.Output().table(('Name',), [('\u00fcber',)])\n"
    )
    seen = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert seen.returncode == 0 and "?ber" in seen.stdout, seen


def test_how_far_something_is_takes_one_line_of_a_terminal_and_none_elsewhere():
    screen = io.StringIO()
    told = output.Output()
    told.errors = Console(file=screen, force_terminal=True, width=30)
    with told.progress() as tell:
        tell(1, 240, "planned a")
        tell(2, 240, "planned \x1b[2Ja VM with a long name that goes on")
    shown = screen.getvalue()
    assert "2 of 240  planned ?[2Ja VM wi\N{HORIZONTAL ELLIPSIS}\n" in shown
    assert shown.count("\n") == 1 and "\x1b[2J" not in shown
    assert shown.endswith("\x1b[2K"), "it is gone in the end"
    screen = io.StringIO()
    told.errors = Console(file=screen, width=30)
    with told.progress() as tell:
        tell(1, 2, "x")
    assert screen.getvalue() == ""
