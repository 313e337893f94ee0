# SPDX-License-Identifier: LGPL-2.1-only
"""The commands of `tap-ctl`: answers, usage and exit codes of the real one (exit code = errno)."""

import errno
import os
import sys

from . import options, records
from .options import number

_OPEN_OPTIONS = (
    "[-R readonly] [-e <minor> stack on existing tapdisk for the parent chain] "
    "[-r turn on read caching into leaf node] [-2 <path> use secondary image (in mirror mode if no "
    "-s)] "
    "[-s fail over to the secondary image on ENOSPC] [-t request timeout in seconds] [-D no "
    "O_DIRECT] "
    "[-C </path/to/logfile> insert log layer to track changed blocks]"
)


def list_(layout, given):
    from . import listing

    listing.write(layout, given)
    return 0


def allocate(layout, given):
    sys.stdout.write(layout.device(records.allocate(layout)) + "\n")
    return 0


def free(layout, given):
    records.free(layout, _minor(given))
    return 0


def spawn(layout, given):
    from . import engine

    pid = engine.spawn(layout)
    sys.stdout.write(("tapdisk spawned with pid %d\n" if sys.stdout.isatty() else "%d\n") % pid)
    return 0


def attach(layout, given):
    pid, minor = _pid(given), _minor(given)

    def command(record):
        with records.Locked(layout.markers):
            if not os.path.exists(layout.marker(minor)) or any(
                other.minor == minor for other in records.living(layout)
            ):
                raise records.failure(errno.EINVAL)
            if record.minor is not None:
                raise records.not_imitated("a second vbd in one tapdisk")
            record.minor, record.state = minor, records.RUNNING
            records.store(layout, record)

    return _in_tapdisk(layout, pid, command)


def detach(layout, given):
    from . import engine, qmp, vbd

    pid, minor = _pid(given), _minor(given)

    def command(record):
        if record.minor != minor or record.args is not None:
            raise records.failure(errno.EINVAL)
        with qmp.Monitor(layout.ctl(pid), vbd.COMMAND_BOUND) as monitor:
            engine.quit(layout, record, monitor)

    code = _in_tapdisk(layout, pid, command)
    if code == errno.EINVAL:
        sys.stdout.write("got unexpected result 'error' from %d\n" % pid)
    return code


def open_(layout, given):
    from . import vbd

    pid, minor = _pid(given), _minor(given)
    args = _required(given, "a")
    _refuse(given, "erstE")

    def command(record):
        _require_minor(record, minor, errno.EINVAL)
        vbd.open(layout, record, args, "R" in given, given.get("2"), given.get("C"))

    return _in_tapdisk(layout, pid, command)


def close(layout, given):
    from . import vbd

    pid, minor = _pid(given), _minor(given)

    def command(record):
        _require_minor(record, minor, errno.ENODEV)
        vbd.close(layout, record)

    return _in_tapdisk(layout, pid, command, number(given["t"]) if "t" in given else None)


def create(layout, given):
    from . import engine

    _required(given, "a")
    _refuse(given, "erst")
    minor = records.allocate(layout)
    pid = None
    try:
        pid = engine.spawn(layout)
        vbd = {"p": str(pid), "m": str(minor)}
        code = attach(layout, vbd) or open_(layout, dict(given, **vbd))
        if code == 0:
            sys.stdout.write(layout.device(minor) + "\n")
            return 0
    except BaseException:
        _undo_create(layout, pid, minor)
        raise
    _undo_create(layout, pid, minor)
    return code


def _undo_create(layout, pid, minor):
    from . import engine

    record = None if pid is None else records.load(layout, pid)
    if record is not None:
        engine.kill(layout, record)
    records.free(layout, minor)


def destroy(layout, given):
    _pid(given)
    minor = _minor(given)
    code = close(layout, given) or detach(layout, given)
    if code == 0:
        records.free(layout, minor)
    return code


def pause(layout, given):
    from . import reply, vbd

    if "t" in given:
        raise options.Usage()  # the real one lacks a `break` here, so that -t never works
    pid, minor = _pid(given), _minor(given)
    reply.habit(layout.root)

    def command(record):
        _require_minor(record, minor, errno.ENODEV)
        return reply.pokes_needed(layout.root, vbd.pause(layout, record))

    return _in_tapdisk(layout, pid, command)


def unpause(layout, given):
    from . import vbd

    pid, minor = _pid(given), _minor(given)

    def command(record):
        _require_minor(record, minor, errno.ENODEV)
        vbd.unpause(layout, record, given.get("a"), given.get("2"), given.get("c"))

    return _in_tapdisk(layout, pid, command)


def commit(layout, given):
    from . import commit as merging

    pid, minor = _pid(given), _minor(given)
    path = _required(given, "a")

    def command(record):
        _require_minor(record, minor, errno.ENODEV)
        merging.begin(layout, record, path)

    return _in_tapdisk(layout, pid, command)


def query(layout, given):
    from . import commit as merging, reply

    pid, minor = _pid(given), _minor(given)
    with records.LockedTapdisk(layout, pid) as record:
        _require_minor(record, minor, errno.ENODEV)
        said = merging.query(layout, record)
    reply.poke(layout, pid)
    sys.stdout.write(said)
    return 0


