# SPDX-License-Identifier: LGPL-2.1-only
"""The small files that hosts keep beside the journals: what the disk refuses of them is a typed
error, and no bare OSError."""

import contextlib
from typing import Iterator

from storage_motion.errors import NotNoted


@contextlib.contextmanager
def noting(path: str) -> Iterator[None]:
    """Within it an OSError is NotNoted of that file (dom0's path)."""
    try:
        yield
    except OSError as error:
        raise NotNoted(path, error.strerror or error.__class__.__name__)
