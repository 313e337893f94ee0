# SPDX-License-Identifier: LGPL-2.1-only
"""`make demo`: exits 0 only if every verdict holds. `python -m lab.demo --times 20` tells the story
20 times."""

import argparse
import sys
import time

from lab.demo import screen, story


def main():
    parser = argparse.ArgumentParser(prog="python -m lab.demo", description=__doc__)
    parser.add_argument(
        "--times",
        type=int,
        default=1,
        metavar="N",
        help="tell the story N times, and stop at the first wrong verdict",
    )
    arguments = parser.parse_args()
    for number in range(arguments.times):
        begun = time.monotonic()
        holds = story.tell()
        screen.chapter(
            "%s after %.0f s%s"
            % (
                "Every verdict holds" if holds else "NOT every verdict holds",
                time.monotonic() - begun,
                ", %d of %d" % (number + 1, arguments.times) if arguments.times > 1 else "",
            )
        )
        if not holds:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
