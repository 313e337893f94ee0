# SPDX-License-Identifier: LGPL-2.1-only
"""The states of a host's units, in files: a unit that is loaded has one."""

import os

from . import processes

STATES = "/run/systemd/units"


def loaded(root):
    """The units of a host that are loaded, by name: their properties."""
    directory = root + STATES
    names = (
        [name for name in os.listdir(directory) if not name.startswith(".")]
        if os.path.isdir(directory)
        else []
    )
    return {name: state for name, state in ((name, read(root, name)) for name in names) if state}


def make(active, sub, main=0):
    """The properties of a unit that is loaded; `main`: the pid of its main process."""
    return {
        "LoadState": "loaded",
        "ActiveState": active,
        "SubState": sub,
        "MainPID": str(main),
        "keeper": "0",
    }


def read(root, unit):
    """A unit's properties; None of one that is not loaded. One that has ended is loaded for as long
    as a process of it is left."""
    try:
        with open("%s%s/%s" % (root, STATES, unit)) as source:
            state = dict(line.rstrip("\n").split("=", 1) for line in source)
    except FileNotFoundError:
        return None
    if (
        state["ActiveState"] == "inactive"
        and "left" in state
        and not processes.of_invocation(state["left"])
    ):
        return None
    return state


def write(root, unit, state):
    """Note a unit's properties; who reads them meanwhile has the former ones, or these."""
    directory = root + STATES
    os.makedirs(directory, exist_ok=True)
    temporary = "%s/.%s.%d" % (directory, unit, os.getpid())
    with open(temporary, "w") as out:
        out.write("".join("%s=%s\n" % item for item in state.items()))
    os.rename(temporary, "%s/%s" % (directory, unit))


def end(root, unit, state):
    """Not failed, and not running: what is left of it keeps it loaded."""
    if processes.of_invocation(state["left"]):
        write(root, unit, dict(make("inactive", "dead"), left=state["left"]))
    else:
        os.unlink("%s%s/%s" % (root, STATES, unit))
