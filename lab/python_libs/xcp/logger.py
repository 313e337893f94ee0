# SPDX-License-Identifier: LGPL-2.1-only
"""xcp.logger, as far as xcp.cmd writes to it.

As the real one, it sets the root logger's level when it is imported: from then on everything
reaches the handlers."""

import logging

LOG = logging.getLogger()
LOG.setLevel(logging.NOTSET)


def debug(*arguments, **named):
    LOG.debug(*arguments, **named)
