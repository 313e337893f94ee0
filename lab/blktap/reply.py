# SPDX-License-Identifier: LGPL-2.1-only
"""The habit of tapdisk's pause: under I/O its reply often stays out until some other event wakes
the tapdisk.

Measured on the real one (facts, section 2): 36 of 60 pauses of a busy disk hung, none of an idle
one, and one poke (`tap-ctl list -p PID`, or any other command to that tapdisk) did not always
suffice.

$LAB_TAPDISK_PAUSE_REPLY, or else one word in ROOT/etc/lab-tapdisk-pause-reply, chooses for tests:
`as-tapdisk` (the default), `withheld` (always, busy or not), `prompt` (never).
"""

import errno
import os
import select
import time

WITHHELD_SHARE = 0.6
SECOND_POKE_SHARE = 0.25
MOST_POKES = 2
# tapdisk's select wakes by itself after this many seconds
LONGEST_SLEEP = 600.0
PLACE = "/etc/lab-tapdisk-pause-reply"
HABITS = ("as-tapdisk", "withheld", "prompt")
# QEMU's event loop reads and writes event counters all the time, 8 bytes with each call
EVENT = 8
SECTOR = 512


class IoMeter(object):
    """Whether a qemu-storage-daemon reads or writes images, by the bytes of its read() and write()
    calls (not sockets)."""

    def __init__(self, pid):
        self._pid = pid
        self._before = self._moved()

    def moved(self):
        return self._moved() - self._before >= SECTOR

    def _moved(self):
        with open("/proc/%d/io" % self._pid) as counters:
            values = dict(line.split(": ") for line in counters)
        return (
            int(values["rchar"])
            + int(values["wchar"])
            - EVENT * (int(values["syscr"]) + int(values["syscw"]))
        )


def habit(root):
    """The chosen habit. ValueError for a word that is none."""
    word = os.environ.get("LAB_TAPDISK_PAUSE_REPLY")
    if word is None:
        try:
            with open(root + PLACE) as switch:
                word = switch.read().strip()
        except FileNotFoundError:
            word = HABITS[0]
    if word not in HABITS:
        raise ValueError("pause reply %r is none of %s" % (word, ", ".join(HABITS)))
    return word


def choose(root, word):
    """Have pauses on the host at `root` answered by that habit from now on; None: by the default
    one."""
    path = root + PLACE
    if word is not None:
        with open(path, "w") as switch:
            switch.write(word)
    elif os.path.exists(path):
        os.unlink(path)


def pokes_needed(root, busy):
    """How many pokes this pause will wait for."""
    chosen = habit(root)
    if chosen == "prompt" or chosen == "as-tapdisk" and not (busy and _chance(WITHHELD_SHARE)):
        return 0
    return MOST_POKES if _chance(SECOND_POKE_SHARE) else 1


def _chance(share):
    return os.urandom(1)[0] < share * 256


def withhold(layout, pid, pokes, asker):
    """Sleep until `pokes` pokes came, tapdisk wakes by itself, or nobody reads from pipe `asker`
    any more."""
    path = layout.reply_fifo(pid)
    os.mkfifo(path, 0o600)
    # opened for writing too, so that it does not end when one poker has closed it
    fifo = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        events = select.poll()
        events.register(fifo, select.POLLIN)
        events.register(asker, 0)  # only that it breaks is of interest
        until = time.monotonic() + LONGEST_SLEEP
        while pokes > 0 and time.monotonic() < until:
            ready = [fd for fd, _ in events.poll((until - time.monotonic()) * 1000)]
            if asker in ready:
                return
            if fifo in ready:
                os.read(fifo, 1)
                pokes -= 1
    finally:
        os.close(fifo)
        os.unlink(path)


def poke(layout, pid, pokes=1):
    """Wake tapdisk `pid`, as any command to it does. One that cannot run beside a pause needs all
    `MOST_POKES`: tapdisk answers the pause before it turns to the next such command."""
    for path in (layout.wake(pid), layout.reply_fifo(pid)):
        _write(path, pokes)


def _write(path, pokes):
    try:
        fifo = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENXIO):
            return  # it sleeps on nothing
        raise
    try:
        os.write(fifo, b"." * pokes)
    except BlockingIOError:
        pass  # a thousand pokes are waiting already
    finally:
        os.close(fifo)
