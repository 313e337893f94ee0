# SPDX-License-Identifier: LGPL-2.1-only
"""Our copier, encrypted and verified, against qemu-img and nbdcopy, which do neither.

    python bench/copy_peer.py [--size MiB] [--rounds N]

Source and destination are raw disks in memory, each behind a qemu-nbd on a unix socket; ours goes
from the mover to the receiver by TLS over loopback, and every byte is read back and compared before
it counts. `convert + compare` is the same work, unencrypted, with qemu's means. The contestants
take turns, so that the machine's moods hit all of them; medians, and each one's time divided by
ours.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [
    os.path.join(REPOSITORY, part) for part in ("", "tests/unit/fakes", "lab/python_libs")
]

from data_harness import MIB, Mover, Receiver, Site, same_bytes  # noqa: E402


def url(path):
    return "nbd+unix:///tapdisk_client?socket=" + path


def ours(site, source, destination, size):
    receiver = Receiver(site, {"d": (destination, size)})
    mover = Mover(site, "d", size, receiver.address())
    began = time.monotonic()
    mover.copy(source, [[0, size]], size)
    while mover.ask("status")["copy"]["state"] == "running":
        time.sleep(0.01)
    took = time.monotonic() - began
    status = mover.await_copy()
    assert status["state"] == "done" and status["verified"] == size, status
    for process in (mover, receiver):
        process.ask("exit")
        process.process.wait(10)
    return took


def timed(*commands):
    began = time.monotonic()
    for command in commands:
        subprocess.check_call(command, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def convert_command(source, destination):
    return [
        "qemu-img",
        "convert",
        "-n",
        "-W",
        "-m",
        "8",
        "-f",
        "raw",
        "-O",
        "raw",
        url(source),
        url(destination),
    ]


def convert(_, source, destination, size):
    return timed(convert_command(source, destination))


def convert_compare(_, source, destination, size):
    return timed(
        convert_command(source, destination),
        ["qemu-img", "compare", "-f", "raw", "-F", "raw", url(source), url(destination)],
    )


def nbdcopy(_, source, destination, size):
    return timed(["nbdcopy", url(source), url(destination)])


CONTESTANTS = (
    ("ours (TLS, verified)", ours),
    ("qemu-img convert", convert),
    ("qemu-img convert + compare", convert_compare),
    ("nbdcopy", nbdcopy),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024, help="MiB of data")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    size = options.size * MIB
    times = {name: [] for name, _ in CONTESTANTS}
    for _ in range(options.rounds):
        for name, contestant in CONTESTANTS:
            with Site() as site:
                image = site.path("source")
                with open("/dev/urandom", "rb") as noise, open(image, "wb") as target:
                    chunk = noise.read(8 * MIB)
                    for _ in range(size // len(chunk)):
                        target.write(chunk)
                destination = site.image("destination", b"")
                os.truncate(destination, size)
                _, source_socket = site.serve(image)
                _, destination_socket = site.serve(destination)
                times[name].append(contestant(site, source_socket, destination_socket, size))
                assert same_bytes(image, destination)
    baseline = statistics.median(times[CONTESTANTS[0][0]])
    print("%d MiB, %d rounds, Python %s" % (options.size, options.rounds, sys.version.split()[0]))
    for name, _ in CONTESTANTS:
        median = statistics.median(times[name])
        print(
            "%-28s %7.3f s  (%.3f .. %.3f)  %6.0f MiB/s  ratio %.2f"
            % (
                name,
                median,
                min(times[name]),
                max(times[name]),
                options.size / median,
                median / baseline,
            )
        )


if __name__ == "__main__":
    main()
