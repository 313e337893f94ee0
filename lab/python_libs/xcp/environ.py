# SPDX-License-Identifier: LGPL-2.1-only
"""xcp.environ: the host's inventory."""

import os


class InventoryError(Exception):
    """The inventory cannot be read, or has a line that is not NAME=value."""


def readInventory(root="/"):
    """{name: value} of etc/xensource-inventory below `root`.

    As the real one: quotes of either kind are stripped from a value's ends, white space beside "="
    is refused, and so is a line without "=", an empty one included. A line is a comment if it
    begins with "#"."""
    path = os.path.join(root, "etc/xensource-inventory")
    found = {}
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            for line in map(str.strip, lines):
                if line.startswith("#"):
                    continue
                name, equals, value = line.partition("=")
                if not equals or name[-1:] in (" ", "\t") or value[:1] in (" ", "\t"):
                    raise InventoryError("Invalid line found '%s'" % line)
                found[name] = value.strip("'\"")
    except OSError as error:
        raise InventoryError("Error reading from file '%s'" % error)
    return found
