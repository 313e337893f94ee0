# SPDX-License-Identifier: LGPL-2.1-only
"""Whether another pool can take a VM's virtual TPM.

Its contents go along with the VM's metadata, and those of a running one once more behind its
suspend, in xenopsd's stream (docs/facts/xapi.md; xenopsd's domain.ml, write_vtpm_record)."""

from storage_motion.plan.inquiry import Inquiry

RESTRICTION = "restrict_vtpm"  # a key of pool.restrictions


def require(inquiry: Inquiry) -> None:
    """What xapi's importer looks at only when it is in earnest, after all copying (xapi_vtpm.ml,
    assert_not_restricted). That the UUID is free there it says beforehand."""
    if not inquiry.vm.get("VTPMs"):
        return
    restrictions = inquiry.destination.pool().get("restrictions", {})
    if restrictions.get(RESTRICTION) != "false":
        inquiry.problems.add(
            inquiry.request.vm_argument,
            "has a virtual TPM, and the destination pool may have none (%s)" % RESTRICTION,
            "a pool whose licence has that feature; or destroy the TPM, with all that is in it "
            "(xe vtpm-destroy)",
        )
