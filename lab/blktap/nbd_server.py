# SPDX-License-Identifier: LGPL-2.1-only
"""The NBD server of a tapdisk that has a QCOW2 image open, as XCP-ng's blktap 3.55.5 has it: it
stands before QEMU's.

Measured on the real one (docs/facts/xcp-ng-8.3.md, 3 and 4), whose requests are completed by a
second thread: a connection with SLOTS requests in flight is not read any more, and nothing but a
poke (`tap-ctl list`) makes it go on (the real one is woken by another connection's request as well,
and stalls at seven now and then); more than IMAGE_SLOTS requests at a time over all connections
wait for a second; BLOCK_STATUS is never answered, and the disk cannot be paused any more; and in
the builds that have no mutex around the slots the tapdisk dies of two requests at a time on a
connection (the real one now and then).

The word in ROOT/etc/lab-tapdisk-qcow2 says which: `stalls`, `crashes`; without it QEMU's own server
is the tapdisk's. A guest does not come by NBD on a real host, but by the ring: it has QEMU's
server, at lab/<pid>.ring, to itself.

Each close of a disk asks here for such a server (`end`), so what one needs is imported when there
is one.
"""

import os
import signal
import sys
import time

from . import detach, records

STALLS, CRASHES = "stalls", "crashes"
PLACE = "/etc/lab-tapdisk-qcow2"
BACKLOG = 16


def habit(root):
    """Which of the two it is on the host at `root`, or None. ValueError for a word that is none."""
    try:
        with open(root + PLACE) as chosen:
            word = chosen.read().strip()
    except FileNotFoundError:
        return None
    if word not in (STALLS, CRASHES):
        raise ValueError("%r is neither %s nor %s" % (word, STALLS, CRASHES))
    return word


def choose(root, word):
    """Have the tapdisks that are opened from now on behave so; None: as QEMU's."""
    if word is not None:
        with open(root + PLACE, "w") as place:
            place.write(word)
    elif os.path.exists(root + PLACE):
        os.unlink(root + PLACE)


def start(layout, pid, minor):
    """Serve the vbd of tapdisk `pid` at its NBD socket, in a process of its own, which ends with
    QEMU's server at the ring. It is no tap-ctl by its command line: who looks for those that are
    about to open an image would wait for it."""
    import socket

    path = layout.nbd(pid, minor)
    records.unlink_if_there(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(path)
    listening.listen(BACKLOG)
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        listening.close()
        os.close(writer)
        with os.fdopen(reader, "rb") as ready:
            if ready.read() != b"ready":
                raise records.not_imitated("a QCOW2 tapdisk whose NBD server does not start")
        with open(layout.server(pid), "w") as note:
            note.write("%d %s" % (child, records.start_time(child)))
        return
    try:
        os.setsid()
        kept = (listening.fileno(), writer)
        detach.keep_only(kept, layout.log(pid))
        for fd in kept:
            os.set_inheritable(fd, True)
        crashes = habit(layout.root) == CRASHES
        words = [str(number) for number in (pid, int(crashes)) + kept]
        os.execv(
            sys.executable,
            [sys.executable, "-SE", "-c", _SERVE, __package__, layout.root] + words + sys.path,
        )
    finally:
        os._exit(1)


_SERVE = """
import importlib, sys
package, root = sys.argv[1:3]
numbers, sys.path[:] = [int(word) for word in sys.argv[3:7]], sys.argv[7:]
importlib.import_module(package + ".nbd_serving").serve(root, *numbers)
"""


def end(layout, pid, bound):
    """Wait until the server of tapdisk `pid`, which has closed its disk or is dead, has ended, if
    it had one; kill it after `bound` (s)."""
    try:
        server, started = _noted(layout.server(pid))
    except FileNotFoundError:
        return
    until = time.monotonic() + bound
    while records.start_time(server) == started:  # its pid may be another's by now
        if time.monotonic() > until:
            os.kill(server, signal.SIGKILL)
        time.sleep(0.002)
    records.unlink_if_there(layout.server(pid))
    records.unlink_if_there(layout.wake(pid))


def all_of(root):
    """The pids of those on the host at `root`."""
    return [_noted(path)[0] for path in records.Layout(root).servers()]


def _noted(path):
    """(pid, start time) of the server that a note at `path` tells of."""
    with open(path) as note:
        pid, started = note.read().split()
    return int(pid), started
