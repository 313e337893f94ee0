# SPDX-License-Identifier: LGPL-2.1-only
"""What the mirror costs a guest's 4 KiB writes: none, qemu's own, and ours through mover and
receiver.

    python bench/mirror_latency.py [--seconds S] [--rounds N]

The guest is fio's nbd engine on a qemu-storage-daemon, which plays tapdisk: its mirror job writes
to both sides before it answers. `qemu's mirror` goes straight to the destination's NBD server on a
unix socket; `ours` to the mover, by TLS over loopback to the receiver, and from there to the same
kind of server. The variants take turns; medians over the rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [
    os.path.join(REPOSITORY, part) for part in ("", "tests/unit/fakes", "lab/python_libs")
]

from data_harness import MIB, Monitor, Mover, Receiver, Site, connectable  # noqa: E402
from tests.eventually import eventually  # noqa: E402

SIZE = 256 * MIB
EXPORT = "tapdisk_client"
DEPTHS = (1, 16)


def no_mirror(site, destination):
    return None


def qemu_mirror(site, destination):
    return destination


def our_mirror(site, destination):
    receiver = Receiver(site, {"d": (destination, SIZE)})
    return Mover(site, "d", SIZE, receiver.address()).secondary


VARIANTS = (("no mirror", no_mirror), ("qemu's mirror", qemu_mirror), ("ours", our_mirror))


def tapdisk(site, leaf, target):
    """A qemu-storage-daemon on the image `leaf`, mirroring to the NBD socket `target` unless that
    is None; its own NBD socket."""
    front, monitor = site.path("front.nbd"), site.path("monitor")
    site.start(
        [
            "qemu-storage-daemon",
            "--chardev",
            "socket,id=m,path=%s,server=on,wait=off" % monitor,
            "--monitor",
            "chardev=m",
            "--nbd-server",
            "addr.type=unix,addr.path=" + front,
            "--blockdev",
            "driver=raw,node-name=leaf,file.driver=file,file.filename=" + leaf,
            "--export",
            "type=nbd,id=e,node-name=leaf,name=%s,writable=on" % EXPORT,
        ]
    )
    eventually(lambda: connectable(front), "qemu-storage-daemon listens")
    if target is not None:
        qmp = Monitor(monitor)
        qmp.execute(
            "blockdev-add",
            driver="nbd",
            **{"node-name": "target", "export": EXPORT, "server": {"type": "unix", "path": target}},
        )
        qmp.execute(
            "blockdev-mirror",
            device="leaf",
            target="target",
            sync="none",
            **{"job-id": "m", "copy-mode": "write-blocking"},
        )
        eventually(lambda: qmp.execute("query-jobs")[0]["status"] == "ready", "the mirror is ready")
    return front


def fio(front, depth, seconds):
    """(IOPS, median µs, 99th percentile µs) of random 4 KiB writes."""
    output = subprocess.check_output(
        [
            "fio",
            "--name=w",
            "--ioengine=nbd",
            "--uri=nbd+unix:///%s?socket=%s" % (EXPORT, front),
            "--rw=randwrite",
            "--bs=4k",
            "--iodepth=%d" % depth,
            "--size=%d" % SIZE,
            "--time_based",
            "--runtime=%d" % seconds,
            "--output-format=json",
        ]
    )
    write = json.loads(output[output.index(b"{") :].decode())["jobs"][0]["write"]
    percentiles = write["clat_ns"]["percentile"]
    return write["iops"], percentiles["50.000000"] / 1000, percentiles["99.000000"] / 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=3, help="for each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    results = {(name, depth): [] for name, _ in VARIANTS for depth in DEPTHS}
    for _ in range(options.rounds):
        for name, target in VARIANTS:
            with Site() as site:
                leaf, destination = (
                    site.image(image, b"\1" * SIZE) for image in ("leaf", "destination")
                )
                front = tapdisk(site, leaf, target(site, site.serve(destination)[1]))
                for depth in DEPTHS:
                    results[name, depth].append(fio(front, depth, options.seconds))
    print(
        "4 KiB random writes, %d rounds of %d s, Python %s"
        % (options.rounds, options.seconds, sys.version.split()[0])
    )
    for depth in DEPTHS:
        plain = statistics.median(run[0] for run in results[VARIANTS[0][0], depth])
        for name, _ in VARIANTS:
            iops, middle, high = (
                statistics.median(column) for column in zip(*results[name, depth])
            )
            print(
                "depth %2d  %-14s %7.0f IOPS  p50 %6.0f us  p99 %6.0f us  IOPS/no mirror %.2f"
                % (depth, name, iops, middle, high, iops / plain)
            )


if __name__ == "__main__":
    main()
