# SPDX-License-Identifier: LGPL-2.1-only
"""The commands that the lab's xe understands."""

from lab.xe import fields, listing
from lab.xe.errors import failed, usage_error


def _required(parameters, *names):
    for name in names:
        if name not in parameters:
            raise usage_error("Required parameter not found", name)
    return [parameters[name] for name in names]


def _map(parameters, name):
    """What is given as name:key=value."""
    return {
        key[len(name) + 1 :]: value
        for key, value in parameters.items()
        if key.startswith(name + ":")
    }


def host_call_plugin(xapi, parameters):
    """Call a plugin; what it answers is printed as it is."""
    uuid, plugin, function = _required(parameters, "host-uuid", "plugin", "fn")
    arguments = _map(parameters, "args")
    for key in [key for key in arguments if key.endswith(":file")]:
        try:
            with open(arguments.pop(key)) as stream:
                arguments[key[: -len(":file")]] = stream.read()
        except OSError as error:
            raise failed(str(error))
    return xapi.host.call_plugin(xapi.host.get_by_uuid(uuid), plugin, function, arguments) + "\n"


def _vms(xapi, parameters, ignored):
    """The VMs that a command is for."""
    filters = {
        key: value for key, value in parameters.items() if key not in listing.STANDARD + ignored
    }
    named = filters.pop("vm", None)
    selected, _ = listing.select(xapi, "vm", dict(filters, **{"is-control-domain": "false"}))
    vms = [
        ref
        for ref, record in selected
        if named is None or named in (record["uuid"], record["name_label"])
    ]
    if not vms:
        raise failed("No matching VMs found")
    if len(vms) > 1 and parameters.get("multiple") != "true":
        raise failed("Multiple matches VMs found. --multiple required to complete the operation")
    return vms


def vm_start(xapi, parameters):
    """Start VMs, on a given host if `on` says so."""
    force = parameters.get("force") == "true"
    paused = parameters.get("paused") == "true"
    for vm in _vms(xapi, parameters, ("on", "paused")):
        if "on" in parameters:
            hosts = [
                ref
                for ref, record in xapi.host.get_all_records().items()
                if parameters["on"] in (record["uuid"], record["name_label"])
            ]
            if not hosts:
                raise failed("No matching hosts found")
            xapi.VM.start_on(vm, hosts[0], paused, force)
        else:
            xapi.VM.start(vm, paused, force)
    return ""


def vm_shutdown(xapi, parameters):
    """Shut VMs down, at once with --force."""
    for vm in _vms(xapi, parameters, ()):
        (xapi.VM.hard_shutdown if parameters.get("force") == "true" else xapi.VM.clean_shutdown)(vm)
    return ""


def sr_create(xapi, parameters):
    """Make an SR; its uuid is printed. Without a host-uuid it is made by the only host or, if it is
    shared, by the pool's master (xapi-cli-server/cli_operations.ml, sr_create)."""
    name, sr_type = _required(parameters, "name-label", "type")
    shared, hosts = parameters.get("shared") == "true", xapi.host.get_all()
    if "host-uuid" in parameters:
        host = xapi.host.get_by_uuid(parameters["host-uuid"])
    elif shared:
        host = xapi.pool.get_master(xapi.pool.get_all()[0])
    elif len(hosts) == 1:
        host = hosts[0]
    else:
        raise usage_error("Required parameter not found", "host-uuid")
    made = xapi.SR.create(
        host,
        _map(parameters, "device-config"),
        parameters.get("physical-size", "0"),
        name,
        "",
        sr_type,
        parameters.get("content-type", ""),
        shared,
        _map(parameters, "sm-config"),
    )
    return xapi.SR.get_uuid(made) + "\n"


def vdi_enable_cbt(xapi, parameters):
    """Have a disk's changed blocks tracked."""
    xapi.VDI.enable_cbt(xapi.VDI.get_by_uuid(*_required(parameters, "uuid")))
    return ""


def vdi_disable_cbt(xapi, parameters):
    """The end of that."""
    xapi.VDI.disable_cbt(xapi.VDI.get_by_uuid(*_required(parameters, "uuid")))
    return ""


def _lister(kind):
    return lambda xapi, parameters: listing.list_records(xapi, kind, parameters)


COMMANDS = dict(
    {"%s-list" % kind: _lister(kind) for kind in fields.RECORDS},
    **{
        "host-call-plugin": host_call_plugin,
        "sr-create": sr_create,
        "vdi-disable-cbt": vdi_disable_cbt,
        "vdi-enable-cbt": vdi_enable_cbt,
        "vm-start": vm_start,
        "vm-shutdown": vm_shutdown,
    },
)
