# SPDX-License-Identifier: LGPL-2.1-only
"""Messages on disk: a file each, written when it is made, and not in the database
(xapi_message.ml)."""

import contextlib
import json
import os

from lab.xapi.schema import CLASSES, coerce

DIRECTORY = "/var/lib/xcp/blobs/messages"


class MessageFiles:
    """Those of the pool whose master has `root`."""

    def __init__(self, database, root):
        self._database = database
        self._directory = root + DIRECTORY

    def load(self):
        """Make the objects of all messages that were kept."""
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        fields = CLASSES["message"]
        for ref in os.listdir(self._directory):
            with open(self._path(ref), encoding="utf-8") as file:
                record = json.load(file)
            self._database.create(
                "message",
                {name: coerce(value, fields[name].type, name) for name, value in record.items()},
                ref,
            )

    def keep(self, ref):
        """Write the message down."""
        with open(self._path(ref), "w", encoding="utf-8") as file:
            json.dump(self._database.record("message", ref), file)

    def remove(self, ref):
        """Forget it."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(ref))

    def _path(self, ref):
        return os.path.join(self._directory, ref)
