"""The destination's part, asked for from the source: new disks behind their gates, and a receiver for them."""
import json

from storage_motion.control import secrets
from storage_motion.control.checks import CLAIM


def begin(m):
    """Have the destination prepare. The token that it answers goes to the secrets, never to the journal."""
    m.note(receiving=True)
    _take(m, m.plan.disks, m.plugin("receive", vm=m.plan.vm, address=m.plan.address, disks=json.dumps([_wanted(d) for d in m.plan.disks])))


def renew(m, disks):
    """Have the destination open `disks` of the plan anew: another tapdisk for each, and a receiver, with a token, for them all."""
    _take(m, disks, m.plugin("receive-renew", address=m.plan.address, disks=json.dumps([disk.key for disk in disks])))


def _take(m, disks, text):
    answer = json.loads(text)
    secrets.keep(m.id, "receiver", {field: answer[field] for field in ("address", "port", "fingerprint", "token")})
    for disk in disks:
        made = answer["disks"][disk.key]
        m.note(disk.key, destination_vdi=made["vdi"], blank=bool(made["blank"]))


def abort(m):
    """Have the destination take everything away again. By then every gate that had been opened is shut (move.shut_gates)."""
    if m.entry.get("receiving"):
        if m.lost:
            m.note(receiving=False)
            return
        opened = any(entry.get("opened") for entry in m.entry["disks"].values())
        m.plugin("receive-abort", **({"force": "true"} if opened else {}))
        m.note(receiving=False)


def _wanted(disk):
    return {"key": disk.key, "sr": disk.destination_sr, "size": disk.size, "name_label": disk.name_label,
            "name_description": disk.name_description, "type": disk.type, "sharable": disk.sharable,
            "other_config": {key: value for key, value in disk.other_config.items() if key != CLAIM},
            "xenstore_data": disk.xenstore_data, "target": disk.target}
