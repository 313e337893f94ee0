# SPDX-License-Identifier: LGPL-2.1-only
"""What the demo prints."""

import sys

from rich.console import Console

console = Console(highlight=False, soft_wrap=True)


def chapter(text):
    """A new step of the story."""
    console.print()
    console.print(text, style="bold")
    sys.stdout.flush()


def say(text):
    """A line beneath it."""
    console.print("  " + text, markup=False)


def command(words):
    """A command, as it is run: one argument a line."""
    console.print()
    for number, word in enumerate(words):
        last = number == len(words) - 1
        console.print(
            ("  $ " if number == 0 else "        ") + word + ("" if last else " \\"),
            style="cyan",
            markup=False,
        )
    console.print()


def verdict(holds, what, measured):
    """A measured line: what it is about, and whether it holds."""
    console.print(
        "  %s %-32s %s"
        % (
            "[green]ok   [/green]" if holds else "[red]WRONG[/red]",
            what,
            measured.replace("[", r"\["),
        )
    )
