"""Describing the VM to the destination pool: its metadata, with a counterpart for every disk and interface."""
import logging
import urllib.parse

from storage_motion.control import again, changes, claim
from storage_motion.control.checks import CLAIM
from storage_motion.errors import Undecided
from storage_motion.xapi import metadata, ova
from storage_motion.xapi.records import Records
from storage_motion.xapi.session import end


log = logging.getLogger("sxm")


def arrive(session, host, network):
    """What `host.migrate_receive` answers: where the destination host receives a VM. There is a session in it.

    `session`: of the destination pool; refs of its host and network. The URL of xenopsd becomes https where xapi gave no
    port of its own, as the source of a migration is to do (facts: xapi.md, Moving a VM)."""
    arrival = dict(session.xenapi.host.migrate_receive(host, network, {}))
    arrival["xenops"] = _https(arrival["xenops"])
    return arrival


def arrive_again(m):
    """Have what leads to the destination's host, `m.arrival`, be of now. Returns it."""
    if m.arrival:
        depart(m.destination, m.arrival)
    m.arrival = None
    m.arrival = arrive(m.destination, m.host(), m.destination.xenapi.network.get_by_uuid(m.plan.network))
    return m.arrival


def base_url(arrival):
    """The URL of the xapi of the host that receives."""
    parts = urllib.parse.urlsplit(arrival["xenops"])
    return "%s://%s" % (parts.scheme, parts.netloc)


def depart(session, arrival):
    """End the session that `arrive` began."""
    end(session, arrival["session_id"])


def rehearse(source, destination, plan):
    """Ask the destination whether it would take the VM: xapi's own checks of memory, processors, devices.

    Changes nothing. Raises tasks.TaskFailed or XenAPI.Failure with xapi's own error."""
    host = destination.xenapi.host.get_by_uuid(plan.destination_host)
    arrival = arrive(destination, host, destination.xenapi.network.get_by_uuid(plan.network))
    try:
        document = _document(source, destination, plan, {}, None)
        metadata.bring(destination, base_url(arrival), document, plan.check_cpu, dry_run=True)
    finally:
        depart(destination, arrival)


def bring_live(m):
    """Bring the running VM's metadata to the destination pool, and have its host keep room for it."""
    changes.require_none(m)
    keep_live(m)


def keep_live(m):
    """The same; of what is there already only what is lacking, as when a xapi that was restarted has forgotten it. The VM does not run there."""
    again.done(m, lambda: _keep_room(m, _bring(m)), "the import of VM %s" % m.plan.vm)


def lacking(m):
    """What of that is lacking: a list, in words."""
    vm = Records(m.destination).ref("VM", m.plan.vm)
    if not vm or not claim.has_blocked_arrived(m, vm):
        return ["the VM at the destination"]
    return [] if _has_room(m, vm) else ["the room for it there"]


def _has_room(m, vm):
    return m.destination.xenapi.VM.get_scheduled_to_be_resident_on(vm) == m.host()


def _keep_room(m, vm):
    if not _has_room(m, vm):    # which goes with a restart, whatever is on disk (dbsync_master.ml, release_locks)
        m.destination.xenapi.host.allocate_resources_for_vm(m.host(), vm, True)
        m.destination.xenapi.network.attach_for_vm(m.host(), vm)


def bring(m):
    """Bring the VM's metadata to the destination pool. Returns its ref there: it keeps its UUID."""
    return again.done(m, lambda: _bring(m), "the import of VM %s" % m.plan.vm)


def _bring(m):
    """One try. What a former one has left of it is taken away first, unless it is whole."""
    vm = Records(m.destination).ref("VM", m.plan.vm) if m.entry.get("imported") else None
    if vm and claim.has_blocked_arrived(m, vm):
        return vm
    if vm:
        log.warning("%s: VM %s is there in part, and is taken away", m.id, m.plan.vm)
        _destroy(m, vm)
    m.arrival = m.arrival or arrive(m.destination, m.host(), m.destination.xenapi.network.get_by_uuid(m.plan.network))
    counterparts = {disk.key: m.destination_vdi(disk) for disk in m.plan.disks}
    document = _document(m.source, m.destination, m.plan, counterparts, m.id)
    m.note(imported=True)
    metadata.bring(m.destination, base_url(m.arrival), document, m.plan.check_cpu)
    vm = destination_vm(m)
    claim.block_arrived(m, vm)
    return vm


def bring_again(m):
    """Have the destination's xapi know the VM and its disks again, if it has forgotten them: records that it had not written to disk are lost
    when it is killed; images and the source's records are not. Raises XenAPI.Failure, UUID_INVALID, for a disk that no scan finds."""
    for disk in m.plan.disks:
        uuid = m.disk(disk.key)["destination_vdi"]
        if not Records(m.destination).ref("VDI", uuid):
            log.warning("%s: VDI %s is looked for by a scan", m.id, uuid)
            m.destination.xenapi.SR.scan(m.destination.xenapi.SR.get_by_uuid(disk.destination_sr))
            vdi = m.destination_vdi(disk)
            m.destination.xenapi.VDI.set_name_label(vdi, disk.name_label)
            m.destination.xenapi.VDI.set_name_description(vdi, disk.name_description)
    if m.plan.cross_pool and not Records(m.destination).ref("VM", m.plan.vm):
        log.warning("%s: VM %s is brought to the destination once more", m.id, m.plan.vm)
        bring(m)


def remove(m):
    """Take the VM's metadata out of the destination pool again. The VM does not run there (move.shut_gates is sure of it)."""
    if m.entry.get("imported"):
        vm = Records(m.destination).ref("VM", m.plan.vm)
        if vm:
            if m.destination.xenapi.VM.get_power_state(vm) != "Halted":
                if not m.plan.live:
                    raise Undecided("VM %s has been started at the destination" % m.plan.vm)
                m.destination.xenapi.VM.power_state_reset(vm)
            _destroy(m, vm)
        m.note(imported=False)
    if m.arrival:
        depart(m.destination, m.arrival)
        m.arrival = None


def _destroy(m, vm):
    claim.unblock_arrived(m, vm, ("destroy",))
    m.destination.xenapi.VM.destroy(vm)


def destination_vm(m):
    """The ref of the VM in the destination pool."""
    return m.destination.xenapi.VM.get_by_uuid(m.plan.vm)


def _document(source, destination, plan, disks, migration):
    """The rewritten metadata. Our marks and blocks stay behind; so do the counterparts of an earlier migration."""
    vifs = {vif.vif: destination.xenapi.network.get_by_uuid(vif.network) for vif in plan.vifs}
    exported = metadata.export(source, source.xenapi.VM.get_by_uuid(plan.vm))
    ours = claim.reason(migration) if migration else None
    drop = [(name, "other_config", lambda key, value: key == CLAIM) for name in ("VM", "VDI")]
    drop.append(("VM", "blocked_operations", lambda key, value: value == ours))
    return ova.rewrite(exported, disks, vifs, drop)


def _https(url):
    parts = urllib.parse.urlsplit(url)
    if parts.port is not None:
        return url
    return urllib.parse.urlunsplit(("https",) + tuple(parts[1:]))
