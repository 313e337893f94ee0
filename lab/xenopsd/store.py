# SPDX-License-Identifier: LGPL-2.1-only
"""What xenopsd knows of each VM, on disk: /var/lib/xenopsd/<id>.json, replaced atomically."""

import contextlib
import json
import os
import threading

from lab.xenopsd.errors import already_exists, does_not_exist


class Store:
    """The VMs of one host. A record is a dict; `save` writes it down, and by `files` (files.py)
    what the real one would show of it."""

    def __init__(self, directory, files):
        os.makedirs(directory, exist_ok=True)
        self._directory = directory
        self._files = files
        self.mutex = threading.RLock()
        """Held while a record is changed and written down."""
        self._locks = {}
        self._records = {}
        for name in os.listdir(directory):
            if name.endswith(".json"):
                with open(os.path.join(directory, name)) as stream:
                    record = json.load(stream)
                self._records[record["id"]] = record
                self._files.write(record)

    def ids(self):
        """The ids of all VMs."""
        with self.mutex:
            return sorted(self._records)

    def get(self, identity):
        """The record of this VM; raises Does_not_exist."""
        with self.mutex:
            if identity not in self._records:
                raise does_not_exist("VM", identity)
            return self._records[identity]

    def find(self, identity):
        """The record of this VM, or None."""
        with self.mutex:
            return self._records.get(identity)

    def save(self, record):
        """Keep this record, from now on and on disk."""
        with self.mutex:
            self._records[record["id"]] = record
            path = self._path(record["id"])
            with open(path + ".new", "w") as stream:
                json.dump(record, stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.rename(path + ".new", path)
            self._files.write(record)

    def remove(self, identity):
        """Forget this VM."""
        with self.mutex:
            self._records.pop(identity, None)
            self._files.remove(identity)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(identity))

    def rename(self, record, identity):
        """Give the VM of this record another id. Raises Already_exists where a VM has that: as in
        VM_rename the domain then is that VM's, with what is attached to it, and its own record is
        gone."""
        with self.mutex:
            former, standing = record["id"], self._records.get(identity)
            if standing is not None:
                standing.update(
                    domain=record["domain"],
                    attached=dict(standing["attached"], **record["attached"]),
                    saved=record["saved"],
                )
                self.save(standing)
                self.remove(former)
                raise already_exists(identity)
            self.remove(former)  # in this order, and not in one
            record["id"] = record["metadata"]["id"] = identity
            self.save(record)

    def lock(self, identity):
        """The lock under which operations on this VM are done, one at a time."""
        with self.mutex:
            return self._locks.setdefault(identity, threading.RLock())

    @contextlib.contextmanager
    def alias(self, identity, alias):
        """Meanwhile operations on `alias` wait for those on `identity` (Redirector.alias)."""
        with self.mutex:
            former, self._locks[alias] = self._locks.get(alias), self.lock(identity)
        try:
            yield
        finally:
            with self.mutex:
                self._locks.pop(alias)
                if former is not None:
                    self._locks[alias] = former

    def _path(self, identity):
        return os.path.join(self._directory, "%s.json" % identity)
