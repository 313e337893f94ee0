"""A halted VM gets its new disks: with its metadata in another pool, or by new VBDs within the pool."""
import XenAPI

from storage_motion.control import remap

# The fields of a VBD that its replacement takes over.
VBD_FIELDS = ("VM", "userdevice", "bootable", "mode", "type", "unpluggable", "empty", "other_config",
              "qos_algorithm_type", "qos_algorithm_params")


def adopt(m):
    """Give the VM its new disks."""
    if m.plan.cross_pool:
        remap.bring(m)
        return
    for disk in m.plan.disks:
        _replace(m, disk, m.destination_vdi(disk))


def give_back(m):
    """Give it its old ones."""
    if m.plan.cross_pool:
        remap.remove(m)
        return
    for disk in m.plan.disks:
        if m.disk(disk.key).get("vbd"):
            _replace(m, disk, m.source_vdi(disk))


def _replace(m, disk, vdi):
    """Have the VM's device be `vdi` (a ref). A VBD's VDI cannot be changed, so there is a new VBD; what it is to be like
    is in the journal before the old one is gone."""
    api = m.source.xenapi.VBD
    if not m.disk(disk.key).get("vbd"):
        record = api.get_record(api.get_by_uuid(disk.vbd))
        m.note(disk.key, vbd={field: record[field] for field in VBD_FIELDS})
    wanted = m.disk(disk.key)["vbd"]
    for ref in m.source.xenapi.VM.get_VBDs(m.vm()):
        try:
            if api.get_userdevice(ref) != wanted["userdevice"]:
                continue
            if api.get_VDI(ref) == vdi:
                return
            api.destroy(ref)
        except XenAPI.Failure as failure:
            if failure.details[0] != "HANDLE_INVALID":
                raise
    api.create(dict(wanted, VDI=vdi))
