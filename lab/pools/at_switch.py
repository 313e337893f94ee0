# SPDX-License-Identifier: LGPL-2.1-only
"""What a destination's xenopsd runs at the instant of the switch (etc/lab-at-switch): the old and
the new disks, compared whole.

At that instant the source's disks are closed, the new ones are active, and the guest does not run
yet: both stand still.
"""

import concurrent.futures
import contextlib
import glob
import json
import os
import subprocess
import sys

from lab.pools import volumes

COMPARE = 100.0
"""Seconds that one comparison may take; xenopsd gives the script 120 in all."""

AT_ONCE = 2
"""Comparisons at once: the processors that there are."""


def script(lab):
    """The script's text for hosts of this lab. It prints a line of JSON: [{"device", "exit",
    "output"}]."""
    repository = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return '#!/bin/sh\nPYTHONPATH=%s exec %s -m lab.pools.at_switch %s "$1"\n' % (
        repository,
        sys.executable,
        lab.directory,
    )


@contextlib.contextmanager
def image(directory, locator):
    """The path of the image "SR uuid/location" in a lab's directory, or on LVM. Raises LookupError
    unless there is just one."""
    repository, location = locator.split("/")
    logical = volumes.of(repository)
    if logical:
        with volumes.active(repository, location, logical) as path:
            yield path
        return
    pattern = os.path.join(directory, "*", "run/sr-mount", repository, location + "*")
    found = {os.path.realpath(path) for path in glob.glob(pattern)}
    if len(found) != 1:
        raise LookupError("%d images match %s" % (len(found), pattern))
    yield found.pop()


def compare(directory, disks):
    """Compare each disk's source with its destination, byte for byte as a guest would read them."""

    def of(disk):
        with image(directory, disk["source"]) as source, image(
            directory, disk["destination"]
        ) as destination:
            done = subprocess.run(
                ["qemu-img", "compare", "-U", source, destination],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=COMPARE,
            )
        return {
            "device": disk["device"],
            "exit": done.returncode,
            "output": done.stdout.decode().strip(),
        }

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as at_once:
        return list(at_once.map(of, disks))


if __name__ == "__main__":
    outcome = compare(sys.argv[1], json.loads(sys.argv[2])["disks"])
    print(json.dumps(outcome))
    sys.exit(any(result["exit"] for result in outcome) or not outcome)
