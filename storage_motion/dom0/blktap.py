# SPDX-License-Identifier: LGPL-2.1-only
"""How many requests a tapdisk of this host may be given at a time, by the type of its image
(docs/facts/xcp-ng-8.3.md, 3 and 4).

A tapdisk works on 8 for a connection. One of a QCOW2 image stalls for good when it has 8, and now
and then with 7; and over all its connections it has 32 slots, beyond which a request waits for a
second (block-qcow2.c, QCOW2_REQS): we have four with one tapdisk at most, for the mirror, for what
is copied and for reading it back, and for digests. In builds without a mutex around a connection's
slots, which two threads share there (tapdisk-nbdserver.c), several at a time kill it. Which build a
host has is not to be seen in tapdisk, and not known of any package that was released: so a blktap
is safe for QCOW2 only if its administrator says so, in SAFE, having looked at its source.
"""

from typing import Optional

from storage_motion.dom0 import root

RPM = "/usr/bin/rpm"
QUERY = ["-q", "--qf", "%{VERSION}-%{RELEASE}", "blktap"]
SAFE = "/etc/sxm/qcow2-blktap"  # what that prints of the safe ones, one a line
RPM_TIMEOUT = 30.0  # seconds
QCOW2 = "qcow2"

MOST = 8  # on one connection: what its NBD server works on (tapdisk-nbdserver.c, MAX_REQUESTS)
MOST_QCOW2 = 6
ALONE = 1


def most_requests(image_type: str) -> int:
    """Requests in flight on one connection with a tapdisk of this host that has an image of this
    type ("qcow2", "vhd", "aio") open."""
    if image_type != QCOW2:
        return MOST
    return MOST_QCOW2 if is_safe_for_qcow2() else ALONE


def is_safe_for_qcow2() -> bool:
    """Whether this host's blktap is known to bear several requests at a time for a QCOW2 image."""
    try:
        with open(root.path(SAFE)) as source:
            known = [line.strip() for line in source]
    except OSError:
        return False
    installed = version()
    return installed is not None and installed in known


def version() -> Optional[str]:
    """The version and release of this host's blktap package; None if it cannot be told."""
    from storage_motion.dom0 import programs  # drivers and movers start faster without it

    status, out, _ = programs.run([root.path(RPM)] + QUERY, RPM_TIMEOUT)
    return out.strip() or None if status == 0 else None
