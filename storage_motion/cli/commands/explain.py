# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm help`."""

from typing import Annotated, Optional

import typer

from storage_motion.cli.command import Invocation, command


@command
def explain(
    run: Invocation,
    function: Annotated[
        Optional[str], typer.Argument(metavar="FUNCTION", help="Only this one.")
    ] = None,
) -> None:
    """Tell what the plugin in the pool can do, in its own words.

    The words of sxm itself are in: sxm --help, sxm COMMAND --help.

    \b
      sxm -s paris help migrate
    """
    answer = run.pool.plugin("help", **({"function": function} if function else {}))
    if run.out.json:
        run.out.document(answer)
    run.out.line("Storage XenMotion %s" % answer["version"])
    for name, found in answer["functions"].items():
        run.out.line()
        run.out.paragraph("%s: %s" % (name, found["does"]))
        run.out.pairs(
            [
                (
                    one["name"],
                    one["means"]
                    + ("" if one["required"] == "no" else " (required: %s)" % one["required"]),
                )
                for one in found["arguments"]
            ],
            indent=4,
        )
