# SPDX-License-Identifier: LGPL-2.1-only
"""What each image of a chain is filled with, so that a read tells from which one it comes.

Image N, from 1 at the bottom, has N in the Nth MiB, and covers the first 64 KiB.
"""


def writes(number):
    """qemu-io's commands for image `number`."""
    return "write -P %d %dM 1M" % (number, number), "write -P %d 0 64k" % number


def reads(count):
    """qemu-io's commands that hold the top of `count` images against what they were filled with."""
    return ("read -P %d 0 64k" % count, "read -P 0 64k 960k") + tuple(
        "read -P %d %dM 1M" % (number, number) for number in range(1, count + 1)
    )
