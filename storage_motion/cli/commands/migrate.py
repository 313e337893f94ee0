# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm migrate`."""

from typing import Annotated, List, Optional

import typer

from storage_motion.cli import passwords, pools
from storage_motion.cli.arguments import named
from storage_motion.cli.command import Invocation, command
from storage_motion.cli.failures import NotUnderstood
from storage_motion.cli.following import follow


@command
def migrate(
    run: Invocation,
    arguments: Annotated[
        Optional[List[str]],
        typer.Argument(metavar="NAME=VALUE", help="As xe vm-migrate takes them."),
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the VM, which is halted.")] = False,
    remote_password_file: Annotated[
        Optional[str],
        typer.Option(
            "--remote-password-file", metavar="FILE", help="That of the destination pool."
        ),
    ] = None,
) -> Optional[int]:
    """Move a VM and its disks, or copy it.

    \b
      sxm -s paris migrate vm=web destination-sr-uuid=UUID
    """
    given = named(arguments or [])
    if "remote-password" in given:
        raise NotUnderstood(
            "remote-password is no argument here: it is asked for, or read from "
            "--remote-password-file"
        )
    if copy:
        given["copy"] = "true"
    if "remote-master" in given:
        given.setdefault("remote-username", pools.USER)
        given["remote-password"] = passwords.find(
            given["remote-username"],
            given["remote-master"],
            remote_password_file,
            passwords.REMOTE_VARIABLE,
            None,
            run.out.note,
        )
    if given.get("dry-run", "false") != "false":
        run.out.document(run.pool.plugin("migrate", **given))
        return None
    started = run.pool.plugin("migrate", **dict(given, wait="false"))
    what = "copy" if given.get("copy", "false") == "true" else "migration"
    run.out.line("%s %s" % (what, started["migration"]))
    return follow(run.pool, started["migration"], run.out)
