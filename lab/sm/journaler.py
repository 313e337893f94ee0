# SPDX-License-Identifier: LGPL-2.1-only
"""What the garbage collector was at when it was killed: a file for each entry, `<kind>_<uuid>`, in
the directory of the images."""

import contextlib
import os

RELINK, LEAF, COALESCE = "relink", "leaf", "coalesce"


class Journaler(object):
    """The entries of a directory."""

    def __init__(self, directory):
        self._directory = directory

    def create(self, kind, uuid, value="1"):
        """Make an entry."""
        with open(self._path(kind, uuid), "w") as entry:
            entry.write(value)

    def remove(self, kind, uuid):
        """Take it away. Raises OSError if it is not there."""
        os.unlink(self._path(kind, uuid))

    def all(self, kind):
        """The entries of a kind: uuid -> value. Others may take one away meanwhile, since nothing
        is locked (fjournaler.py, get)."""
        found = {}
        for name in os.listdir(self._directory):
            if name.startswith(kind + "_"):
                with contextlib.suppress(FileNotFoundError), open(
                    os.path.join(self._directory, name)
                ) as entry:
                    found[name[len(kind) + 1 :]] = entry.read()
        return found

    def _path(self, kind, uuid):
        return os.path.join(self._directory, "%s_%s" % (kind, uuid))
