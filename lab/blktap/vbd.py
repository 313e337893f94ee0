# SPDX-License-Identifier: LGPL-2.1-only
"""Open, close, pause and unpause a vbd: each a sequence of monitor commands. (Sequences:
docs/facts/qemu-storage-daemon.md 1.5.)

    NBD export -> front (raw) -> [M (mirror) -> R (raw) ->] leaf -> backing images

While paused, `front` stands on `parked`, which takes no data; all image files are closed; and the
front is drained: a dummy mirror job that is kept pending holds all requests.
"""

import errno
import os
import time

from . import chain, commit, dirty_log, mirror, nbd_server, records, reply
from .qmp import Monitor, MonitorError

EXPORT = "tapdisk_client"
FRONT, LEAF, PARKED = "front", "leaf", "parked"
HOLD, HOLD_FILTER, NOWHERE = "hold", "HM", "nul"
COMMAND_BOUND = 30.0
# A pause waits for the guest's requests, and they for a mirror that hangs: as long as tapdisk
# itself would sleep
PAUSE_BOUND = 600.0
SERVER_BOUND = 10.0
RESUME_ATTEMPTS = 10
RESUME_INTERVAL = 1.0
# A client whose handshake is under way when the hold begins would block the vbd for good. How far
# it is cannot be seen from outside; a handshake takes about a millisecond.
HANDSHAKE_TIME = 0.01


def open(layout, record, args, readonly, secondary, log=None):
    """Open the disk `args` ("type:path") of an attached vbd and serve it. `secondary`: what
    followed -2, or None; `log`: what followed -C."""
    if record.args is not None:
        raise records.failure(errno.EALREADY)
    target = mirror.parse(secondary) if secondary else None
    images = chain.read(args)
    _require_no_lock(layout, record, images, readonly)
    size = images[0].size
    if log:
        dirty_log.require(log, size)
        if target not in (None, mirror.NONE):
            raise dirty_log.below_a_mirror()
    with Monitor(layout.ctl(record.pid), COMMAND_BOUND) as monitor:
        monitor.command("blockdev-add", driver="null-co", node_name=PARKED, size=size)
        _add_leaf(monitor, images, readonly)
        top, failed = LEAF, False
        if target not in (None, mirror.NONE):
            try:
                top = mirror.attach(monitor, LEAF, target, size)
            except mirror.Unconnectable:
                failed = True
            except mirror.Refused:
                _delete_nodes(monitor, LEAF, PARKED)
                raise records.failure(errno.EINVAL)
        monitor.command("blockdev-add", **_front(top, readonly))
        # where a NBD server of the tapdisk's own stands before it, QEMU's is the guest's alone
        before = images[0].kind == "qcow2" and nbd_server.habit(layout.root)
        path = layout.ring(record.pid) if before else layout.nbd(record.pid, record.minor)
        records.unlink_if_there(path)
        monitor.command("nbd-server-start", addr={"type": "unix", "data": {"path": path}})
        # each write is flushed from QEMU's caches to the kernel before it is answered, so that kill
        # -9 loses none
        monitor.command(
            "block-export-add",
            type="nbd",
            id="vbd",
            node_name=FRONT,
            name=EXPORT,
            writable=not readonly,
            writethrough=not readonly,
        )
    if before:
        nbd_server.start(layout, record.pid, record.minor)
    record.args, record.readonly, record.size, record.secondary = args, readonly, size, target
    record.images, record.log = [str(image) for image in images], log
    record.mirror_attached, record.mirror_failed = top != LEAF, failed
    record.state = records.RUNNING
    records.store(layout, record)


def close(layout, record):
    """Close the disk, running or paused, and disconnect its clients. Without an open disk only the
    state changes."""
    if record.args is not None:
        _close_disk(layout, record)
    record.args, record.images, record.secondary, record.size = None, [], None, 0
    record.mirror_attached, record.mirror_failed, record.log = False, False, None
    record.state = records.CLOSED
    records.store(layout, record)


def _close_disk(layout, record):
    paused = record.state & records.PAUSED
    with Monitor(layout.ctl(record.pid), PAUSE_BOUND) as monitor:
        # with the clients' sockets shut first, nothing that is held can be answered falsely
        monitor.command("block-export-del", id="vbd", mode="hard")
        if paused:
            _release(monitor)
        monitor.wait_for_event("BLOCK_EXPORT_DELETED", "vbd")
        monitor.command("nbd-server-stop")
        if not paused:
            _close_images(layout, monitor, record)
        _delete_nodes(monitor, FRONT, PARKED)
    nbd_server.end(layout, record.pid, SERVER_BOUND)
    for path in sum(_sockets(layout, record), ()):
        records.unlink_if_there(path)


def pause(layout, record):
    """Hold all requests, wait for those in flight, close the images. Returns whether there was I/O
    meanwhile."""
    if record.args is None:
        raise records.not_imitated("the pause of a vbd that is not open")
    if record.state & records.PAUSED:
        return False
    record.state = records.PAUSING_STATE
    records.store(layout, record)
    meter = reply.IoMeter(record.pid)
    with Monitor(layout.ctl(record.pid), PAUSE_BOUND) as monitor:
        if record.mirror_attached:
            mirror.wait_while_stuck(monitor, PAUSE_BOUND)
        if os.path.exists(layout.stuck(record.pid)):
            time.sleep(PAUSE_BOUND)  # for what is never answered
            raise records.failure(errno.ETIMEDOUT)
        for open_, held in _sockets(layout, record):
            _rename_if_there(open_, held)
        time.sleep(HANDSHAKE_TIME)
        _hold(monitor, record.size)
        busy = meter.moved()  # closing the images writes, too
        _close_images(layout, monitor, record)
    record.images = []
    record.state = records.PAUSED_STATE
    records.store(layout, record)
    return busy


