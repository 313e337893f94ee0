# SPDX-License-Identifier: LGPL-2.1-only
"""The lab's guest: `python -m lab.guest CONFIG`.

CONFIG is a JSON file: {"id", "control": path of the unix socket to serve, "settings": {name:
string}}. The guest serves `control` at once, is given its memory if it was moved (`restore`), and
its disks when it shall run (`run`).
"""

import json
import sys

from lab.guest.control import ControlSocket
from lab.guest.machine import Machine, settings_from
from lab.guest.nbd import connect


def main(path):
    with open(path) as stream:
        config = json.load(stream)
    machine = Machine(config["id"], settings_from(config["settings"]), connect)
    ControlSocket(config["control"], machine).serve()


if __name__ == "__main__":
    main(sys.argv[1])
