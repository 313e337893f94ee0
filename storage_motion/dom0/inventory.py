"""Who this host is, by /etc/xensource-inventory."""
from storage_motion.dom0 import root

PATH = "/etc/xensource-inventory"


def read():
    """{name: value} of the inventory: lines NAME='value'."""
    found = {}
    with open(root.path(PATH), encoding="utf-8", errors="replace") as lines:
        for line in lines:
            name, equals, value = line.strip().partition("=")
            if equals:
                found[name] = value.strip("'\"")
    return found


def host_uuid():
    """The UUID of this host."""
    return read()["INSTALLATION_UUID"]
