# SPDX-License-Identifier: LGPL-2.1-only
"""What a command shows: text for a person, or one JSON document. Without a terminal it is plain
text, 80 columns wide unless COLUMNS says otherwise, with no control codes."""

import contextlib
import json
import re
import textwrap
from typing import Any, Callable, Iterable, Iterator, Mapping, Optional, Sequence

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
LEAST_WIDTH = 40  # columns: a narrower terminal breaks the lines by itself
UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


class Output:
    """Where a command's words go. `json`: whether they are one document, for a program."""

    def __init__(self, json: bool = False, console: Optional[Console] = None) -> None:
        self.json = json
        self.console = console or Console(highlight=False, markup=False, emoji=False)
        self.errors = Console(stderr=True, highlight=False, markup=False, emoji=False)

    def document(self, data: Any) -> None:
        """The answer, with --json."""
        print(json.dumps(data, indent=2, sort_keys=True), file=self.console.file)

    def line(self, text: str = "", style: str = "") -> None:
        """A line for a person; nothing with --json. It is not broken: the terminal does that."""
        if not self.json:
            self.console.print(Text(clean(text), style=style), soft_wrap=True)

    def paragraph(self, text: str, indent: int = 0, hanging: int = 0) -> None:
        """The same, broken to the width at blanks. Its further lines are indented by `hanging`
        more."""
        lines = textwrap.wrap(
            clean(text),
            max(self.console.width, LEAST_WIDTH),
            initial_indent=" " * indent,
            subsequent_indent=" " * (indent + hanging),
            break_on_hyphens=False,
        )
        for line in lines:
            self.line(line)

    def sentences(self, title: str, texts: Iterable[str]) -> None:
        """Below a heading; nothing where there are none."""
        for number, text in enumerate(texts):
            if not number:
                self.line()
                self.line(title, "bold")
            self.paragraph("- %s" % text, 2, hanging=2)

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[str] = ()
    ) -> None:
        """Rows below a heading, within the width: cells are broken, nothing is left out. `right`:
        the columns that are figures."""
        if self.json:
            return
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for column in columns:
            table.add_column(
                column, justify="right" if column in right else "left", overflow="fold"
            )
        for row in rows:
            table.add_row(*[Text(clean(cell)) for cell in row])
        self._print(table)

    def pairs(self, pairs: Iterable["tuple[str, str]"], indent: int = 0) -> None:
        """Names and values, one a line, aligned."""
        if self.json:
            return
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in pairs:
            table.add_row(Text(" " * indent + name), Text(clean(value)))
        self._print(table)

    def _print(self, table: Table) -> None:
        """Without the blanks that fill up its lines, but on a terminal, where nobody sees them."""
        if self.console.is_terminal:
            self.console.print(table)
            return
        with self.console.capture() as captured:
            self.console.print(table)
        for line in captured.get().splitlines():
            self.console.print(Text(line.rstrip()), soft_wrap=True)

    def warning(self, text: str) -> None:
        """On standard error, also with --json."""
        self.error_line("sxm: warning: %s" % text)

    def note(self, text: str) -> None:
        """Something to know, on standard error, also with --json."""
        self.error_line("sxm: %s" % text)

    @contextlib.contextmanager
    def progress(self) -> Iterator[Callable[[int, int, str], None]]:
        """Gives `tell(done, of, doing)`: how far something is that takes its time, in one line of a
        terminal that is gone in the end. Nothing without a terminal."""
        if not self.errors.is_terminal:
            yield lambda done, of, doing: None
            return
        with Live(console=self.errors, transient=True, refresh_per_second=4) as live:

            def tell(done: int, of: int, doing: str) -> None:
                text = "%d of %d  %s" % (done, of, clean(doing))
                live.update(Text(text, no_wrap=True, overflow="ellipsis"))

            yield tell

    def error_line(self, text: str) -> None:
        """One line on standard error, as `print_line` has it."""
        print_line(self.errors, text)


def print_line(console: Console, text: str) -> None:
    """One line. On a terminal it is broken at blanks alone, so that a UUID is in one piece, and
    what is longer than a line, such as a path, can be copied as it is."""
    text = clean(text)
    if console.is_terminal:
        width = max(console.width, LEAST_WIDTH)
        text = "\n".join(textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False))
    console.print(Text(text), soft_wrap=True)


def clean(text: object) -> str:
    """What somebody called a VM or a disk may hold what a terminal obeys: that is shown as "?"."""
    return UNPRINTABLE.sub("?", str(text))


def size(count: Optional[float]) -> str:
    """Bytes as a person reads them: "1.5 GiB"; of None "unknown"."""
    if count is None:
        return "unknown"
    number, unit = float(count), 0
    while abs(number) >= 1024 and unit < len(UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return "%d B" % number if unit == 0 else "%.1f %s" % (number, UNITS[unit])


def duration(seconds: float) -> str:
    """Seconds as a person reads them: "2 h 05 min", "3 min 20 s", "12 s"."""
    whole = int(round(seconds))
    if whole >= 3600:
        return "%d h %02d min" % (whole // 3600, whole % 3600 // 60)
    if whole >= 60:
        return "%d min %02d s" % (whole // 60, whole % 60)
    return "%d s" % whole


def error_document(failure: Sequence[str], remedy: str) -> Mapping[str, Any]:
    """An error, [code, detail, ...], as --json has it."""
    return {
        "error": {"code": failure[0], "details": list(failure[1:]), "what to do": remedy or None}
    }