def unpause(layout, record, args, secondary, log=None):
    """Open `args` (None: what was open) and let the held requests go on. `secondary`: what followed
    -2, or None; `log`: what followed -c. Without it there is no log from now on."""
    if not (record.state or 0) & records.PAUSED:
        raise records.failure(errno.EINVAL)
    record.log = log
    if secondary is not None:
        record.secondary = mirror.parse(secondary)
        if record.secondary == mirror.NONE:
            record.mirror_failed = False
    with Monitor(layout.ctl(record.pid), COMMAND_BOUND) as monitor:
        try:
            images = _reopen(layout, monitor, record, args or record.args)
        except OSError:
            record.state |= records.RESUME_FAILED
            records.store(layout, record)
            raise
        _release(monitor)
    for open_, held in _sockets(layout, record):
        _rename_if_there(held, open_)
    record.args = args or record.args
    record.images = [str(image) for image in images]
    record.state = records.RUNNING
    records.store(layout, record)


def _reopen(layout, monitor, record, args):
    """Put the front on the chain of `args` and its mirror, trying for as long as tapdisk does.
    Changes `record` by what became of the mirror. Returns the chain."""
    for _ in range(RESUME_ATTEMPTS):
        try:
            images = chain.read(args)
            if images[0].size != record.size:
                record.args = args  # tapdisk had opened it before it compared the sizes
                raise records.failure(errno.EMEDIUMTYPE)
            _require_no_lock(layout, record, images, record.readonly)
            if record.log:
                dirty_log.require(record.log, record.size)
            _add_leaf(monitor, images, record.readonly)
            top = _attach_mirror(monitor, record)
            if record.log and record.mirror_attached:
                mirror.detach(monitor)
                record.mirror_attached = False
                _delete_nodes(monitor, LEAF)
                raise dirty_log.below_a_mirror()
            monitor.command("blockdev-reopen", options=[_front(top, record.readonly)])
            return images
        except mirror.Refused:
            # not a word about it: the second attempt has no secondary any more, and succeeds
            _delete_nodes(monitor, LEAF)
        except OSError as error:
            if error.errno in (errno.EMEDIUMTYPE, errno.ENOTSUP):
                raise
            reason = error
        record.secondary = record.log = None  # the second attempt has forgotten its flags
        time.sleep(RESUME_INTERVAL)
    raise reason


def _attach_mirror(monitor, record):
    """The node that the front should stand on: the mirror's if there is one to attach, else the
    leaf."""
    record.mirror_attached = False
    if record.secondary in (None, mirror.NONE):
        return LEAF
    try:
        top = mirror.attach(monitor, LEAF, record.secondary, record.size)
    except mirror.Unconnectable:
        record.mirror_failed = True
        return LEAF
    except mirror.Refused:
        if not record.mirror_failed:
            raise
        return LEAF  # tapdisk goes by the flag, also if it is from an earlier failure
    record.mirror_attached = True
    return top


def _add_leaf(monitor, images, readonly):
    try:
        monitor.command("blockdev-add", **chain.node(images, LEAF, readonly))
    except MonitorError as error:
        code = errno.EACCES if "Permission denied" in str(error) else errno.EINVAL
        raise OSError(code, str(error))


def _front(child, readonly):
    return {"driver": "raw", "node-name": FRONT, "file": child, "read-only": readonly}


def _delete_nodes(monitor, *names):
    for name in names:
        monitor.command("blockdev-del", node_name=name)


def _hold(monitor, size):
    monitor.command(
        "blockdev-add", driver="null-co", node_name=NOWHERE, size=size, read_zeroes=True
    )
    monitor.command(
        "blockdev-mirror",
        job_id=HOLD,
        device=FRONT,
        target=NOWHERE,
        sync="none",
        copy_mode="write-blocking",
        filter_node_name=HOLD_FILTER,
        auto_finalize=False,
        auto_dismiss=False,
    )
    monitor.wait_for_job(HOLD, "ready")
    monitor.command("job-complete", id=HOLD)
    monitor.wait_for_job(HOLD, "pending")


def _release(monitor):
    monitor.command("job-cancel", id=HOLD)
    monitor.wait_for_job(HOLD, "concluded")
    monitor.command("job-dismiss", id=HOLD)
    monitor.command("blockdev-del", node_name=NOWHERE)


def _close_images(layout, monitor, record):
    """Park the front and close what it stood on. Changes `record` by what became of the mirror."""
    commit.end(layout, record.pid)
    monitor.command("blockdev-reopen", options=[_front(PARKED, record.readonly)])
    if record.mirror_attached:
        held = mirror.detach(monitor)
        record.mirror_attached = False
        record.mirror_failed = record.mirror_failed or not held
    _delete_nodes(monitor, LEAF)
    commit.close(monitor)


def _require_no_lock(layout, record, images, readonly):
    """As QEMU's code opens no image that somebody else's lock is on."""
    if commit.is_locking(layout.root, images) and commit.locked_by(
        layout, record.pid, images, not readonly
    ):
        raise records.failure(errno.EINVAL)


def _sockets(layout, record):
    """Where clients connect, and where that is moved to while the vbd is paused."""
    return (
        (layout.nbd(record.pid, record.minor), layout.held_nbd(record.pid)),
        (layout.ring(record.pid), layout.held_ring(record.pid)),
    )


def _rename_if_there(source, target):
    try:
        os.rename(source, target)
    except FileNotFoundError:
        pass
