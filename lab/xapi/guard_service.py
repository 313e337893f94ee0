# SPDX-License-Identifier: LGPL-2.1-only
"""xapi-guard, as xenopsd asks it for what is in a VM's virtual TPM (xapi-guard's main.ml): POST
/services/guard on a host's unix socket. It asks xapi, once: where that is away the call fails."""

import xmlrpc.client

from lab.xapi import vtpm, wire
from lab.xapi.failures import Failure

GUARD = "/services/guard"


def answer(pool, _host, body):
    """The answer to vtpm_get_contents {vtpm_uuid} or vtpm_set_contents {vtpm_uuid, contents}."""
    try:
        (members,), method = wire.parse_xmlrpc(body)
        if method not in _METHODS:
            return wire.xml_fault(-32601, "unknown method %s" % method)
        found = pool.database.by_uuid("VTPM", members["vtpm_uuid"])
        value = _METHODS[method](pool.database, found, members)
        pool.wait_durable()
        return wire.xml_response(value)
    except Failure as failure:
        return wire.xml_response(failure=failure.description)
    except (wire.Malformed, xmlrpc.client.Fault, KeyError, TypeError):
        return wire.xml_fault(-32602, "bad request")  # which is not told: it may be a secret


def _put(database, found, members):
    vtpm.put(database, found, members["contents"])
    return ""


_METHODS = {
    "vtpm_get_contents": lambda database, found, _: vtpm.contents(database, found),
    "vtpm_set_contents": _put,
}
