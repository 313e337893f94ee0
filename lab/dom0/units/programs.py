# SPDX-License-Identifier: LGPL-2.1-only
"""systemd-run and systemctl: their command lines, and what they answer."""

import fnmatch
import os
import re
import signal
import sys
import time

from . import files, keeper, processes, states

PROGRAMS = ("systemd-run", "systemctl")
NAME = re.compile(r"[A-Za-z0-9:_.@-]{1,240}\Z")
PROPERTIES = {"KillMode": ("control-group", "process", "mixed", "none")}
POLL = 0.02


class Refused(Exception):
    """What systemd says, and exits with."""

    def __init__(self, text, status=1):
        super(Refused, self).__init__(text)
        self.status = status


def main(root, argv):
    """Be systemd-run or systemctl; the exit status."""
    program = os.path.basename(argv[0])
    try:
        if not os.path.isdir(root + keeper.BOOTED):
            raise Refused(
                "System has not been booted with systemd as init system (PID 1). Can't operate."
            )
        return {"systemd-run": _run, "systemctl": _systemctl}[program](root, argv[1:])
    except Refused as refused:
        sys.stderr.write("%s\n" % refused)
        return refused.status


# systemd-run


def _run(root, given):
    unit, slice_, settings, environment = None, "system.slice", {}, {}
    given = list(given)
    while given and given[0].startswith("-"):
        option = given.pop(0)
        name, _, value = option.partition("=")
        if name == "--quiet":
            continue
        if name in ("-p", "--property"):
            key, _, value = (value or given.pop(0)).partition("=")
            if value not in PROPERTIES.get(key, ()):
                raise Refused("Unknown assignment %s=%s." % (key, value))
            settings[key] = value
        elif name == "--setenv" and "=" in value:
            environment.update([value.split("=", 1)])
        elif name == "--unit":
            unit = value
        elif name == "--slice":
            slice_ = value
        else:
            raise Refused("systemd-run: unrecognized option '%s'" % option)
    if not given:
        raise Refused("Command line to execute required.")
    if not given[0].startswith("/"):
        raise Refused("Failed to find executable %s: this one looks for none" % given[0])
    if not unit or not NAME.match(unit) or "@" in unit:
        raise Refused("Invalid unit name %r." % unit)
    unit += ".service"
    if states.read(root, unit) or files.find(root, unit):
        raise Refused(
            "Failed to start transient service unit: Unit %s was already loaded or has a fragment "
            "file." % unit
        )
    states.write(root, unit, dict(states.make("inactive", "dead"), Slice=slice_))
    keeper.keep(root, unit, lambda: dict(settings, argv=given, environment=environment))
    return 0


# systemctl


def _systemctl(root, given):
    command = next((word for word in given if not word.startswith("-")), None)
    if command not in COMMANDS:
        raise Refused("Unknown operation %s." % command)
    return COMMANDS[command](root, [word for word in given if word != command])


def _show(root, given):
    properties, units = [], []
    while given:
        word = given.pop(0)
        if word == "-p":
            properties += given.pop(0).split(",")
        else:
            units.append(word)
    for unit in units:
        state = states.read(root, _service(unit)) or dict(
            states.make("inactive", "dead"), LoadState="not-found"
        )
        for name in properties:
            print("%s=%s" % (name, state.get(name, "")))
    return 0


def _reset_failed(root, given):
    known = states.loaded(root)
    for pattern in given:
        if not _is_pattern(pattern) and _service(pattern) not in known:
            raise Refused(
                "Failed to reset failed state of unit %s: Unit %s not loaded."
                % (pattern, _service(pattern))
            )
        for unit in fnmatch.filter(known, _service(pattern)):
            if known[unit]["ActiveState"] == "failed":
                states.end(root, unit, known[unit])
    return 0


def _start(root, given):
    for unit in map(_service, given):
        if not files.find(root, unit):
            raise Refused("Failed to start %s: Unit not found." % unit, 5)
        state = states.read(root, unit)
        if state and state["ActiveState"] in ("active", "activating"):
            continue
        states.write(root, unit, states.make("activating", "start"))
        keeper.keep(root, unit, lambda: files.settings(root, unit))
        while (states.read(root, unit) or {}).get("SubState") == "start":
            time.sleep(POLL)
    return 0


def _stop(root, given):
    for unit in map(_service, given):
        state = states.read(root, unit)
        if state and state["SubState"] == "auto-restart":
            processes.kill(int(state["keeper"]), signal.SIGKILL)
            states.end(root, unit, state)
        elif state and state["ActiveState"] in ("active", "activating"):
            states.write(root, unit, dict(state, stopping=True))
            processes.kill(int(state["MainPID"]), signal.SIGTERM)
            while (states.read(root, unit) or {}).get("ActiveState") in ("active", "activating"):
                time.sleep(POLL)
    return 0


def _is_active(root, given):
    state = states.read(root, _service(given[-1])) or states.make("inactive", "dead")
    if "--quiet" not in given:
        print(state["ActiveState"])
    return 0 if state["ActiveState"] == "active" else 3


COMMANDS = {
    "show": _show,
    "reset-failed": _reset_failed,
    "start": _start,
    "stop": _stop,
    "is-active": _is_active,
    "daemon-reload": lambda root, given: 0,
}


def _service(name):
    return name if name.endswith((".service", ".slice", "*")) else name + ".service"


def _is_pattern(text):
    return any(letter in text for letter in "*?[")
