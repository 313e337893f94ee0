# SPDX-License-Identifier: LGPL-2.1-only
"""host and pool: what a host is asked, how it comes to be in the pool."""

import socket
import time

from lab.xapi import memory
from lab.xapi.calls import call, hidden
from lab.xapi.failures import Failure
from lab.xapi.pool import HTTP_PORT, HTTPS_PORT
from lab.xapi.schema import NULL, Timestamp
from lab.xapi.sm import register_drivers

PRODUCT = {
    "product_brand": "XCP-ng",
    "product_version": "8.3.0",
    "product_version_text": "8.3",
    "product_version_text_short": "8.3",
    "platform_name": "XCP",
    "platform_version": "3.4.0",
    "build_number": "lab",
    "xapi_build": "26.1.0",
    "xapi": "26.1",
    "xen": "4.17.5",
    "date": "20260101",
}
API_VERSION = (2, 23)  # of 26.x: api_version.ml, datamodel_types.ml (orinoco)
AGENT_STARTED = "agent_start_time"  # dbsync_slave.ml: at each start, string_of_float (Unix.time ())
_NEW_HOST = {"ssl_legacy": False}  # recorded/xapi-host.get_record
_MANAGEMENT = {
    "name_label": "Pool-wide network associated with eth0",
    "name_description": "Management network",
    "bridge": "xenbr0",
}


def make_pool(pool, config):
    """The pool object of a new pool."""
    pool.database.create(
        "pool",
        {
            "uuid": config.pool["uuid"],
            "name_label": config.pool["name"],
            "ha_cluster_stack": "xhad",
            # Two of those in docs/facts/recorded, of which none is on: Features.all_features.
            "restrictions": {
                "restrict_vtpm": "false",
                "restrict_vif_locking": "false",
                "restrict_gpu": "false",
            },
        },
    )


def join(pool, config, is_master, control_domain):
    """Make, or bring up to date, the objects of a host whose xapi starts. Answers its ref.
    `config`: that host's."""
    database = pool.database
    address = config["address"]
    with database.lock:
        host = database.find_uuid("host", config["uuid"])
        if host is None:
            host = database.create("host", dict(_NEW_HOST, uuid=config["uuid"]))
            database.set("host", host, name_label=config["name"])
        other_config = database.get("host", host, "other_config")
        other_config.update(
            {
                HTTP_PORT: str(config["http_port"]),
                HTTPS_PORT: str(config["https_port"]),
                AGENT_STARTED: "%d." % time.time(),
            }
        )
        database.set(
            "host",
            host,
            address=address,
            hostname=config["name"],
            enabled=True,
            software_version=dict(PRODUCT),
            API_version_major=API_VERSION[0],
            API_version_minor=API_VERSION[1],
            API_version_vendor="XenSource",
            other_config=other_config,
            edition="xcp-ng",
            sched_policy="credit",
            capabilities=["hvm-3.0-x86_64"],
            virtual_hardware_platform_versions=[0, 1, 2],
            cpu_info={
                "cpu_count": "2",
                "socket_count": "1",
                "vendor": "GenuineIntel",
                "modelname": "lab",
            },
        )
        memory.give(database, host)
        _make_pif(database, host, address)
        if control_domain:
            _make_control_domain(database, host, config["name"], control_domain)
        if is_master:
            database.set("pool", pool.ref, master=host)
    return host


def _make_pif(database, host, address):
    pifs = database.where("PIF", host=host, management=True)
    if pifs:
        database.set("PIF", pifs[0], IP=address)
        return
    networks = database.where("network", bridge=_MANAGEMENT["bridge"])
    network = networks[0] if networks else database.create("network", _MANAGEMENT)
    database.create(
        "PIF",
        {
            "host": host,
            "network": network,
            "device": "eth0",
            "IP": address,
            "netmask": "255.0.0.0",
            "ip_configuration_mode": "Static",
            "management": True,
            "physical": True,
            "currently_attached": True,
            "MAC": "02:00:" + ":".join("%02x" % byte for byte in socket.inet_aton(address)),
        },
    )


