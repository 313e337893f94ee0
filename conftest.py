# SPDX-License-Identifier: LGPL-2.1-only
"""Lets the tests import the checkout that they stand in."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