def cancel(layout, given):
    from . import commit as merging

    pid, minor = _pid(given), _minor(given)

    def command(record):
        _require_minor(record, minor, errno.ENODEV)
        merging.cancel(layout, record)

    return _in_tapdisk(layout, pid, command)


def stats(layout, given):
    from . import reply, stats as rendering

    pid, minor = _pid(given), _minor(given)
    record = records.require(layout, pid)
    reply.poke(layout, pid)
    # not a word about a minor that is not there; and two ends of line, as on the real one
    sys.stdout.write(rendering.render(layout, record) * (record.minor == minor) + "\n\n")
    return 0


def _in_tapdisk(layout, pid, command, timeout=None):
    from . import worker

    code, text = worker.run(layout, pid, command, timeout)
    if text:
        _explain(text)
    return code


def _explain(text):
    """What the real one says in syslog only, and of ourselves in any case."""
    sys.stderr.write("tap-ctl (lab): %s\n" % text)


def _require_minor(record, minor, code):
    if record.minor != minor:
        raise records.failure(code)


def _pid(given):
    return number(_required(given, "p"))


def _minor(given):
    return number(_required(given, "m"))


def _required(given, letter):
    if letter not in given:
        raise options.Usage()
    return given[letter]


def _refuse(given, letters):
    for letter in letters:
        if letter in given:
            raise records.not_imitated("option -%s" % letter)


# name, what does it, letters for getopt, usage
COMMANDS = (
    (
        "list",
        list_,
        "m:p:t:f:h",
        "[-h] [-p pid] [-m minor] [-t type] [-f file]\n\nLists tapdisks in the following format:\n"
        "     pid minor state       type file",
    ),
    ("allocate", allocate, "h", ""),
    ("free", free, "m:h", "<-m minor>"),
    (
        "create",
        create,
        "a:RDd:e:r2:st:C:h",
        "<-a type:/path/to/file> [-d device name] " + _OPEN_OPTIONS,
    ),
    ("destroy", destroy, "p:m:t:h", "<-p pid> <-m minor> [-t timeout secs]"),
    ("spawn", spawn, "h", ""),
    ("attach", attach, "p:m:h", "<-p pid> <-m minor>"),
    ("detach", detach, "p:m:h", "<-p pid> <-m minor>"),
    (
        "open",
        open_,
        "a:RDm:p:e:r2:st:C:Eh",
        "<-p pid> <-m minor> <-a type:/path/to/file> "
        + _OPEN_OPTIONS
        + " [-E read encryption key from stdin]",
    ),
    ("close", close, "p:m:ft:h", "<-p pid> <-m minor> [-f force] [-t timeout secs]"),
    ("pause", pause, "p:m:t:h", "<-p pid> <-m minor> [-t timeout secs]"),
    (
        "unpause",
        unpause,
        "p:m:a:2:c:h",
        "<-p pid> <-m minor> [-a type:/path/to/file] [-2 secondary] "
        "[-c </path/to/logfile> insert log layer to track changed blocks]",
    ),
    (
        "stats",
        stats,
        "p:m:h",
        "<-p pid> <-m minor>\n\nPrints a Python dictionary with the VBD stats. The images are "
        "listed in reverse order (leaf to root)",
    ),
    ("commit", commit, "a:m:p:h", "<-p pid> <-m minor> <-a /path/to/file>"),
    ("query", query, "m:p:h", "<-p pid> <-m minor>"),
    ("cancel", cancel, "m:p:wh", "<-p pid> <-m minor> [-w]"),
)
_OF_QCOW2 = ("commit", "query", "cancel")
"""The commands of XCP-ng's tap-ctl alone, which is where QCOW2 is (nbd_server.PLACE)."""
QCOW2 = "/etc/lab-tapdisk-qcow2"


def main(root, argv, device=records.BLKTAP4):
    """Run `argv` (argv[0] is ignored) on the tapdisks below `root`; `device` is how a minor is
    named. Returns the exit code."""
    known = [row for row in COMMANDS if row[0] not in _OF_QCOW2 or os.path.exists(root + QCOW2)]
    for name, function, letters, usage in known:
        if argv[1:2] == [name]:
            return _run(
                records.Layout(root.rstrip("/"), device),
                function,
                letters,
                "usage: %s %s" % (name, usage),
                argv[2:],
            )
    sys.stdout.write(
        "usage: tap-ctl COMMAND [OPTIONS]\nCOMMAND := { %s }\n"
        % " | ".join(row[0] for row in known)
    )
    return 0


def _run(layout, function, letters, usage, arguments):
    try:
        code = function(
            layout, options.read(letters, [word for word in arguments if word != "--debug"])
        )
    except options.Help:
        sys.stdout.write(usage.rstrip() + "\n")
        return 0
    except options.Usage:
        sys.stderr.write(usage.rstrip() + "\n")
        code = errno.EINVAL
    except OSError as error:
        code = error.errno or errno.EIO
        if error.strerror != os.strerror(code):
            _explain(error.strerror)
    except Exception:  # pylint: disable=broad-except -- Python's own exit code, 1, would be EPERM
        import traceback

        code = errno.EIO
        traceback.print_exc()
    if code:
        sys.stderr.write(os.strerror(code) + "\n")
    return code
