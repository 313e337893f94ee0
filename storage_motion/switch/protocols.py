# SPDX-License-Identifier: LGPL-2.1-only
"""What the switch needs of a migration and of a disk's mover, which stand above it
(migration/migration.py, migration/mover_handle.py): for who checks the types. When it runs there is
nothing in here."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, ContextManager, Dict, List, Optional

    import XenAPI
    from typing_extensions import Protocol

    from storage_motion.plan.plan import Disk, Plan
    from storage_motion.xapi.outage import Outage

    class MoverHandle(Protocol):
        key: str

        def status(self) -> Dict[str, Any]: ...

        def await_end(self) -> bool: ...

        def finish(self, mirrored: bool) -> None: ...

    class Progress(Protocol):
        def take(self, key: str, status: Dict[str, Any]) -> None: ...

    class Migration(Protocol):
        id: str
        plan: Plan
        source: XenAPI.Session
        destination: XenAPI.Session
        lost: bool
        receiving_host: Optional[Dict[str, Any]]
        outage_there: Outage

        @property
        def progress(self) -> Progress: ...

        @property
        def entry(self) -> Dict[str, Any]: ...

        def disk(self, key: str) -> Dict[str, Any]: ...

        def note(self, key: Optional[str] = ..., **fields: Any) -> None: ...

        def mover(self, key: str) -> MoverHandle: ...

        def source_vdi(self, disk: Disk) -> str: ...

        def destination_vdi(self, disk: Disk) -> str: ...

        def host(self) -> str: ...

        def plugin(self, function: str, **arguments: str) -> str: ...

        def tolerated(self, what: str) -> ContextManager[None]: ...

        def describe(self, error: Exception) -> List[str]: ...
