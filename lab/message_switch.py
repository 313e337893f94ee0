"""What message-switch adds to xenopsd's calls of storage: a request lies in its queue until it is answered, and a xapi that starts is handed at
once what the one before has left (switch/q.ml, message-switch's Server.listen).

Here a request is a file of the host, in memory, with the process that made it; what is handed over is repeated by that process.
"""
import contextlib
import json
import os
import uuid

from lab.xenopsd import process

DIRECTORY = "/run/message-switch"
MEMBER = "message"
"""The member of a request that names it."""


@contextlib.contextmanager
def request(root):
    """A request of this process: its name. It lies there until it is answered, or this process is gone."""
    os.makedirs(root + DIRECTORY, exist_ok=True)
    name, pid = str(uuid.uuid4()), os.getpid()
    path = os.path.join(root + DIRECTORY, name)
    with open(path + ".new", "w") as stream:
        json.dump([pid, process.start_time(pid)], stream)
    os.rename(path + ".new", path)
    try:
        yield name
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def waiting(root):
    """The names of the requests that lie there."""
    found = []
    for name in os.listdir(root + DIRECTORY) if os.path.isdir(root + DIRECTORY) else []:
        with contextlib.suppress(FileNotFoundError):
            with open(os.path.join(root + DIRECTORY, name)) as stream:
                if process.alive(*json.load(stream)):
                    found.append(name)
    return found
