# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm`: moves VMs' disks from an administrator's machine.

It calls the plugin in the pool over XenAPI, as `xe host-call-plugin` would. docs/sxm.md is its
reference. Each command is in a module of `commands`; here is the table of them, and the one place
that turns errors into words and an exit status.
"""

import io
import json
import os
import sys
from typing import IO, Annotated, Any, Callable, Dict, List, Optional, Sequence, Type

import typer
import XenAPI

import storage_motion
from storage_motion.cli import command, exit_codes, output
from storage_motion.cli.commands import (
    cancel,
    doctor,
    evacuate,
    explain,
    limit,
    listed,
    migrate,
    plan,
    recover,
    report,
    resume,
    selftest,
    show,
    trust,
    watch,
)
from storage_motion.cli.failures import NotUnderstood
from storage_motion.cli.following import MigrationFailed
from storage_motion.errors import MotionError

NAME = "sxm"
HELP = """Moves running VMs' disks between storage repositories, hosts and pools.

\b
  sxm -s 10.0.0.1 plan --vm web --to-sr fast
  sxm -s 10.0.0.1 migrate --vm web --to-sr fast
  sxm -s paris migrate --vm web --to-pool lyon --to-sr fast
  sxm -s paris watch web

Passwords are asked for, or come from a file, from SXM_PASSWORD or from the keyring; they are no
arguments, since everybody can read those. Exit status: 0 done, 1 failed, 2 not understood, 3 no
connection, 4 some of several failed, 5 refused with nothing changed, 130 interrupted.
"""

# Each is a line: its name, and its function.
COMMANDS: Dict[str, Callable[..., int]] = {
    "plan": plan.plan,
    "migrate": migrate.migrate,
    "evacuate": evacuate.evacuate,
    "list": listed.listed,
    "show": show.show,
    "watch": watch.watch,
    "report": report.report,
    "cancel": cancel.cancel,
    "resume": resume.resume,
    "recover": recover.recover,
    "limit": limit.limit,
    "doctor": doctor.doctor,
    "selftest": selftest.selftest,
    "trust": trust.trust,
    "help": explain.explain,
}

# ClickException, of the click that this typer goes with: newer ones bring their own.
PARSER_ERROR: Type[Exception] = typer.BadParameter.__mro__[2]

application = typer.Typer(
    name=NAME,
    help=HELP,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(wanted: bool) -> None:
    if wanted:
        print("sxm %s" % storage_motion.__version__)
        raise typer.Exit()


@application.callback()
def _common(
    context: typer.Context,
    server: command.Server = None,
    user: command.User = None,
    password_file: command.PasswordFile = None,
    json: command.Json = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Tell the version.")
    ] = False,
) -> None:
    context.obj = command.Settings(
        server or os.environ.get("SXM_SERVER"), user, password_file, json
    )


for _name, _function in COMMANDS.items():
    application.command(_name)(_function)


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """The command. Returns the exit status, one of exit_codes."""
    given: List[str] = list(sys.argv[1:] if arguments is None else arguments)
    _open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a name that the locale cannot write
    begun: Dict[str, str] = {}
    try:
        answer: Any = typer.main.get_command(application).main(
            given, prog_name=NAME, standalone_mode=False
        )
        sys.stdout.flush()
        return answer if isinstance(answer, int) else exit_codes.DONE
    except BrokenPipeError:
        _hush()
        return exit_codes.FAILED
    except MigrationFailed as error:
        # It was begun: that nothing was changed, or that there is no connection, is not so.
        failure, outcome = error.failure(), exit_codes.ANY
        begun = {"migration": error.migration}
    except Exception as error:
        failure = _failure(error)
        outcome = exit_codes.of(failure)
    except (KeyboardInterrupt, typer.Abort):
        failure = ["SXM_INTERRUPTED", "by you"]
        outcome = exit_codes.of(failure)
    try:
        _complain(failure, outcome.remedy, "--json" in given, begun)
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit, KeyboardInterrupt):  # the second: rich's, for the first
        _hush()
    except OSError:  # such as of a full disk; on standard error that has been said
        _hush(sys.stdout)
        if "--json" in given:
            _complain_to_stderr(failure, outcome.remedy)
    return outcome.status


def _open_streams() -> None:
    """What the shell has closed (`>&-`) takes what is written and keeps nothing."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))


def _hush(*streams: IO[str]) -> None:
    """Nobody can have what is written there, or all of both; Python would say so again at its
    end."""
    for stream in streams or (sys.stdout, sys.stderr):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _complain_to_stderr(failure: List[str], remedy: str) -> None:
    try:
        _complain(failure, remedy, False)
    except (OSError, SystemExit):
        _hush()


def _failure(error: Exception) -> List[str]:
    """[code, detail, ...] of anything that went wrong."""
    if isinstance(error, typer.Abort):
        return ["SXM_INTERRUPTED", "by you"]
    if isinstance(error, PARSER_ERROR):
        return NotUnderstood(error.format_message() or "see sxm --help").failure()  # type: ignore[attr-defined]
    if isinstance(error, MotionError):
        return error.failure()
    if isinstance(error, XenAPI.Failure):
        return [str(detail) for detail in error.details]
    if isinstance(error, OSError):
        name = "%s: " % error.filename if error.filename else ""
        return ["SXM_OS_ERROR", name + (error.strerror or str(error) or type(error).__name__)]
    return ["SXM_INTERNAL", "%s: %s" % (type(error).__name__, error)]


def _complain(
    failure: List[str], remedy: str, as_json: bool, begun: Optional[Dict[str, str]] = None
) -> None:
    """`begun`: what a document has beside the error."""
    if as_json:
        document = dict(output.error_document(failure, remedy), **begun or {})
        print(json.dumps(document, indent=2))
        return
    told = output.Output()
    first, rest = failure[1:2], failure[2:]
    told.error_line("sxm: %s" % ": ".join([failure[0]] + first))
    for detail in rest:
        told.error_line("  %s" % detail)
    if remedy:
        told.error_line("  What to do: %s" % remedy)


if __name__ == "__main__":
    sys.exit(main())
