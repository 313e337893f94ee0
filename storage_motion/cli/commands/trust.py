# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm trust`."""

from typing import Annotated

import typer

from storage_motion.cli import certificates, pools
from storage_motion.cli.command import Invocation, command


@command
def trust(
    run: Invocation,
    pool: Annotated[
        str, typer.Argument(metavar="POOL", help="Its name in the configuration, or its address.")
    ],
) -> None:
    """Trust the certificate that a pool shows now, in place of the one it had.

    Compare the fingerprint with the one that its master tells:
    openssl x509 -in /etc/xensource/xapi-ssl.pem -noout -fingerprint -sha256

    \b
      sxm trust paris
    """
    one = pools.known(pool)
    found = certificates.shown(one.url)
    certificates.trust(pools.folder(), one.url, found)
    if run.out.json:
        run.out.document({"address": one.address, "sha256": certificates.spelled(found)})
    run.out.line("%s is trusted by its certificate %s" % (one.address, certificates.spelled(found)))
