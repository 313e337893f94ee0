# SPDX-License-Identifier: LGPL-2.1-only
"""The commands of `sxm`, one to a module; main.COMMANDS is the table of them."""
