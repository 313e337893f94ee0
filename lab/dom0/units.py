# SPDX-License-Identifier: LGPL-2.1-only
"""What systemd-run and systemctl do on a host of the lab: transient services, and services from
unit files, as systemd 219 has them.

As strict as systemd 219 and 252, whichever is the stricter, in what the product may meet:

- systemd-run answers before the process is there; a unit of that name that is loaded, be it that it
  has failed, or that some process of it is left, is not started again
  (`transient_unit_from_message`: load_state has to be not-found);
- options and properties that 219 does not have are refused;
- a unit inherits nothing: its environment is PATH and INVOCATION_ID, and what the unit says;
- when its main process has ended, all others that it has begun are ended, unless KillMode=process;
- one that ends by an exit status or a signal that is no clean one stays loaded, as failed, until
  `reset-failed`; any other is forgotten;
- Restart=on-abnormal and on-failure, RestartSec, at most five starts within ten seconds; `%i` is
  the instance as it is written.

A unit's state is a file in ROOT/run/systemd/units, kept by one process for each unit that runs,
which is its parent.
"""

import fnmatch
import os
import re
import signal
import sys
import time

BOOTED = "/run/systemd/system"
STATES = "/run/systemd/units"
PROGRAMS = ("systemd-run", "systemctl")
PLACES = ("/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
NAME = re.compile(r"[A-Za-z0-9:_.@-]{1,240}\Z")
PROPERTIES = {"KillMode": ("control-group", "process", "mixed", "none")}
CLEAN = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)
RESTARTS = {"no": (), "on-abnormal": ("signal",), "on-failure": ("signal", "exit-code")}
TIMES = 90.0  # seconds from SIGTERM to SIGKILL
BURST, WITHIN = 5, 10.0  # starts within so many seconds
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
        if not os.path.isdir(root + BOOTED):
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
    if _read(root, unit) or _unit_file(root, unit):
        raise Refused(
            "Failed to start transient service unit: Unit %s was already loaded or has a fragment "
            "file." % unit
        )
    _write(root, unit, dict(_state("inactive", "dead"), Slice=slice_))
    _keep(root, unit, lambda: dict(settings, argv=given, environment=environment))
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
        state = _read(root, _service(unit)) or dict(
            _state("inactive", "dead"), LoadState="not-found"
        )
        for name in properties:
            print("%s=%s" % (name, state.get(name, "")))
    return 0


def _reset_failed(root, given):
    known = loaded(root)
    for pattern in given:
        if not _is_pattern(pattern) and _service(pattern) not in known:
            raise Refused(
                "Failed to reset failed state of unit %s: Unit %s not loaded."
                % (pattern, _service(pattern))
            )
        for unit in fnmatch.filter(known, _service(pattern)):
            if known[unit]["ActiveState"] == "failed":
                _end(root, unit, known[unit])
    return 0


def _start(root, given):
    for unit in map(_service, given):
        if not _unit_file(root, unit):
            raise Refused("Failed to start %s: Unit not found." % unit, 5)
        state = _read(root, unit)
        if state and state["ActiveState"] in ("active", "activating"):
            continue
        _write(root, unit, _state("activating", "start"))
        _keep(root, unit, lambda: _settings(root, unit))
        while (_read(root, unit) or {}).get("SubState") == "start":
            time.sleep(POLL)
    return 0


def _stop(root, given):
    for unit in map(_service, given):
        state = _read(root, unit)
        if state and state["SubState"] == "auto-restart":
            _kill(int(state["keeper"]), signal.SIGKILL)
            _end(root, unit, state)
        elif state and state["ActiveState"] in ("active", "activating"):
            _write(root, unit, dict(state, stopping=True))
            _kill(int(state["MainPID"]), signal.SIGTERM)
            while (_read(root, unit) or {}).get("ActiveState") in ("active", "activating"):
                time.sleep(POLL)
    return 0


def _is_active(root, given):
    state = _read(root, _service(given[-1])) or _state("inactive", "dead")
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


# The states of units


def loaded(root):
    """The units of a host that are loaded, by name: their properties."""
    directory = root + STATES
    names = (
        [name for name in os.listdir(directory) if not name.startswith(".")]
        if os.path.isdir(directory)
        else []
    )
    return {name: state for name, state in ((name, _read(root, name)) for name in names) if state}


def _state(active, sub, main=0):
    return {
        "LoadState": "loaded",
        "ActiveState": active,
        "SubState": sub,
        "MainPID": str(main),
        "keeper": "0",
    }


def _read(root, unit):
    """A unit's properties; None of one that is not loaded. One that has ended is loaded for as long
    as a process of it is left."""
    try:
        with open("%s%s/%s" % (root, STATES, unit)) as source:
            state = dict(line.rstrip("\n").split("=", 1) for line in source)
    except FileNotFoundError:
        return None
    if state["ActiveState"] == "inactive" and "left" in state and not _of_invocation(state["left"]):
        return None
    return state


def _write(root, unit, state):
    directory = root + STATES
    os.makedirs(directory, exist_ok=True)
    temporary = "%s/.%s.%d" % (directory, unit, os.getpid())
    with open(temporary, "w") as out:
        out.write("".join("%s=%s\n" % item for item in state.items()))
    os.rename(temporary, "%s/%s" % (directory, unit))


