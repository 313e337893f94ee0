# SPDX-License-Identifier: LGPL-2.1-only
"""Arguments that several commands take."""

from typing import Annotated, Dict, Iterable

import typer

from storage_motion.cli.failures import NotUnderstood

Migration = Annotated[
    str,
    typer.Argument(
        metavar="MIGRATION", help="Its id; or vm=UUID or vm=NAME: the latest of that VM."
    ),
]


def which(text: str) -> Dict[str, str]:
    """The plugin's arguments for a migration: its id, or `vm=` and a VM's UUID or name."""
    return {"vm": text[len("vm=") :]} if text.startswith("vm=") else {"migration": text}


def named(words: Iterable[str]) -> Dict[str, str]:
    """{name: value} of words `name=value`. Raises NotUnderstood."""
    given: Dict[str, str] = {}
    wrong = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            wrong.append("not name=value: %s" % word)
        given[name] = value
    if wrong:
        raise NotUnderstood(*wrong)
    return given
