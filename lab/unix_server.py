# SPDX-License-Identifier: LGPL-2.1-only
"""A server on a unix socket whose path is there only when it listens, so that whoever waits for the
path can connect."""

import os
import socketserver


class UnixServer(socketserver.UnixStreamServer):
    """What a dead predecessor has left at the path is replaced."""

    def __init__(self, path, handler):
        self._path, self._made = path, path + ".new"
        if os.path.lexists(self._made):
            os.unlink(self._made)
        super().__init__(self._made, handler)

    def server_activate(self):
        super().server_activate()
        os.rename(self._made, self._path)