def _make_control_domain(database, host, name, uuid):
    domain = database.find_uuid("VM", uuid)
    if domain is None:
        metrics = database.create("VM_metrics", {})
        domain = database.create(
            "VM",
            {
                "uuid": uuid,
                "name_label": "Control domain on host: %s" % name,
                "power_state": "Running",
                "is_control_domain": True,
                "domid": 0,
                "metrics": metrics,
                "resident_on": host,
            },
        )
    database.set("host", host, control_domain=domain)


def register(pool, host):
    """Ask the host's storage drivers what they can do."""
    register_drivers(pool, host)


@call("host.get_servertime", "host:ref(host)", is_async=False)
def get_servertime(context, host):
    context.database.get("host", host, "uuid")
    return Timestamp.now()


@call("host.get_server_localtime", "host:ref(host)", is_async=False)
def get_server_localtime(context, host):
    context.database.get("host", host, "uuid")
    return Timestamp(time.strftime("%Y%m%dT%H:%M:%S"))


@call("host.compute_free_memory", "host:ref(host)")
def compute_free_memory(context, host):
    context.database.get("host", host, "uuid")
    return memory.free(context.database, host)


@call("host.disable", "host:ref(host) auto_enable:bool?true")
def disable(context, host, _auto_enable):
    context.database.set("host", host, enabled=False)


@call("host.enable", "host:ref(host)")
def enable(context, host):
    context.database.set("host", host, enabled=True)


@call("host.migrate_receive", "host:ref(host) network:ref(network) options:map(string,string)")
def migrate_receive(context, host, network, _options):
    """Where to send a VM that shall come to `host` over `network`, with a session of its own."""
    database = context.database
    ports = database.get("host", host, "other_config")
    pifs = [
        pif
        for pif in database.get("network", network, "PIFs")
        if database.get("PIF", pif, "host") == host
    ]
    if not pifs:
        raise Failure("HOST_CANNOT_ATTACH_NETWORK", host, network)
    pif = database.record("PIF", pifs[0])
    if pif["IP"] == "":
        raise Failure(
            "PIF_HAS_NO_NETWORK_CONFIGURATION"
            if pif["ip_configuration_mode"] == "None"
            else "INTERFACE_HAS_NO_IP",
            pifs[0],
        )
    session = context.pool.sessions.open(host, context.originator)
    master = database.record("host", context.pool.master)
    here = "http://%s:%s" % (pif["IP"], ports[HTTP_PORT])
    return {
        "SM": "%s/services/SM?session_id=%s" % (here, session),
        "xenops": "%s/services/xenops?session_id=%s" % (here, session),
        "host": host,
        "session_id": session,
        "master": "http://%s:%s" % (master["address"], master["other_config"][HTTP_PORT]),
    }


@hidden("host.allocate_resources_for_vm")
def allocate_resources_for_vm(context, self, vm, live):
    context.database.get("host", self, "uuid")
    if context.database.get("VM", vm, "resident_on") != NULL:
        return
    if live:
        context.database.set("VM", vm, scheduled_to_be_resident_on=self)


@hidden("host.get_sm_diagnostics", is_async=False)
def get_sm_diagnostics(context, host):
    """What the storage layer of `host` believes, as text: each SR that is attached, its VDIs, and
    their datapaths."""
    layer = context.pool.storage.layer(host)
    backends = "\n".join(
        "For SR: %s\nNo diagnostics are available for SMAPIv1 plugins" % sr for sr in layer.srs()
    )
    return "\n".join(
        ["DataPath information:", layer.diagnostics(), "Backend information:", backends]
    )


@hidden("host.sm_dp_destroy", is_async=False)
def sm_dp_destroy(context, host, dp, allow_leak):
    """Have the storage layer of `host` remove a datapath, with what of SM that takes. Raises what
    SM raises, unless `allow_leak`."""
    context.pool.storage.destroy_datapath(host, dp, allow_leak)
