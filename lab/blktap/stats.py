# SPDX-License-Identifier: LGPL-2.1-only
"""What `tap-ctl stats` prints: tapdisk's JSON, in its spelling."""

import json

from . import mirror, nbd_server, records
from .qmp import Monitor, MonitorTimeout

# type numbers of tapdisk (tapdisk-disktype.h), and what these drivers say of themselves
_DRIVERS = {
    "aio": (0, '{ "reqs": { "max": 352, "pending": 0 } }'),
    "vhd": (4, "null"),
    "qcow2": (6, "null"),
    "log": (9, "null"),
    "nbd": (15, "null"),
}
_TAP = '"tap": { "minor": %d, "reqs": [ 0, 0 ], "kicks": [ 0, 0 ] }, '
MONITOR_BOUND = 2.0


def render(layout, record):
    """The stats of the vbd of `record`, one line without its end. Compared byte by byte with the
    real one's."""
    failed, outstanding, images = (
        record.mirror_failed,
        0,
        [image.partition(":") for image in record.images],
    )
    if images and images[0][0] == "qcow2" and nbd_server.habit(layout.root):
        images = images[:1]  # a chain is one image to it (block-qcow2.c)
    if record.log and images:
        images.insert(0, ("log", ":", record.log))
    if record.mirror_attached:
        state, in_flight = _mirror(layout, record)
        outstanding = 1 if in_flight else 0
        if state == "attached":
            images.insert(1, ("nbd", ":", record.secondary))
        else:
            failed = True
    tap = _TAP % record.minor if layout.kernels else ""
    return (
        '{ "name": %s, "secs": [ 0, 0 ], "images": [ %s], %s"FIXME_enospc_redirect_count": 0, '
        '"nbd_mirror_failed": %d, "reqs_outstanding": %d, "read_caching": "false" }'
        % (
            json.dumps(record.args or "(null)"),
            ", ".join(_image(*image) for image in images) + " ",
            tap,
            failed,
            outstanding,
        )
    )


def _image(kind, _, path):
    number, status = _DRIVERS[kind]
    return (
        '{ "name": %s, "hits": [ 0, 0 ], "fail": [ 0, 0 ], "driver": { "type": %d, "name": "%s", "status": %s } }'  # noqa: E501
        % (json.dumps(path), number, kind, status)
    )


def _mirror(layout, record):
    """(state, bytes in flight) of the mirror."""
    try:
        with Monitor(layout.stats_monitor(record.pid), MONITOR_BOUND) as monitor:
            job = monitor.job(mirror.JOB)
    except MonitorTimeout:
        if record.state != records.PAUSING_STATE:
            raise
        # the monitor waits for the writes in flight, with a target that hangs: they are outstanding
        return "attached", 1
    if job is None:
        return "attached", 0  # a pause or close is just taking it off
    return mirror.state(job)
