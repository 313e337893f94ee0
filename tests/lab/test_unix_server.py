# SPDX-License-Identifier: LGPL-2.1-only
"""Who waits for the path of a daemon of the lab can connect as soon as it is there."""

import os
import socket
import socketserver

import pytest

from lab.unix_server import UnixServer


@pytest.mark.parametrize("leftover", ("", ".new"))
def test_its_path_is_there_when_it_listens(tmp_path, monkeypatch, leftover):
    path, seen = str(tmp_path / "daemon.sock"), []
    socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).bind(path + leftover)
    activate = socketserver.UnixStreamServer.server_activate

    def looked(server):
        # what a dead one has left refuses: lab/pools/daemons.py takes it away before
        seen.append(os.path.exists(path))
        activate(server)

    monkeypatch.setattr(socketserver.UnixStreamServer, "server_activate", looked)
    with UnixServer(path, socketserver.BaseRequestHandler):
        assert seen == [not leftover]
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(path)
