# SPDX-License-Identifier: LGPL-2.1-only
"""The words that stand for true and false among a function's arguments."""

BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
