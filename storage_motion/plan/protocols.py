# SPDX-License-Identifier: LGPL-2.1-only
"""What a plan needs of what was asked for, of who collects what is wrong with that, and of a
migration, which stand above it (api/arguments.py, migration/migration.py): for who checks the
types. When it runs there is nothing in here."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Dict, Optional

    import XenAPI
    from typing_extensions import Protocol

    from storage_motion.plan.plan import Plan

    class Problems(Protocol):
        def add(self, argument: str, wrong: str, right: str = ...) -> None: ...

        def __bool__(self) -> bool: ...

    class Remote(Protocol):
        @property
        def url(self) -> str: ...

    class Request(Protocol):
        @property
        def vm(self) -> str: ...

        @property
        def vm_argument(self) -> str: ...

        @property
        def live(self) -> Optional[bool]: ...

        @property
        def host(self) -> str: ...

        @property
        def host_argument(self) -> str: ...

        @property
        def remote(self) -> Optional[Remote]: ...

        @property
        def network(self) -> str: ...

        @property
        def destination_sr(self) -> str: ...

        @property
        def vdis(self) -> Dict[str, str]: ...

        @property
        def vifs(self) -> Dict[str, str]: ...

        @property
        def vgpus(self) -> Dict[str, str]: ...

        @property
        def formats(self) -> Dict[str, str]: ...

        @property
        def bases(self) -> Dict[str, str]: ...

        @property
        def find_bases(self) -> bool: ...

        @property
        def renew_tracking(self) -> bool: ...

        @property
        def drop_snapshots(self) -> bool: ...

        @property
        def copy(self) -> bool: ...

        @property
        def force(self) -> bool: ...

        @property
        def retry_limit(self) -> int: ...

    class Migration(Protocol):
        id: str
        plan: Plan
        source: XenAPI.Session
        destination: XenAPI.Session

        def host(self) -> str: ...

        def vm(self) -> str: ...

        def pulse(self, cancellable: bool = ...) -> None: ...
