# SPDX-License-Identifier: LGPL-2.1-only
"""The secondary of a vbd: every write goes to an NBD server too, and is answered once both sides
have it.

Above the leaf come a node `R` (a job needs a node that nothing else uses) and QEMU's mirror filter
`M`. If the target fails, the filter takes itself out and the job stays, concluded, with its error:
that is how a failure is known afterwards.
"""

import time

from . import records
from .qmp import MonitorError

JOB, FILTER, ROOT, TARGET = "m", "M", "R", "tgt"
EXPORT = "tapdisk_client"
NONE = "null"
PROGRESS_INTERVAL = 0.005


def parse(secondary):
    """The target in `-2 nbd:TARGET` or `-2 null`, without `nbd:`. OSError ENOTSUP for a secondary
    of another type."""
    if secondary == NONE:
        return NONE
    kind, _, target = secondary.partition(":")
    if kind != "nbd":
        raise records.not_imitated("a secondary of type %s" % kind)
    return target


class Unconnectable(Exception):
    """Nobody listens at the target: tapdisk then counts the mirror as failed."""


class Refused(Exception):
    """The target does not serve this disk (handshake refused, other size): tapdisk then keeps quiet
    about it."""


def attach(monitor, leaf, target, size):
    """Put the mirror to `target` on node `leaf` of `size` bytes. Returns the node to use instead of
    `leaf`. On Unconnectable or Refused nothing is left of the attempt."""
    server = _server(target)
    if server is None:
        raise Unconnectable(target)
    try:
        monitor.command(
            "blockdev-add", driver="nbd", node_name=TARGET, export=EXPORT, server=server
        )
    except MonitorError as error:
        if "Failed to connect" in str(error) or "Failed to resolve" in str(error):
            raise Unconnectable(str(error))
        raise Refused(str(error))
    try:
        if _size(monitor) != size:
            raise Refused("the target has another size")
        monitor.command("blockdev-add", driver="raw", node_name=ROOT, file=leaf)
        try:
            monitor.command(
                "blockdev-mirror",
                job_id=JOB,
                device=ROOT,
                target=TARGET,
                sync="none",
                copy_mode="write-blocking",
                filter_node_name=FILTER,
                on_target_error="report",
                auto_dismiss=False,
            )
            job = monitor.wait_for_job(JOB, "ready", "concluded")
            if job["status"] == "concluded":
                monitor.command("job-dismiss", id=JOB)
                raise Refused(job.get("error"))
        except (MonitorError, Refused):
            monitor.command("blockdev-del", node_name=ROOT)
            raise
    except (MonitorError, Refused) as error:
        monitor.command("blockdev-del", node_name=TARGET)
        raise Refused(str(error))
    return FILTER


def _server(target):
    """QMP's address of `target` (a unix path, or a.b.c.d:port); None for the name of a passed fd,
    of which there are none."""
    if target.startswith("/"):
        return {"type": "unix", "path": target}
    host, _, port = target.rpartition(":")
    if host and port.isdigit():
        return {"type": "inet", "host": host, "port": port}
    return None


def _size(monitor):
    for node in monitor.command("query-named-block-nodes", flat=True):
        if node["node-name"] == TARGET:
            return node["image"]["virtual-size"]
    raise MonitorError("no node %s" % TARGET)


def detach(monitor):
    """Take the mirror off (nothing may be using the nodes above the leaf any more, and no write be
    in flight). The target gets NBD DISC if it was still attached. Returns whether the mirror had
    held until now."""
    job = monitor.job(JOB)
    if job["status"] == "ready":
        try:
            monitor.command("block-job-cancel", device=JOB)
        except MonitorError:
            pass  # it failed just now, and concluded: the job's error says so
        job = monitor.wait_for_job(JOB, "concluded")
    held = not job.get("error")
    monitor.command("job-dismiss", id=JOB)
    monitor.command("blockdev-del", node_name=ROOT)
    monitor.command("blockdev-del", node_name=TARGET)
    return held


def state(job):
    """What query-jobs' answer says about the mirror: ("attached" | "failed", bytes on their way to
    the target)."""
    if job["status"] == "ready" and not job.get("error"):
        return "attached", job["total-progress"] - job["current-progress"]
    return "failed", 0


def wait_while_stuck(monitor, bound):
    """Return once the writes in flight to the target are answered, or at least move on. While a
    target hangs, QEMU must not be asked to drain: its whole monitor would hang along. MonitorError
    after `bound` (s)."""
    until = time.monotonic() + bound
    before = None
    while True:
        job = monitor.job(JOB)
        attached, outstanding = state(job)
        if (
            attached == "failed"
            or outstanding == 0
            or before not in (None, job["current-progress"])
        ):
            return
        if time.monotonic() > until:
            raise MonitorError("the target of the mirror has not answered for %d s" % bound)
        before = job["current-progress"]
        time.sleep(PROGRESS_INTERVAL)
