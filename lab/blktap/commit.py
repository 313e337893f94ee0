# SPDX-License-Identifier: LGPL-2.1-only
"""`tap-ctl commit`, `query`, `cancel`: an image below the one that is in use is merged, with all
that is below it, into the lowest, while the disk is used (block-qcow2.c and tap-ctl-commit.c of
XCP-ng's blktap 3.55.5, where it is QEMU's block-commit).

    commit   ENODEV while the vbd is paused, EOPNOTSUPP for an image that is no QCOW2, EINVAL for
             one that is not in the chain, or the lowest, or if there was a merge before that
             nobody has asked for the end of, or if somebody else has the lowest open, which QEMU
             locks
    query    Commit status 'running' (5/12): "undefined" without a merge; who sees "concluded",
             which says nothing of whether it worked, has taken it away
    cancel   ends it; so do a pause and a close, which leave nothing to be asked for

Here a process of the tapdisk's does it (the tapdisk has the images open only to be read), and when
all is merged the one above gets its new parent. Merging into what is open is right all the time,
since what is merged covers what is written.

The word in ROOT/etc/lab-tapdisk-commit: `held`, and no merge ends; `unflushed`, and it stands still
where the image above names its new parent already, and what was merged into that is in QEMU's cache
alone. In the real one that lasts for moments (commit_prepare, commit_clean). A pause or a close
writes it, and kill -9 loses it.

`subprocess` is imported by who merges only: it takes as long as all that a close does, and a close
ends with `end`.
"""

import errno
import json
import os
import signal
import time

from . import chain, detach, nbd_server, records
from .qmp import Monitor, MonitorError

PLACE = "/etc/lab-tapdisk-commit"
HELD, UNFLUSHED = "held", "unflushed"
ARGV0 = "lab-tapdisk-commit"
"""Of a process that has images open as a part of the tapdisk."""
QEMU_IMG = "qemu-img"
BASE = "base"  # how the names of the nodes begin that were made for a new parent
RUNNING, CONCLUDED, UNDEFINED = "running", "concluded", "undefined"
POLL = 0.02
MONITOR_BOUND = 30.0  # seconds


def choose(root, word):
    """Have merges held at `word` from now on; None: go on."""
    path = root + PLACE
    if word is None:
        records.unlink_if_there(path)
        return
    with open(path + ".new", "w") as place:
        place.write(word)
    os.rename(path + ".new", path)


def begin(layout, record, path):
    """Begin to merge the image at `path` into the lowest of the chain of a vbd. OSError if not."""
    images = _images(record)
    names = [os.path.realpath(image.path) for image in images]
    path = os.path.realpath(path)
    if path not in names[1:-1] or os.path.exists(layout.commit(record.pid)):
        raise records.failure(errno.EINVAL)
    if any(
        images[-1].path in _paths(other)
        for other in records.living(layout)
        if other.pid != record.pid
    ):
        raise records.failure(errno.EINVAL)
    above = names.index(path) - 1
    total = sum(os.stat(name).st_size for name in names[above + 1 : -1])
    _note(layout, record.pid, RUNNING, 0, total, 0)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _run(layout, record, images, above, total, writer)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as told:
        told.read()  # its pid is noted


def _images(record):
    """The chain, leaf first. OSError as the real one's."""
    if record.args is None or record.state & records.PAUSED:
        raise records.failure(errno.ENODEV)
    images = chain.read(record.args)
    if images[0].kind != "qcow2":
        raise records.failure(errno.EOPNOTSUPP)
    return images


def _paths(record):
    return [image.partition(":")[2] for image in record.images]


def query(layout, record):
    """The text that `tap-ctl query` prints."""
    _images(record)
    status, done, total, _ = _noted(layout, record.pid)
    if status == CONCLUDED:
        records.unlink_if_there(layout.commit(record.pid))
    return "Commit status '%s' (%d/%d)\n" % (status, done, total)


def cancel(layout, record):
    """End a merge that runs; it is concluded then."""
    _images(record)
    status, _, total, job = _noted(layout, record.pid)
    if status == RUNNING:
        _kill(job)
        _note(layout, record.pid, CONCLUDED, 0, total, 0)


def end(layout, pid):
    """End a merge and forget it, as whoever closes the images does."""
    status, _, _, job = _noted(layout, pid)
    if status == RUNNING:
        _kill(job)
    records.unlink_if_there(layout.commit(pid))
    try:
        with open(layout.unflushed(pid)) as left:
            command = json.load(left)
    except FileNotFoundError:
        return
    _have_qemu(command)
    records.unlink_if_there(layout.unflushed(pid))


def close(monitor):
    """Close what a merge has opened, when the leaf is closed."""
    for node in monitor.command("query-named-block-nodes", flat=True):
        if node["node-name"].startswith(BASE) and not node["node-name"].endswith(chain.FILE):
            monitor.command("blockdev-del", node_name=node["node-name"])


def locked_by(layout, pid, images, writable):
    """Whether QEMU's lock of an image keeps a tapdisk from opening these: somebody else has one of
    them open to write to it, or to merge into it, or any to read that this one would write to."""
    paths = [image.path for image in images]
    for other in records.living(layout):
        theirs = [] if other.pid == pid else _paths(other)
        written = theirs[:1] if theirs and not other.readonly else []
        if theirs and _noted(layout, other.pid)[0] == RUNNING:
            written = written + theirs[-1:]
        if set(written) & set(paths) or writable and paths[0] in theirs:
            return True
    return False


