# SPDX-License-Identifier: LGPL-2.1-only
"""An exported VM with a virtual TPM, as export.ml describes it."""

import xmlrpc.client

# as xapi-guard has them: three texts in base64 with a space between them, the last often empty
SECRET = "U2VjcmV0IG9mIGEgVFBN c2F2ZWQgc3RhdGU= "
UUID = "tpm-1"


def value(data):
    """An XML-RPC value as xapi writes it: a bare <value>."""
    text = xmlrpc.client.dumps((data,), allow_none=True)
    return text[text.index("<value>") : text.rindex("</param>")].encode()


def with_tpm(content=SECRET):
    """The document (bytes) of VM `vm` with the TPM."""
    vm = {"uuid": "vm", "other_config": {}, "blocked_operations": {}, "ha_always_run": True}
    tpm = {
        "vTPM'_VM": "Ref:0",
        "vTPM'_uuid": UUID,
        "vTPM'_is_unique": False,
        "vTPM'_is_protected": True,
        "vTPM'_content": content,
    }
    objects = [
        {"class": "VM", "id": "Ref:0", "snapshot": vm},
        {"class": "VTPM", "id": "Ref:1", "snapshot": tpm},
    ]
    return b"<?xml version='1.0'?>" + value({"version": {}, "objects": objects})
