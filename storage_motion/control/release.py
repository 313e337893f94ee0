"""The last undo: the VM at the source is one like any other again, and xapi cannot forget that."""
from storage_motion.control import bar, claim, durable
from storage_motion.control.checks import CLAIM
from storage_motion.xapi.records import Records


def release(m):
    """Take back what `claim` did, and a bar that an older database has brought back since it was lifted. Raises NotDurable."""
    durable.keep((m.source,), lambda: _release(m), lambda: _marked(m), "that VM %s is released" % m.plan.vm)


def _release(m):
    for disk in m.plan.disks:
        if Records(m.source).ref("VDI", disk.key):
            bar.lift(m, disk)
    claim.release(m)


def _marked(m):
    found = ["the bar of %s is back" % disk.key for disk in m.plan.disks
             if Records(m.source).ref("VDI", disk.key) and bar.is_put(m, disk)]
    vm = m.source.xenapi.VM.get_record(m.vm())
    if vm["other_config"].get(CLAIM) == m.id or claim.reason(m.id) in vm["blocked_operations"].values():
        found.append("the VM is claimed again")
    for uuid in m.entry.get("fastened", []):
        vbd = Records(m.source).ref("VBD", uuid)
        if vbd and not m.source.xenapi.VBD.get_unpluggable(vbd):
            found.append("VBD %s cannot be unplugged again" % uuid)
    return found
