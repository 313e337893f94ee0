# SPDX-License-Identifier: LGPL-2.1-only
"""Records of a pool, read once each: what plans and checks look at."""

from typing import Any, Dict, List, Optional, Tuple, Union

import XenAPI

NULL = "OpaqueRef:NULL"
# key in other_config of VM, VDI and task: the id of the migration that it belongs to
CLAIM = "sxm_migration"
# key in other_config of a VDI that the destination of a migration has made: its id once more. CLAIM
# is on the disks that it reads as well, and within a pool both are in one database.
RECEIVES = "sxm_receives"
SUSPENDED = "Suspended"  # a power_state: of a checkpoint, too
UNKNOWN = ("UUID_INVALID", "HANDLE_INVALID")


class Records:
    """A read-only view of the pool that `session` belongs to. Classes by their XenAPI names ("VM",
    "SR", "host")."""

    def __init__(self, session: "XenAPI.Session") -> None:
        self.session = session
        self._records: Dict[Union[str, Tuple[str, str]], Any] = {}
        self._refs: Dict[Tuple[str, str], str] = {}  # by class and UUID, of whole classes

    def _api(self, class_name: str) -> Any:
        return getattr(self.session.xenapi, class_name)

    def of(self, class_name: str, ref: Optional[str]) -> Any:
        """The record of `ref`, or None when it is null or gone."""
        if not ref or ref == NULL:
            return None
        key = (class_name, ref)
        if key not in self._records:
            try:
                self._records[key] = self._api(class_name).get_record(ref)
            except XenAPI.Failure as failure:
                if failure.details[0] not in UNKNOWN:
                    raise
                self._records[key] = None
        return self._records[key]

    def ref(self, class_name: str, uuid: str) -> Optional[str]:
        """The ref of the object with this UUID, or None."""
        if (class_name, uuid) in self._refs:
            return self._refs[(class_name, uuid)]
        try:
            return self._api(class_name).get_by_uuid(uuid)
        except XenAPI.Failure as failure:
            if failure.details[0] not in UNKNOWN:
                raise
            return None

    def by_uuid(self, class_name: str, uuid: str) -> Tuple[Optional[str], Any]:
        """(ref, record) of the object with this UUID, or (None, None)."""
        ref = self.ref(class_name, uuid)
        record = self.of(class_name, ref)
        return (ref, record) if record else (None, None)

    def all(self, class_name: str) -> Dict[str, Dict[str, Any]]:
        """{ref: record} of a whole class: for the small ones (host, SR, PBD, network, PIF, pool),
        and for who looks at all VDIs."""
        if class_name not in self._records:
            records = self._api(class_name).get_all_records()
            self._records[class_name] = records
            for ref, record in records.items():
                self._records[(class_name, ref)] = record
                self._refs[(class_name, record["uuid"])] = ref
        return self._records[class_name]

    def named(self, class_name: str, text: str, *fields: str) -> List[Tuple[str, Dict[str, Any]]]:
        """[(ref, record)] whose uuid, or one of whose `fields`, is `text`."""
        return [
            (ref, record)
            for ref, record in sorted(self.all(class_name).items())
            if text in [record.get(field) for field in ("uuid",) + fields]
        ]

    def pool(self) -> Dict[str, Any]:
        """The record of the pool."""
        return list(self.all("pool").values())[0]
