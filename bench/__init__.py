# SPDX-License-Identifier: LGPL-2.1-only
"""Speed, side by side with the peers: `python -m bench`. docs/performance.md tells how it is
measured."""

import os
import sys

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.join(REPOSITORY, "build", "bench")
VENV = os.path.join(BUILD, "venv")  # what only the benches need of PyPI: bench/requirements.txt

# The processes that are measured are those of the tests: tests/unit/fakes/data_harness.py.
for _part in ("lab/python_libs", "tests/unit/fakes", ""):
    _path = os.path.join(REPOSITORY, _part) if _part else REPOSITORY
    if _path not in sys.path:
        sys.path.insert(0, _path)
