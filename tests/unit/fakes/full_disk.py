# SPDX-License-Identifier: LGPL-2.1-only
"""A file system of the journals that takes nothing any more, from a chosen write on; /run, where
secrets are, goes on."""

import errno
import os

from storage_motion.journal import journal


class FullDisk:
    """`left`: how many writes still go through (None: all); `error`: what the others fail with."""

    def __init__(self, monkeypatch, error=errno.ENOSPC):
        self.left, self.error, self.refused, self.written = None, error, 0, 0
        self._replace = journal.replace
        monkeypatch.setattr(journal, "replace", self.replace)

    def replace(self, path, text, sync=True):
        if os.path.dirname(path) == journal.root.path(journal.DIRECTORY):
            if self.left == 0:
                self.refused += 1
                raise OSError(self.error, os.strerror(self.error))
            self.left = None if self.left is None else self.left - 1
            self.written += 1
        self._replace(path, text, sync)
