# SPDX-License-Identifier: LGPL-2.1-only
"""What a lab host's xapi is told: R/etc/lab-xapi.json, written by the lab's pools."""

import json

_MEMBERS = (
    "host",
    "http_port",
    "https_port",
    "role",
    "master",
    "pool_secret",
    "pool",
    "root_password",
)

FLUSH_SECONDS = 300.0  # db_cache_impl.ml, coallesce_time
AWAY_SECONDS = 100.0  # measured: a member that is off, until CANNOT_CONTACT_HOST


class Config:
    """The members of the file, as attributes; `root` is the host's root directory.

    May be left out: `database_flush_seconds`, after which the database is written to disk by itself
    (0: at each call, which no real xapi does), and `away_seconds`, for which `pool.sync_database`
    waits for a member that cannot be reached.
    """

    def __init__(self, root, members):
        missing = [name for name in _MEMBERS if name not in members]
        if missing:
            raise ValueError("lab-xapi.json lacks %s" % ", ".join(missing))
        self.root = root
        self.host = members["host"]
        self.http_port = int(members["http_port"])
        self.https_port = int(members["https_port"])
        self.is_master = members["role"] == "master"
        self.master = members["master"]
        self.pool_secret = members["pool_secret"]
        self.pool = members["pool"]
        self.root_password = members["root_password"]
        self.database_flush_seconds = float(members.get("database_flush_seconds", FLUSH_SECONDS))
        self.away_seconds = float(members.get("away_seconds", AWAY_SECONDS))

    @property
    def self_description(self):
        """What the pool's master keeps of this host."""
        return dict(self.host, http_port=self.http_port, https_port=self.https_port)


def read(root):
    """The configuration of the host with this root. Raises OSError, ValueError."""
    root = root.rstrip("/")
    with open(root + "/etc/lab-xapi.json", encoding="utf-8") as file:
        return Config(root, json.load(file))
