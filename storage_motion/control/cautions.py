"""What a plan warns of: a blktap that is not known to be safe for QCOW2 (dom0/blktap.py), on a host
that has such a disk open."""
from storage_motion.control import formats

WARNING = ("host %s has blktap %s, which is not known to be safe for QCOW2: one request at a time "
           "is sent to a QCOW2 disk there, so it moves slowly (docs/operations.md)")


def of(source, destination, plan, hosts):
    """The warnings: a list of sentences. `source`, `destination`: Records; `hosts`: {uuid: what the
    host says of itself (installed.here)}."""
    there = destination.ref("host", plan.destination_host)
    opened = {(plan.source_host_name, plan.source_host) for disk in plan.disks
              if _at_source(source, disk) == formats.QCOW2}
    opened |= {(plan.destination_host_name, plan.destination_host) for disk in plan.disks
               if _at_destination(destination, there, disk) == formats.QCOW2}
    said = [(name, hosts.get(uuid, {})) for name, uuid in sorted(opened)]
    return [WARNING % (name, answer.get("blktap") or "of an unknown version")
            for name, answer in said if not answer.get("qcow2_safe")]


def _at_source(source, disk):
    _, vdi = source.by_uuid("VDI", disk.key)
    return vdi and formats.of(vdi)


def _at_destination(destination, host, disk):
    if disk.target:
        _, vdi = destination.by_uuid("VDI", disk.target)
        return vdi and formats.of(vdi)
    if disk.image_format:
        return disk.image_format
    _, sr = destination.by_uuid("SR", disk.destination_sr)
    kinds = formats.made(destination, sr, host)
    return next((kind for kind in kinds if formats.fits(disk.size, (kind,))), "")