def is_locking(root, images):
    """Whether these images are opened by QEMU's code, which locks them, on the host at `root`."""
    return images[0].kind == "qcow2" and nbd_server.habit(root) is not None


# the process that merges


def _run(layout, record, images, above, total, told):
    """In the child: never returns."""
    import subprocess

    code = 1
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.setsid()  # its group is killed with what it runs
        _note(layout, record.pid, RUNNING, 0, total, os.getpid())
        detach.keep_only(told, layout.log(record.pid))
        os.close(told)
        _merge(layout, record, images, above)
        _note(layout, record.pid, CONCLUDED, total, total, 0)
        code = 0
    except (OSError, MonitorError, subprocess.CalledProcessError) as error:
        os.write(2, ("commit: %s\n" % error).encode())
        if record.alive():
            _note(layout, record.pid, CONCLUDED, 0, total, 0)
    finally:
        os._exit(code)


def _merge(layout, record, images, above):
    import subprocess

    line = [
        ARGV0,
        "commit",
        "-q",
        "-d",
        "-b",
        images[-1].path,
        "json:" + json.dumps(_open(images[above + 1 :])),
    ]
    word = _held(layout.root, record, (HELD,))
    if word == UNFLUSHED:
        with open(layout.unflushed(record.pid), "w") as left:
            json.dump(line, left)
        _relink(images, above)
        _held(layout.root, record, (UNFLUSHED,))
    command = subprocess.Popen(line, executable=_program(), stdin=subprocess.DEVNULL)
    while command.poll() is None:
        if not record.alive():
            command.kill()
        time.sleep(POLL)
    if command.returncode:
        raise subprocess.CalledProcessError(command.returncode, QEMU_IMG)
    with records.LockedTapdisk(layout, record.pid) as now:
        if _noted(layout, record.pid)[3] != os.getpid():
            os._exit(0)  # it was ended in the last moment
        if word != UNFLUSHED:
            _relink(images, above)
        _switch(layout, now, images, above)
        records.unlink_if_there(layout.unflushed(record.pid))


def _held(root, record, words):
    """Wait while the word is one of these; the one that it is then."""
    while True:
        word = _word(root)
        if word not in words or not record.alive():
            return word
        time.sleep(POLL)


def _word(root):
    try:
        with open(root + PLACE) as place:
            return place.read().strip()
    except FileNotFoundError:
        return None


def _open(images):
    """How qemu-img opens a chain of which a tapdisk has all open."""
    options = None
    for image in reversed(images):
        below, options = (
            options,
            {
                "driver": "raw" if image.kind == "aio" else "qcow2",
                "file": {"driver": "file", "filename": image.path, "locking": "off"},
            },
        )
        if below:
            options["backing"] = below
    return options


def _relink(images, above):
    over, base = images[above], images[-1]
    kind = "raw" if base.kind == "aio" else "qcow2"
    name = os.path.relpath(base.path, os.path.dirname(over.path))
    _have_qemu([ARGV0, "rebase", "-u", "-F", kind, "-b", name, "json:" + json.dumps(_open([over]))])


def _switch(layout, record, images, above):
    """Have the image above read the lowest, opened anew, where what was merged is now."""
    over, base = images[above], images[-1]
    with Monitor(layout.ctl(record.pid), MONITOR_BOUND) as monitor:
        nodes = {
            node["node-name"]: node["file"]
            for node in monitor.command("query-named-block-nodes", flat=True)
        }
        name = next(BASE + str(number) for number in range(1000) if BASE + str(number) not in nodes)
        monitor.command("blockdev-add", **chain.node([base], name, True))
        file = next(
            node for node, path in nodes.items() if node.endswith(chain.FILE) and path == over.path
        )
        options = chain.one(over, record.readonly or above > 0)
        options.update({"node-name": file[: -len(chain.FILE)], "file": file, "backing": name})
        monitor.command("blockdev-reopen", options=[options])
        for node in nodes:
            if node.startswith(BASE) and "." not in node:
                try:
                    monitor.command("blockdev-del", node_name=node)
                except MonitorError:
                    pass  # it is in use: an earlier merge was below another image
    record.images = [str(image) for image in images[: above + 1] + images[-1:]]
    records.store(layout, record)


def _have_qemu(line):
    """Run qemu-img, by this command line. Raises subprocess.CalledProcessError."""
    import subprocess

    subprocess.check_call(line, executable=_program(), stdin=subprocess.DEVNULL)


def _program():
    from .engine import EXTRA_PATH

    places = os.environ.get("PATH", "").split(":") + EXTRA_PATH.split(":")
    return next(
        path
        for path in (os.path.join(place, QEMU_IMG) for place in places)
        if os.access(path, os.X_OK)
    )


def _kill(job):
    if job:
        try:
            os.killpg(job, signal.SIGKILL)
        except ProcessLookupError:
            pass


def _note(layout, pid, *fields):
    path = layout.commit(pid)
    with open(path + ".new", "w") as noted:
        noted.write(" ".join(map(str, fields)))
    os.rename(path + ".new", path)


def _noted(layout, pid):
    """(status, bytes done, bytes in all, pid of the process that merges, or 0)"""
    try:
        with open(layout.commit(pid)) as noted:
            status, done, total, job = noted.read().split()
    except FileNotFoundError:
        return UNDEFINED, 0, 0, 0
    return status, int(done), int(total), int(job)
