# SPDX-License-Identifier: LGPL-2.1-only
"""Two pools on one ordinary Linux machine: stand-ins for dom0's programs, behind those programs'
own interfaces."""

import os
import sys

# What dom0's Python has and no registry: parts of the product that the lab uses import it.
sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "python_libs"))
