# SPDX-License-Identifier: LGPL-2.1-only
"""Who this host is, by /etc/xensource-inventory."""

from xcp.environ import InventoryError, readInventory

from storage_motion.dom0 import root
from storage_motion.errors import BadInventory

UUID = "INSTALLATION_UUID"


def host_uuid() -> str:
    """The UUID of this host. Raises BadInventory."""
    try:
        uuid: str = readInventory(root.path("/"))[UUID]
    except InventoryError as error:
        raise BadInventory(str(error))
    except KeyError:
        raise BadInventory("no %s in it" % UUID)
    return uuid
