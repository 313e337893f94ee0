"""What a lab host's xapi is told: R/etc/lab-xapi.json, written by the lab's pools."""
import json

_MEMBERS = ("host", "http_port", "https_port", "role", "master", "pool_secret", "pool", "database", "root_password")


class Config:
    """The members of the file, as attributes; `root` is the host's root directory."""

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
        self.database = members["database"]
        self.root_password = members["root_password"]

    @property
    def self_description(self):
        """What the pool's master keeps of this host."""
        return dict(self.host, http_port=self.http_port, https_port=self.https_port)


def read(root):
    """The configuration of the host with this root. Raises OSError, ValueError."""
    root = root.rstrip("/")
    with open(root + "/etc/lab-xapi.json", encoding="utf-8") as file:
        return Config(root, json.load(file))
