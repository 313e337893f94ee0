# SPDX-License-Identifier: LGPL-2.1-only
"""What every hostile input is held to: how many there are, and that none has an effect or costs
more than its bounds.

`FUZZ=100000 make test-fuzz` is the long run, with inputs that differ each time; without it a share
of it that is always the same. An input may cost `CPU_BOUND` seconds of processor time, `WALL_BOUND`
seconds altogether and `memory` bytes of new memory (RLIMIT_DATA, so what C libraries take counts as
well), and may open nothing for writing, start no process, connect to nothing and remove nothing:
sys.addaudithook sees whatever Python does of that.
"""

import contextlib
import os
import random
import resource
import signal
import sys
import time
import zlib

from hypothesis import HealthCheck, settings

TOTAL = int(os.environ.get("FUZZ") or 0)
SHARE = 20000  # inputs in all, where FUZZ does not say
CPU_BOUND = 5.0  # seconds of this process; a noisy machine does not count
WALL_BOUND = 120.0  # seconds: for what hangs, on a machine that is busy with much else
MIB = 1 << 20
MEMORY_BOUND = 64 * MIB
EACH = 20  # inputs that `variants` makes of one
# Of a thousand inputs, how many go to each part.
PARTS = {
    "arguments": 20,
    "planner": 10,
    "migration ids": 10,
    "disks to receive": 80,
    "NBD server": 180,
    "roles": 40,
    "NBD client": 160,
    "mirror": 1,
    "JSON lines": 90,
    "hello": 80,
    "TLS": 2,
    "welcome": 60,
    "control role": 70,
    "control socket": 6,
    "control link": 3,
    "ova.xml": 80,
    "archive": 28,
    "journal": 40,
    "VHD": 20,
    "qemu-img": 20,
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
EFFECTS = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "os.forkpty",
    "os.kill",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.chmod",
    "os.chown",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.putenv",
    "shutil.rmtree",
    "socket.connect",
    "socket.bind",
    "socket.sendto",
    "socket.getaddrinfo",
    "urllib.Request",
    "ctypes.dlopen",
)

_figures = {}  # part -> [inputs, slowest in seconds]
_effects = None  # what the input under way has done, while one is
_allowed = ()


def inputs(part, tests=1, each=1):
    """Hypothesis' settings for a test of a part: its examples, the same ones each time without
    FUZZ.

    `tests`: how many share the part's inputs; `each`: how many inputs it makes of one example."""
    count = max(20, -(-(TOTAL or SHARE) * PARTS[part] // 1000 // tests // each))
    return settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=not TOTAL,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


def variants(data):
    """`data` (bytes), and EACH - 1 mutilations of it, the same ones each time.

    What hypothesis thinks up has the structure that gets a parser to its depths; to think it up
    takes longer than to try it."""
    yield data
    chance = random.Random(zlib.crc32(data))
    for _ in range(EACH - 1):
        mutilated = bytearray(data)
        for _ in range(chance.randint(1, 3)):
            at = chance.randint(0, len(mutilated))
            CHANGES[chance.randrange(len(CHANGES))](mutilated, at, chance)
        yield bytes(mutilated)


def _flip(data, at, chance):
    if at < len(data):
        data[at] ^= 1 << chance.randrange(8)


def _odd(data, at, chance):
    odd = chance.choice(
        (
            b"\0",
            b"\xff",
            b"\x80\0\0\0",
            b"\xff\xff\xff\xff",
            b"\0\0\2\0",
            b"<",
            b'"',
            b"{",
            b"]",
            b"-",
            b"9" * 30,
            b"\n",
            b"\xf0\x9f",
        )
    )
    data[at : at + chance.choice((0, len(odd)))] = odd


def _cut(data, at, chance):
    del data[at : at + chance.choice((1, 4, 16, len(data)))]


def _repeat(data, at, chance):
    data[at:at] = data[at : at + chance.choice((1, 4, 28, 64))]


def _move(data, at, chance):
    piece = data[at : at + 16]
    del data[at : at + 16]
    other = chance.randint(0, len(data))
    data[other:other] = piece


CHANGES = (_flip, _flip, _odd, _cut, _repeat, _move)


@contextlib.contextmanager
def bounded(part, memory=MEMORY_BOUND, allowed=()):
    """One input of a part. Fails if it costs too much or does anything to the world. `allowed`:
    audit events that it may cause."""
    global _effects, _allowed
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    before = signal.signal(signal.SIGPROF, _too_slow)
    began = time.monotonic()
    _effects, _allowed = [], allowed
    resource.setrlimit(resource.RLIMIT_DATA, (_data() + memory, hard))
    signal.setitimer(signal.ITIMER_PROF, CPU_BOUND)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        effects, _effects = _effects, None
    took = time.monotonic() - began
    figures = _figures.setdefault(part, [0, 0.0])
    figures[0] += 1
    figures[1] = max(figures[1], took)
    assert not effects, effects
    assert took < WALL_BOUND, "%.1f s" % took


def summary():
    """What was done, as lines."""
    if not _figures:
        return
    yield "fuzzing: %d inputs" % sum(count for count, _ in _figures.values())
    for part, (count, slowest) in sorted(_figures.items()):
        yield "  %-18s %7d   slowest %6.0f ms" % (part, count, slowest * 1000)
    yield "  largest size of this process: %d MiB" % (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    )


def _data():
    """What RLIMIT_DATA counts now, bytes."""
    with open("/proc/self/statm") as source:
        return int(source.read().split()[5]) * resource.getpagesize()


def _too_slow(*_):
    raise AssertionError("more than %.0f s of processor time" % CPU_BOUND)


def _watch(event, arguments):
    if _effects is None or event in _allowed:
        return
    if (
        event in EFFECTS
        or event == "open"
        and isinstance(arguments[2], int)
        and arguments[2] & WRITING
    ):
        _effects.append((event, repr(arguments)[:200]))


sys.addaudithook(_watch)
assert sum(PARTS.values()) == 1000, "the parts are not a whole"
