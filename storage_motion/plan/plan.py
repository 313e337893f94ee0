# SPDX-License-Identifier: LGPL-2.1-only
"""What a migration is going to do, as data: written to the journal before anything is done, and
never changed."""

from typing import Any, Dict, List, NamedTuple, Tuple

CROSS_POOL, IN_POOL = "cross-pool", "in-pool"


class Disk(NamedTuple):
    """A disk that moves. `key`: the UUID of its VDI at the source. Sizes in bytes."""

    key: str
    vbd: str
    device: str  # as the guest names it, "xvda"; userdevice for a halted VM
    name_label: str
    name_description: str
    size: int
    data: int  # bytes that hold data, as far as the pool's records tell: an estimate
    location: str
    source_sr: str
    source_sr_name: str
    destination_sr: str
    destination_sr_name: str
    target: str  # an existing VDI of the destination to fill, or ""
    type: str
    sharable: bool
    other_config: Dict[str, str]
    xenstore_data: Dict[str, str]
    image_format: str = ""  # that it shall have: one of formats.ASKED; "": SM there decides
    tags: Tuple[str, ...] = ()
    allow_caching: bool = False
    tracked: bool = False  # its changed blocks are: that is disabled, and enabled again at the end
    read_only: bool = False  # the VM has it so: nobody writes to it
    unplugged: bool = False  # the VM runs, and has it not plugged: nobody uses it
    base: str = ""  # the key of the disk of a snapshot that it arrives as a clone of, or ""
    # A VDI that is at the destination already, which it arrives as a clone of, or ""; and why it
    # may hold most of it, in words.
    base_there: str = ""
    base_why: str = ""
    # Of a disk of a snapshot: the VM that the snapshot is, the key of the moving disk that it is a
    # snapshot of or "", and when it was taken, as xapi writes times.
    snapshot: str = ""
    snapshot_of: str = ""
    snapshot_time: str = ""

    @property
    def is_memory(self) -> bool:
        """Whether it is the image of a suspended VM's memory, or of a checkpoint's: no VBD has
        it."""
        return not self.vbd


class Cd(NamedTuple):
    """A CD in a drive. `eject`: it does not stay there, as the destination does not see its SR."""

    vbd: str
    vdi: str
    device: str
    eject: bool
    userdevice: str = ""
    name: str = ""
    # A VDI of the destination that is in the drive after the move; or "". It is put in at the end,
    # but where xapi's importer, for a VM that does not run, has found one of the same file name.
    insert: str = ""


class Vif(NamedTuple):
    """An interface and its network at the destination."""

    vif: str
    device: str
    network: str


class Vgpu(NamedTuple):
    """A virtual GPU, of the VM or of a snapshot of it, and its GPU group in another pool."""

    vgpu: str
    device: str
    group: str


class Snapshot(NamedTuple):
    """A snapshot of the VM: the VM that it is, and whether it comes along."""

    vm: str
    name: str
    kept: bool


class Plan(NamedTuple):
    """The whole of it. UUIDs throughout; `disks` smallest first. `history`: the disks of snapshots
    that move, each behind the one that it is based on."""

    kind: str  # CROSS_POOL or IN_POOL
    live: bool  # the VM runs; else it is halted or suspended, and its disks are only copied
    vm: str
    vm_name: str
    source_host: str
    source_host_name: str
    destination_host: str
    destination_host_name: str
    master: str  # URL of the destination pool's master; "" within the pool
    network: str  # of the destination: which the bytes take
    address: str  # of the destination host on it
    disks: List[Disk]
    staying: List[str]  # VDIs that are where they shall be
    cds: List[Cd]
    vifs: List[Vif]
    check_cpu: bool
    compress: bool
    warnings: Tuple[str, ...] = ()  # for whoever asked for it
    history: List[Disk] = []
    snapshots: List[Snapshot] = []
    # the interfaces of those that come along to another pool; of a copy those of all, which xapi
    # wants a network for as well (xapi_vm_migrate.ml, infer_vif_map)
    snapshot_vifs: List[Vif] = []
    dropped: List[str] = []  # VDIs of snapshots that do not come along, and go with the VM
    copy: bool = False  # the VM stays as it is, and the other pool has a new one like it
    vgpus: List[Vgpu] = []  # between pools
    notes: Tuple[str, ...] = ()  # what nobody has named, and is chosen by its name or its like

    @property
    def sent(self) -> List[Disk]:
        """All disks that move, in the order in which they do."""
        return self.history + self.disks

    @property
    def own_vdis(self) -> List[str]:
        """The VDIs that the VM and its snapshots have, as far as they move, stay, or are
        dropped."""
        return [disk.key for disk in self.sent] + self.staying + self.dropped

    @property
    def kept(self) -> List[Snapshot]:
        """The snapshots that come along."""
        return [snapshot for snapshot in self.snapshots if snapshot.kept]

    @property
    def cross_pool(self) -> bool:
        """Whether the VM changes its pool."""
        return self.kind == CROSS_POOL

    @property
    def same_host(self) -> bool:
        """Whether the VM stays on its host, and only its disks move."""
        return not self.cross_pool and self.source_host == self.destination_host

    @property
    def suspended(self) -> bool:
        """Whether the VM is suspended, and moves with the image of its memory."""
        return any(disk.is_memory for disk in self.disks)

    def mirrors(self, disk: Disk) -> bool:
        """Whether the VM writes to a disk of it meanwhile: then it is mirrored. Else it is only
        copied."""
        return self.uses(disk) and not disk.read_only

    def keeps_closed(self, disk: Disk) -> bool:
        """Whether nobody uses a disk, and nobody may begin to, from its copy on until it is handed
        over, or, where the VM stays, to the end (migration/unplugged_disks.py)."""
        return not disk.snapshot and (disk.unplugged or not self.live)

    def uses(self, disk: Disk) -> bool:
        """Whether the VM runs, and has a disk open: not that of a snapshot."""
        return self.live and not disk.unplugged and not disk.snapshot

    def to_json(self) -> Dict[str, Any]:
        """As JSON values."""
        value = dict(self._asdict())
        for field in SENTENCES:
            value[field] = list(value[field])
        for field in PARTS:
            value[field] = [dict(entry._asdict()) for entry in value[field]]
        return value

    @classmethod
    def from_json(cls, value: Dict[str, Any]) -> "Plan":
        """What `to_json` gave. Raises TypeError, KeyError or AttributeError for anything else."""
        fields = dict(value)
        for field in SENTENCES:
            fields[field] = tuple(value.get(field, ()))
        for field, kind in PARTS.items():
            # a migration that ended before there were snapshots lacks them
            fields[field] = [kind(**entry) for entry in fields.get(field, [])]
        for field in ("disks", "history"):
            fields[field] = [disk._replace(tags=tuple(disk.tags)) for disk in fields[field]]
        return cls(**fields)


SENTENCES = ("warnings", "notes")  # for a person
# The fields of a plan that are lists of such parts.
PARTS: Dict[str, Any] = {
    "disks": Disk,
    "cds": Cd,
    "vifs": Vif,
    "history": Disk,
    "snapshots": Snapshot,
    "snapshot_vifs": Vif,
    "vgpus": Vgpu,
}
