# SPDX-License-Identifier: LGPL-2.1-only
"""Where the destination host receives a VM: what `host.migrate_receive` answers, and the session in
it."""

import urllib.parse
from typing import TYPE_CHECKING, Any, Dict, Optional

from storage_motion.xapi.session import end

if TYPE_CHECKING:
    import XenAPI
    from typing_extensions import Protocol

    class _Migration(Protocol):
        destination: XenAPI.Session
        receiving_host: Optional[Dict[str, Any]]
        plan: Any

        def host(self) -> str: ...


def ask(session: "XenAPI.Session", host: str, network: str) -> Dict[str, Any]:
    """What `host.migrate_receive` answers: where the destination host receives a VM. There is a
    session in it.

    `session`: of the destination pool; refs of its host and network. The URL of xenopsd becomes
    https where xapi gave no port of its own, as the source of a migration is to do
    (docs/facts/xapi.md, Moving a VM)."""
    found = dict(session.xenapi.host.migrate_receive(host, network, {}))
    found["xenops"] = _https(found["xenops"])
    return found


def ask_again(m: "_Migration") -> Dict[str, Any]:
    """Have what leads to the destination's host, `m.receiving_host`, be of now. Returns it."""
    if m.receiving_host:
        leave(m.destination, m.receiving_host)
    m.receiving_host = None
    m.receiving_host = ask(
        m.destination, m.host(), m.destination.xenapi.network.get_by_uuid(m.plan.network)
    )
    return m.receiving_host


def base_url(answer: Dict[str, Any]) -> str:
    """The URL of the xapi of the host that receives."""
    parts = urllib.parse.urlsplit(answer["xenops"])
    return "%s://%s" % (parts.scheme, parts.netloc)


def leave(session: "XenAPI.Session", answer: Dict[str, Any]) -> None:
    """End the session that `ask` began."""
    end(session, answer["session_id"])


def _https(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    if parts.port is not None:
        return url
    return urllib.parse.urlunsplit(("https",) + tuple(parts[1:]))
