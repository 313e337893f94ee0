# SPDX-License-Identifier: LGPL-2.1-only
"""`python -m lab.xapi --root R`: the xapi of the lab's host with root R."""

import argparse
import logging
import os
import signal
import threading

from lab.xapi import daemon


def main():
    parser = argparse.ArgumentParser(prog="lab.xapi", description=__doc__)
    parser.add_argument("--root", required=True, help="the host's root directory")
    parser.add_argument("--debug", action="store_true", help="log more")
    options = parser.parse_args()
    root = os.path.abspath(options.root)
    os.makedirs(root + "/var/log", exist_ok=True)
    logging.basicConfig(
        filename=root + "/var/log/xensource.log",
        level=logging.DEBUG if options.debug else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s [%(threadName)s] %(message)s",
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    daemon.serve(root, stop)


if __name__ == "__main__":
    main()
