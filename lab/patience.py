# SPDX-License-Identifier: LGPL-2.1-only
"""How many times slower than usual this machine is: $SXM_LAB_PATIENCE, 6 where it is emulated.

There a look at a task costs a good part of a second's work, and looks that come too often keep what
they wait for from being done."""

import os

TIMES = float(os.environ.get("SXM_LAB_PATIENCE", "1"))
