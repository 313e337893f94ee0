"""How long SM's activation and deactivation on a host of the lab wait for a disk that is `paused`, as behind a gate."""
import re

from lab.dom0 import scripts

MODULE = "%s/sm/blktap2.py" % scripts.SITE_PACKAGES


def choose(root, seconds):
    """Have them wait so many seconds; those that they waited until now (on a host 120)."""
    with open(root + MODULE) as source:
        text = source.read()
    (former,) = re.findall(r"ATTACH_DETACH_RETRY_SECS = (\d+)", text)
    scripts.install_text(text.replace("ATTACH_DETACH_RETRY_SECS = " + former, "ATTACH_DETACH_RETRY_SECS = %d" % seconds), root, MODULE)
    return int(former)
