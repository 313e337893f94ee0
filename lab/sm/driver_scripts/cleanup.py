#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only
"""The garbage collector, where sm is a package."""

import sys

from sm import cleanup

if __name__ == "__main__":
    sys.exit(cleanup.main(sys.argv[1:]))
