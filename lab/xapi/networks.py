# SPDX-License-Identifier: LGPL-2.1-only
"""network and PIF."""

from lab.xapi.calls import call, hidden
from lab.xapi.failures import Failure
from lab.xapi.schema import construct

# xapi_network.ml, for any session but those of xapi itself
_RESERVED_BRIDGES = ("xen", "xapi", "vif", "tap", "eth")
_LONGEST_BRIDGE = 15
_MTU = 1500


def next_bridge(database):
    """A name that no bridge of the pool has."""
    used = [record["bridge"] for record in database.records("network").values()]
    return next(
        "xapi%d" % number for number in range(len(used) + 1) if "xapi%d" % number not in used
    )


@call("network.create", "args:record(network)")
def create(context, args):
    """Raises INVALID_VALUE [bridge, name], BRIDGE_NAME_EXISTS [name]."""
    made = construct("network", args)
    with context.database.lock:
        bridge = made.get("bridge")
        if bridge and (len(bridge) > _LONGEST_BRIDGE or bridge.startswith(_RESERVED_BRIDGES)):
            raise Failure("INVALID_VALUE", "bridge", bridge)
        if bridge and context.database.where("network", bridge=bridge):
            raise Failure("BRIDGE_NAME_EXISTS", bridge)
        made["bridge"] = bridge or next_bridge(context.database)
        made["MTU"] = made["MTU"] if made.get("MTU", 0) > 0 else _MTU
        return context.database.create("network", made)


@call("network.destroy", "self:ref(network)")
def destroy(context, self):
    with context.database.lock:
        record = context.database.record("network", self)
        if record["PIFs"]:
            raise Failure("NETWORK_CONTAINS_PIF", *record["PIFs"])
        if record["VIFs"]:
            raise Failure("NETWORK_CONTAINS_VIF", *record["VIFs"])
        context.database.destroy("network", self)


@hidden("network.attach_for_vm")
def attach_for_vm(context, host, vm):
    """Every network of the VM is there on every host of the lab: only what is asked about must
    be."""
    database = context.database
    database.get("host", host, "uuid")
    for vif in database.get("VM", vm, "VIFs"):
        database.get("network", database.get("VIF", vif, "network"), "uuid")


@hidden("network.detach_for_vm")
def detach_for_vm(context, host, vm):
    attach_for_vm(context, host, vm)


@call(
    "PIF.reconfigure_ip",
    "self:ref(PIF) mode:enum(ip_configuration_mode) IP:string netmask:string gateway:string "
    "DNS:string",
)
def reconfigure_ip(context, self, mode, ip, netmask, gateway, dns):
    """Only the object: the lab's addresses are loopback ones, which need no configuring."""
    context.database.set(
        "PIF", self, ip_configuration_mode=mode, IP=ip, netmask=netmask, gateway=gateway, DNS=dns
    )


@call("PIF.introduce", "host:ref(host) MAC:string device:string managed:bool?")
def introduce_pif(context, host, mac, device, _managed):
    """A further interface of a host of the lab, on a network of its own."""
    database = context.database
    with database.lock:
        database.get("host", host, "uuid")
        bridge = device.replace("eth", "xenbr")
        found = database.where("network", bridge=bridge)
        network = (
            found[0]
            if found
            else database.create(
                "network",
                {"name_label": "Pool-wide network associated with %s" % device, "bridge": bridge},
            )
        )
        return database.create(
            "PIF",
            {
                "host": host,
                "device": device,
                "MAC": mac,
                "network": network,
                "physical": True,
                "currently_attached": True,
            },
        )
