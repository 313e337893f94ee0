# SPDX-License-Identifier: LGPL-2.1-only
"""Arguments and options that several commands take."""

from typing import Annotated, Dict, Iterable, Optional, Tuple

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
MIGRATIONS = typer.Argument(
    metavar="MIGRATION...", help="The id of each; or its VM's name, or vm= and its UUID."
)
ToPool = Annotated[
    Optional[str],
    typer.Option("--to-pool", metavar="POOL", help="To this pool, as --server has it."),
]
ToHost = Annotated[Optional[str], typer.Option("--to-host", metavar="HOST", help="To this host.")]
RemotePasswordFile = Annotated[
    Optional[str],
    typer.Option(
        "--remote-password-file",
        metavar="FILE",
        help="The other pool's password: its first line; -: of standard input "
        "(also: SXM_REMOTE_PASSWORD).",
    ),
]
Report = Annotated[
    bool, typer.Option("--report/--no-report", help="Keep a report of it on this machine.")
]


def require_beside(option: str, value: object, *others: Tuple[str, object]) -> None:
    """Raises NotUnderstood, if an option has a value, and none has of the others, (name, value),
    which it is for."""
    if value and not any(one for _, one in others):
        raise NotUnderstood(
            "%s is for %s, which is missing" % (option, " or ".join(name for name, _ in others))
        )


def which(text: str) -> Dict[str, str]:
    """The plugin's arguments for a migration: its id, or `vm=` and a VM's UUID or name; what is no
    id is a VM's name. Raises NotUnderstood."""
    if text in ("", "vm="):
        raise NotUnderstood("which migration? its id, or its VM's name, or vm= and its UUID")
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
