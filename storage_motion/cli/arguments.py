# SPDX-License-Identifier: LGPL-2.1-only
"""Arguments that several commands take."""

from typing import Annotated, Dict, Iterable

import typer

from storage_motion.cli.failures import NotUnderstood
from storage_motion.uuids import UUID

Migration = Annotated[
    str,
    typer.Argument(
        metavar="MIGRATION",
        help="Its id; or its VM's name, or vm= and its UUID: the one that runs, else the latest.",
    ),
]


def which(text: str) -> Dict[str, str]:
    """The plugin's arguments for a migration: its id, or `vm=` and a VM's UUID or name; what is no
    id is a VM's name."""
    if text.startswith("vm="):
        return {"vm": text[len("vm=") :]}
    return {"migration": text.lower()} if UUID.match(text.lower()) else {"vm": text}


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
