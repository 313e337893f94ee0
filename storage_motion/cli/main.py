# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm`: moves a VM from an administrator's machine, and shows how far it is: a bar for each disk.

    sxm -s https://10.0.0.1 migrate vm=web destination-sr-uuid=... remote-master=10.1.0.1 vif:...=...
    sxm -s https://10.0.0.1 watch MIGRATION      (or vm=web)
    sxm -s https://10.0.0.1 list
    sxm -s https://10.0.0.1 help migrate

It calls the plugin in the pool over XenAPI, as `xe host-call-plugin` would. Passwords are asked
for, or read from files; they are not arguments, since everybody can read those.
"""  # noqa: E501

import argparse
import getpass
import json
import sys
import time
from typing import Any, Dict, Optional, Sequence

import XenAPI
from rich.console import Console

from storage_motion.api.dead_worker import DeadWorkerWatch
from storage_motion.cli.bars import Bars
from storage_motion.errors import MotionError
from storage_motion.xapi import session as sessions

POLL = 1.0


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """The command. Returns the exit status: 0 if the migration succeeded, 1 if not, 2 if it was not
    understood."""
    options = _parser().parse_args(arguments)
    try:
        session = sessions.remote(
            sessions.url_of(options.server),
            options.user,
            _password(options.password_file, options.server),
        )
    except (MotionError, ValueError, OSError) as error:
        return _complain(error)
    try:
        return options.command(_Plugin(session), options)
    except XenAPI.Failure as failure:
        return _complain("\n  ".join(str(detail) for detail in failure.details))
    except (MotionError, ValueError, OSError) as error:
        return _complain(error)
    finally:
        sessions.logout(session)


class _Plugin:
    """The plugin on the pool's master: it finds the host that has the migration by itself."""

    def __init__(self, session: "XenAPI.Session") -> None:
        self._api = session.xenapi
        self._host = self._api.pool.get_master(self._api.pool.get_all()[0])

    def __call__(self, function: str, **arguments: str) -> Dict[str, Any]:
        return json.loads(self._api.host.call_plugin(self._host, "sxm.py", function, arguments))


def migrate(plugin: _Plugin, options: argparse.Namespace) -> int:
    """Start a migration, and watch it."""
    given = {}
    for argument in options.arguments:
        name, equals, value = argument.partition("=")
        if not equals:
            raise ValueError("not name=value: %s" % argument)
        given[name] = value
    if "remote-password" in given:
        raise ValueError(
            "remote-password is no argument here: it is asked for, or read from "
            "--remote-password-file"
        )
    if options.copy:
        given["copy"] = "true"
    if "remote-master" in given:
        given.setdefault("remote-username", "root")
        given["remote-password"] = _password(options.remote_password_file, given["remote-master"])
    if given.get("dry-run", "false") != "false":
        Console().print_json(data=plugin("migrate", **given))
        return 0
    started = plugin("migrate", **dict(given, wait="false"))
    what = "copy" if given.get("copy", "false") == "true" else "migration"
    Console().print("%s %s" % (what, started["migration"]), highlight=False)
    return follow(plugin, started["migration"])


def watch(plugin: _Plugin, options: argparse.Namespace) -> int:
    """Watch a migration that runs, or tell how one ended."""
    return follow(plugin, plugin("status", **_which(options.migration))["migration"])


def listed(plugin: _Plugin, _: argparse.Namespace) -> int:
    """List the migrations of the pool."""
    for entry in plugin("list")["migrations"]:
        print(
            "%s  %-9s  %-16s  %s%s"
            % (
                entry["migration"],
                entry["state"],
                entry["phase"] or "",
                entry["vm_name"],
                " (copy)" if entry.get("copy") else "",
            )
        )
    return 0


def cancel(plugin: _Plugin, options: argparse.Namespace) -> int:
    """Cancel a migration."""
    print(plugin("cancel", **_which(options.migration))["state"])
    return 0


def resume(plugin: _Plugin, options: argparse.Namespace) -> int:
    """Have a broken migration try again at once, and watch it."""
    return follow(plugin, plugin("resume", **_which(options.migration))["migration"])


def explain(plugin: _Plugin, options: argparse.Namespace) -> int:
    """What the plugin can do, by its own word."""
    answer = plugin("help", **({"function": options.function} if options.function else {}))
    print("Storage XenMotion %s" % answer["version"])
    for name, function in answer["functions"].items():
        print("\n%s: %s" % (name, function["does"]))
        for one in function["arguments"]:
            needed = "" if one["required"] == "no" else " (required: %s)" % one["required"]
            print("    %-20s %s%s" % (one["name"], one["means"], needed))
    return 0


def _which(text: str) -> Dict[str, str]:
    """The plugin's arguments for a migration: its id, or `vm=` and a VM's UUID or name."""
    return {"vm": text[len("vm=") :]} if text.startswith("vm=") else {"migration": text}


def follow(plugin: _Plugin, migration: str) -> int:
    """Draw a migration until it has ended, whoever drives it. 0 if it succeeded. Raises
    WorkerDied."""
    worker_watch = DeadWorkerWatch()
    with Bars() as bars:
        while True:
            status = plugin("status", migration=migration)
            bars.update(status)
            if status["state"] != "running":
                break
            worker_watch.look(status["alive"], migration, status["doing"])
            time.sleep(POLL)
    for warning in status.get("warnings", []):  # a plugin of before has none
        print("sxm: warning: %s" % warning, file=sys.stderr)
    if status["error"]:
        return _complain("%s: %s" % (status["state"], "\n  ".join(status["error"])))
    print(status["state"])
    if status.get("copy"):
        print("the copy is VM %s" % status["new_vm"])
    return 0


def _complain(what: object) -> int:
    print("sxm: %s" % what, file=sys.stderr)
    return 1


def _password(path: Optional[str], server: str) -> str:
    if path:
        with open(path) as source:
            return source.readline().rstrip("\n")
    return getpass.getpass("Password of %s: " % server)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sxm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-s", "--server", required=True, help="the master of the VM's pool")
    parser.add_argument("-u", "--user", default="root")
    parser.add_argument(
        "--password-file", help="the password is its first line (default: asked for)"
    )
    commands = parser.add_subparsers(metavar="command")
    commands.required = True
    one = commands.add_parser("migrate", help="move a VM and its disks, or copy it")
    one.add_argument(
        "arguments", nargs="+", metavar="name=value", help="as xe vm-migrate takes them"
    )
    one.add_argument(
        "--copy", action="store_true", help="copy the VM, which is halted, and leave it as it is"
    )
    one.add_argument(
        "--remote-password-file", help="that of the destination pool (default: asked for)"
    )
    one.set_defaults(command=migrate)
    for name, command, text in (
        ("watch", watch, "show a migration"),
        ("cancel", cancel, "cancel a migration"),
        ("resume", resume, "have a broken migration try again at once"),
    ):
        one = commands.add_parser(name, help=text)
        one.add_argument("migration", help="its id, or vm=UUID or vm=NAME")
        one.set_defaults(command=command)
    one = commands.add_parser("help", help="what the plugin can do, and by which arguments")
    one.add_argument("function", nargs="?")
    one.set_defaults(command=explain)
    commands.add_parser("list", help="list migrations").set_defaults(command=listed)
    return parser


if __name__ == "__main__":
    sys.exit(main())
