# SPDX-License-Identifier: LGPL-2.1-only
"""How SM's activation and deactivation on a host of the lab wait for a disk that is `paused`, as
behind a gate."""

import contextlib
import re

from lab.dom0 import scripts

MODULE = "%s/sm/blktap2.py" % scripts.SITE_PACKAGES
TRIES, PAUSE = "ATTACH_DETACH_RETRY_SECS = ", "time.sleep("


@contextlib.contextmanager
def of(hosts, seconds):
    """Have those of these hosts wait so many seconds meanwhile."""
    former = [(host.root, choose(host.root, seconds)) for host in hosts]
    try:
        yield
    finally:
        for root, before in former:
            choose(root, before)


def choose(root, seconds):
    """Have them wait so many seconds; those that they waited until now (on a host 120)."""
    return _replace(root, TRIES, seconds)


def look_every(root, seconds):
    """Have them look so often; the seconds until now (on a host 1). They look as many times as
    before."""
    return _replace(root, PAUSE, seconds)


def _replace(root, before, number):
    with open(root + MODULE) as source:
        text = source.read()
    (former,) = re.findall(re.escape(before) + r"(\d+)", text)
    scripts.install_text(text.replace(before + former, "%s%d" % (before, number)), root, MODULE)
    return int(former)
