# SPDX-License-Identifier: LGPL-2.1-only
"""A small recorded fake of XenAPI: records of two pools in memory, and the calls that read and
change them."""

import copy
import re
import uuid as uuids

import XenAPI

NULL = "OpaqueRef:NULL"
# of a VDI, which xapi keeps for SM's drivers
OF_DRIVERS = (
    "set_managed",
    "set_sharable",
    "set_read_only",
    "set_is_a_snapshot",
    "set_snapshot_of",
    "set_snapshot_time",
)


def failure(*details):
    return XenAPI.Failure(list(details))


class FakePool:
    """{class: {ref: record}} behind the calls of XenAPI. `calls`: what changed something, in order.
    `syncs`: how often its database was written to disk; `goes_back` is a crash of its xapi."""

    def __init__(self, name):
        self.name = name
        self.tables = {}
        self.calls = []
        self.handlers = {}  # "class.method" -> function(*arguments)
        self._made = 0
        self.handle = "OpaqueRef:session"
        self._session = self.handle
        self.syncs, self._on_disk = 0, {}

    def sync(self, bound=None):
        """What xapi.database.sync does."""
        self.syncs += 1
        self._on_disk = copy.deepcopy(self.tables)

    def local(self):
        """What xapi.session.local does, in dom0 of one of its hosts."""
        return _Local(self)

    def goes_back(self):
        """What was noted since then is gone."""
        self.tables = copy.deepcopy(self._on_disk)

    @property
    def xenapi(self):
        return _Class(self, "")

    def add(self, class_name, **record):
        record.setdefault("uuid", str(uuids.uuid4()))
        self._made += 1
        ref = "OpaqueRef:%s-%s-%05d" % (self.name, class_name, self._made)
        self.tables.setdefault(class_name, {})[ref] = record
        return ref

    def get(self, class_name, ref):
        try:
            return self.tables.get(class_name, {})[ref]
        except KeyError:
            raise failure("HANDLE_INVALID", class_name, ref)

    def call(self, class_name, method, arguments):
        name = "%s.%s" % (class_name, method)
        if name in self.handlers:
            return self.handlers[name](*arguments)
        if method in ("get_all", "get_all_records"):
            table = self.tables.get(class_name, {})
            return dict(table) if method == "get_all_records" else sorted(table)
        if method == "get_by_uuid":
            for ref, record in self.tables.get(class_name, {}).items():
                if record["uuid"] == arguments[0]:
                    return ref
            raise failure("UUID_INVALID", class_name, arguments[0])
        if method == "get_by_name_label":
            return [
                ref
                for ref, record in self.tables.get(class_name, {}).items()
                if record["name_label"] == arguments[0]
            ]
        if name == "message.get":
            found = self.tables.get("message", {}).items()
            return {ref: dict(row) for ref, row in found if row["obj_uuid"] == arguments[1]}
        if method == "get_record":
            return dict(self.get(class_name, arguments[0]))
        if name == "VM.power_state_reset":
            for vbd in self.get("VM", arguments[0])["VBDs"]:
                self.get("VBD", vbd)["currently_attached"] = False
            return ""
        return self._field(class_name, method, arguments)

    def _field(self, class_name, method, arguments):
        match = re.match(r"(get|set|add_to|remove_from)_(\w+)$", method)
        if not match:
            if method == "destroy":
                if not self.get(class_name, arguments[0]).get("managed", True):
                    raise failure("VDI_NOT_MANAGED", arguments[0])
                self.calls.append(
                    ("destroy", class_name, self.get(class_name, arguments[0])["uuid"])
                )
                del self.tables[class_name][arguments[0]]
                return ""
            raise failure("MESSAGE_METHOD_UNKNOWN", "%s.%s" % (class_name, method))
        verb, field = match.groups()
        if class_name == "VDI" and method in OF_DRIVERS:
            raise failure("PERMISSION_DENIED", "")
        record = self.get(class_name, arguments[0])
        if verb == "get":
            value = record[field]
            return dict(value) if isinstance(value, dict) else value
        self.calls.append((method, class_name) + tuple(arguments[1:]))
        if verb == "set":
            record[field] = arguments[1]
        elif verb == "add_to":
            if arguments[1] in record[field]:
                raise failure("MAP_DUPLICATE_KEY", class_name, field, arguments[0], arguments[1])
            record[field] = dict(record[field], **{arguments[1]: arguments[2]})
        else:
            record[field] = {
                key: value for key, value in record[field].items() if key != arguments[1]
            }
        return ""


class _Local:
    """A session of its own. What xapi keeps for SM's drivers it may do, once it is marked as one of
    the SR."""

    def __init__(self, pool):
        self._pool = pool
        self._session = pool.add("session", other_config={})

    @property
    def xenapi(self):
        return _Class(self, "")

    def call(self, class_name, method, arguments):
        if (class_name, method) == ("session", "logout"):
            del self._pool.tables["session"][self._session]
            return ""
        if class_name == "VDI" and method in OF_DRIVERS:
            vdi, value = arguments
            marked = self._pool.get("session", self._session)["other_config"].get("_sm_session")
            if marked != self._pool.get("VDI", vdi)["SR"]:
                raise failure("PERMISSION_DENIED", "")
            self._pool.tables["VDI"][vdi][method[len("set_") :]] = value
            return ""
        return self._pool.call(class_name, method, arguments)


