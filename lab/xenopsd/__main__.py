# SPDX-License-Identifier: LGPL-2.1-only
"""`python -m lab.xenopsd --root R`: the lab's xenopsd of the host whose root is R."""

import argparse
import logging
import os

from lab.xenopsd.server import serve


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True)
    root = parser.parse_args().root
    os.makedirs(os.path.join(root, "var/log"), exist_ok=True)
    logging.basicConfig(
        filename=os.path.join(root, "var/log/xenopsd.log"),
        level=logging.INFO,
        format="%(asctime)s %(threadName)s %(levelname)s %(message)s",
    )
    serve(root)


if __name__ == "__main__":
    main()
