# SPDX-License-Identifier: LGPL-2.1-only
"""`python -m lab.storage_guest [--bound S] [--storage] [--] COMMAND...`: run a command in the
storage guest.

Without a command: only build the image.
"""

import argparse
import sys

from lab.storage_guest import image, machine, services

GIB = 1 << 30


def _disk(text):
    name, _, size = text.partition("=")
    return machine.Disk(name, int(size) * GIB)


def main():
    parser = argparse.ArgumentParser(prog="python -m lab.storage_guest", description=__doc__)
    parser.add_argument(
        "--bound", type=float, default=600.0, help="seconds that the command may take"
    )
    parser.add_argument(
        "--disk",
        type=_disk,
        action="append",
        default=[],
        help="an empty disk for the guest: NAME=GIB",
    )
    parser.add_argument(
        "--storage", action="store_true", help="add the disks that lab.storage_guest.services needs"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable of the command's environment",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    try:
        if not command:
            print(image.ensure())
            return 0
        disks = arguments.disk + (list(services.DISKS) if arguments.storage else [])
        environment = dict(setting.partition("=")[::2] for setting in arguments.set)
        return machine.run(command, arguments.bound, disks, environment)
    except (image.BuildFailed, machine.GuestDied) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