class _Class:
    def __init__(self, pool, name):
        self._pool, self._name = pool, name

    def __getattr__(self, name):
        return _Class(self._pool, "%s.%s" % (self._name, name) if self._name else name)

    def __call__(self, *arguments):
        class_name, _, method = self._name.rpartition(".")
        return self._pool.call(class_name, method, arguments)


GIB = 1 << 30


def add_host(pool, name, management):
    host = pool.add(
        "host", name_label=name, hostname=name, enabled=True, metrics=NULL, address="10.0.0.1"
    )
    pool.add(
        "PIF",
        host=host,
        network=management,
        IP="10.0.0.%d" % len(pool.tables["host"]),
        management=True,
        device="eth0",
    )
    pool.tables["network"][management]["PIFs"] = sorted(pool.tables["PIF"])
    return host


def add_sr(pool, name, hosts, **changes):
    record = dict(
        name_label=name,
        type="ext",
        content_type="user",
        sm_config={},
        PBDs=[],
        physical_size=str(100 * GIB),
        physical_utilisation="0",
        shared=len(hosts) > 1,
    )
    sr = pool.add("SR", **dict(record, **changes))
    for host in hosts:
        pool.tables["SR"][sr]["PBDs"] = pool.tables["SR"][sr]["PBDs"] + [
            pool.add("PBD", host=host, SR=sr, currently_attached=True, device_config={})
        ]
    return sr


def add_vdi(pool, sr, size=GIB, **changes):
    record = dict(
        name_label="disk",
        name_description="",
        SR=sr,
        virtual_size=str(size),
        physical_utilisation=str(size // 2),
        sm_config={},
        other_config={},
        xenstore_data={},
        tags=[],
        allow_caching=False,
        VBDs=[],
        type="user",
        sharable=False,
        read_only=False,
        cbt_enabled=False,
        on_boot="persist",
        is_a_snapshot=False,
        managed=True,
        missing=False,
        location="loc",
        snapshots=[],
        snapshot_of=NULL,
        snapshot_time="19700101T00:00:00Z",
        current_operations={},
    )
    vdi = pool.add("VDI", **dict(record, **changes))
    pool.tables["VDI"][vdi]["location"] = pool.tables["VDI"][vdi]["uuid"]
    return vdi


def add_vm(pool, host, vdis, network, **changes):
    record = dict(
        name_label="web",
        power_state="Running",
        suspend_VDI=NULL,
        resident_on=host,
        is_a_template=False,
        is_a_snapshot=False,
        is_control_domain=False,
        snapshots=[],
        other_config={},
        blocked_operations={},
        current_operations={},
        VBDs=[],
        VIFs=[],
        VGPUs=[],
        VTPMs=[],
        ha_always_run=False,
        ha_restart_priority="",
        memory_dynamic_min=str(GIB),
        memory_overhead=str(1 << 20),
    )
    vm = pool.add("VM", **dict(record, **changes))
    for number, vdi in enumerate(vdis):
        vbd = pool.add(
            "VBD",
            VM=vm,
            VDI=vdi,
            type="Disk",
            empty=False,
            userdevice=str(number),
            mode="RW",
            device="xvd" + "abcdefgh"[number],
            currently_attached=True,
            current_operations={},
            unpluggable=True,
        )
        pool.tables["VM"][vm]["VBDs"].append(vbd)
        pool.tables["VDI"][vdi]["VBDs"] = [vbd]
    pool.tables["VM"][vm]["VIFs"] = [
        pool.add("VIF", VM=vm, network=network, device="0", MAC="aa:bb:cc:00:00:01")
    ]
    return vm


def make_pool(name, hosts, shared=False):
    """A pool with `hosts`; each has a local SR "<host>-sr"; a network "guests" without PIFs."""
    pool = FakePool(name)
    pool.handlers["host.get_sm_diagnostics"] = lambda host: (
        "DataPath information:\nThe following SRs are attached:\n"
    )
    pool.handlers["host.compute_free_memory"] = lambda host: str(64 * GIB)
    management = pool.add("network", name_label="management", bridge="xenbr0", PIFs=[])
    pool.add("network", name_label="guests", bridge="xapi0", PIFs=[])
    refs = {host: add_host(pool, host, management) for host in hosts}
    for host, ref in refs.items():
        add_sr(pool, host + "-sr", [ref])
    if shared:
        add_sr(pool, "shared", list(refs.values()))
    pool.add(
        "pool",
        master=refs[hosts[0]],
        migration_compression=False,
        restrictions={
            "restrict_vtpm": "false",
            "restrict_vif_locking": "false",
            "restrict_gpu": "false",
        },
        other_config={},
        gui_config={},
    )
    return pool


def by_name(pool, class_name, name):
    return next(
        ref for ref, record in pool.tables[class_name].items() if record.get("name_label") == name
    )


def uuid_of(pool, class_name, ref):
    return pool.tables[class_name][ref]["uuid"]
