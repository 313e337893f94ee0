# SPDX-License-Identifier: LGPL-2.1-only
"""What xenopsd does with a VM's virtual TPM (service.ml, Swtpm; domain.ml): what is in it comes
from xapi by way of xapi-guard, goes with the VM in its stream, and is given to xapi again at the
destination. Nothing of it is kept here.

There is no program here that would write to a TPM: a test does that, by VTPM.set_contents, as
xapi-guard does for swtpm."""

import base64
import http.client
import os
import xmlrpc.client

from lab.xenopsd import wire
from lab.xenopsd.errors import internal

GUARD = "/services/guard"
TIMEOUT = 120.0
MANUFACTURED = 3000  # bytes in a new one


def manufacture(root, metadata):
    """At the VM's start: one in which there is nothing yet is made."""
    for uuid in metadata.get("tpm", []):
        if not _ask(root, "vtpm_get_contents", uuid):
            state = base64.b64encode(os.urandom(MANUFACTURED)).decode()
            _ask(root, "vtpm_set_contents", uuid, contents=state)


def suspend(root, metadata):
    """What is in it, once the guest is suspended; "" without one. Raises Internal_error where xapi
    does not say."""
    return "".join(_ask(root, "vtpm_get_contents", uuid) for uuid in metadata.get("tpm", []))


def restore(root, metadata, contents):
    """Have the xapi here put that into the VM's own, which has the same UUID."""
    for uuid in metadata.get("tpm", []):
        if contents:
            _ask(root, "vtpm_set_contents", uuid, contents=contents)


def _ask(root, method, uuid, **members):
    """Once only: "it's OK to assume it's available" (xapi-guard's main.ml)."""
    socket = os.path.join(root, "var/lib/xcp/xapi")
    try:
        return wire.call_unix(socket, GUARD, method, dict(members, vtpm_uuid=uuid), TIMEOUT)
    except wire.RpcFailure as error:
        raise internal("%s: %s" % (method, error.description[0]))
    except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
        raise internal("%s: %s" % (method, type(error).__name__)) from None