def _end(root, unit, state):
    """Not failed, and not running: what is left of it keeps it loaded."""
    if _of_invocation(state["left"]):
        _write(root, unit, dict(_state("inactive", "dead"), left=state["left"]))
    else:
        os.unlink("%s%s/%s" % (root, STATES, unit))


def _service(name):
    return name if name.endswith((".service", ".slice", "*")) else name + ".service"


def _is_pattern(text):
    return any(letter in text for letter in "*?[")


# Unit files


def _unit_file(root, unit):
    names = [unit] + ([re.sub("@.*[.]", "@.", unit)] if "@" in unit else [])
    return next(
        (
            path
            for name in names
            for path in ("%s%s/%s" % (root, place, name) for place in PLACES)
            if os.path.isfile(path)
        ),
        None,
    )


def _settings(root, unit):
    """What the unit file and what has been dropped beside it say of its service: KillMode,
    Restart..., argv, environment."""
    path = _unit_file(root, unit)
    files = [path]
    for place in reversed(PLACES):
        directory = "%s%s/%s.d" % (root, place, os.path.basename(path))
        if os.path.isdir(directory):
            files += [
                os.path.join(directory, name)
                for name in sorted(os.listdir(directory))
                if name.endswith(".conf")
            ]
    found = {"environment": {}}
    for name in files:
        with open(name) as source:
            for line in source:
                key, equals, value = line.strip().partition("=")
                if key == "Environment":
                    found["environment"].update([value.split("=", 1)])
                elif equals and not key.startswith(("#", ";")):
                    found[key] = value
    instance = re.sub("^.*@|[.]service$", "", unit) if "@" in unit else ""
    found["argv"] = [
        word.replace("%i", instance).replace("%%", "%").replace("$$", "$")
        for word in _words(found["ExecStart"])
    ]
    return found


def _words(text):
    """The words of a command line, of which one may be in quotes."""
    return [quoted or word for quoted, word in re.findall(r"'([^']*)'|(\S+)", text)]


# A unit that runs


def _keep(root, unit, settings):
    """Have a process of its own see to the unit from here on: its parent, as PID 1 is on a host."""
    sys.stdout.flush()
    if os.fork():
        os.wait()
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.closerange(3, 256)
    os.chdir("/")
    try:
        _see_to(root, unit, settings)
    except BaseException:
        import traceback  # costs an emulated processor a second, and is hardly ever needed

        with open(root + "/var/log/systemd.out", "a") as log:
            traceback.print_exc(file=log)
    finally:
        os._exit(0)


def _see_to(root, unit, settings):
    starts = []
    while True:
        told = settings()
        invocation = os.urandom(16).hex()
        starts.append(time.monotonic())
        pid = os.fork()
        if pid == 0:
            _become(root, invocation, told)
        state = dict(_state("active", "running", pid), keeper=os.getpid(), left=invocation)
        _write(root, unit, state)
        _, status = os.waitpid(pid, 0)
        result = _result(status)
        if told.get("KillMode", "control-group") == "control-group":
            _kill_all(invocation)
        stopped = "stopping" in (_read(root, unit) or {})
        told = settings()
        if (
            stopped
            or result not in RESTARTS[told.get("Restart", "no")]
            or not os.path.isdir(root + BOOTED)
        ):
            break
        _write(
            root,
            unit,
            dict(_state("activating", "auto-restart"), keeper=os.getpid(), left=invocation),
        )
        time.sleep(float(told["RestartSec"].rstrip("s")))
        if len([start for start in starts if start > time.monotonic() - WITHIN]) >= BURST:
            break
    if result == "success":
        _end(root, unit, state)
    else:
        _write(root, unit, dict(_state("failed", "failed"), left=invocation, Result=result))


def _become(root, invocation, told):
    os.setsid()
    for number in CLEAN:
        signal.signal(number, signal.SIG_DFL)
    environment = {
        "PATH": "%s/usr/sbin:%s/usr/bin:%s" % (root, root, PATH),
        "INVOCATION_ID": invocation,
    }
    environment.update(told["environment"])
    try:
        os.execve(told["argv"][0], told["argv"], environment)
    except OSError:
        os._exit(203)


def _result(status):
    if os.WIFSIGNALED(status):
        return "success" if os.WTERMSIG(status) in CLEAN else "signal"
    return "exit-code" if os.WEXITSTATUS(status) else "success"


def _of_invocation(invocation):
    """The processes that a unit has begun, by what they inherited: what a cgroup knows."""
    mark, found = ("INVOCATION_ID=%s" % invocation).encode(), []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open("/proc/%s/environ" % name, "rb") as source:
                    if mark in source.read().split(b"\0"):
                        found.append(int(name))
            except OSError:
                continue  # it has ended, or is not ours
    return found


def _kill_all(invocation):
    for number, patience in ((signal.SIGTERM, TIMES), (signal.SIGKILL, TIMES)):
        for pid in _of_invocation(invocation):
            _kill(pid, number)
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if not _of_invocation(invocation):
                return
            time.sleep(POLL)


def _kill(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
