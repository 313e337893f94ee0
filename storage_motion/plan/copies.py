# SPDX-License-Identifier: LGPL-2.1-only
"""What a plan says of a copy, for whoever asked for it: what it has, and what it has not, as xapi's
importer makes it without `restore` (import.ml; xapi_vm_migrate.ml, migrate_send')."""

from typing import List

from storage_motion.plan.inquiry import Inquiry

COPY = (
    "VM %s is copied, and stays as it is; the copy is another VM of that name, with new UUIDs, MAC "
    "addresses and generation id, and without its messages, blobs, statistics, vApp, groups, "
    "schedule and blocked operations; until it is there the VM cannot be started"
)
TPM = (
    "the copy has what is in the virtual TPM of VM %s, keys and secrets: who can start the one can "
    "use those of the other"
)


def cautions(inquiry: Inquiry) -> List[str]:
    """A list of sentences; nothing of a move."""
    if not inquiry.request.copy:
        return []
    said = [COPY, TPM] if inquiry.vm.get("VTPMs") else [COPY]
    return [sentence % inquiry.vm["name_label"] for sentence in said]
