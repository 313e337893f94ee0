# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm list`."""

from storage_motion.cli import exit_codes
from storage_motion.cli.command import Invocation, command


@command
def listed(run: Invocation) -> int:
    """List the migrations of the pool, the newest first.

    \b
      sxm -s paris list
      sxm -s paris list --json
    """
    answer = run.pool.plugin("list")
    if run.out.json:
        run.out.document(answer)
    for failure in answer["unreadable"]:
        run.out.warning(": ".join(failure))
    run.out.table(
        ("Migration", "State", "VM", "from, to"),
        [
            (
                one["migration"],
                one["state"],
                one["vm_name"] + (" (copy)" if one.get("copy") else ""),
                "%s, %s" % (one["source_host"], one["destination_host"]),
            )
            for one in answer["migrations"]
        ],
    )
    return exit_codes.SOME_FAILED if answer["unreadable"] else exit_codes.DONE
