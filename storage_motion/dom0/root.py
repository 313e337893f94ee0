"""Where dom0's file system begins: `/` on a host, `$SXM_ROOT` for a host of the lab (DESIGN section 4)."""
import os


def root():
    """The root directory of this host, without a trailing slash: `""` on a real one."""
    return os.environ.get("SXM_ROOT", "/").rstrip("/")


def path(absolute):
    """The path on this machine of dom0's `absolute` (a path that begins with `/`)."""
    if not absolute.startswith("/"):
        raise ValueError("not an absolute path: %r" % absolute)
    return root() + absolute


def private_directory(absolute):
    """Make dom0's directory `absolute`, for root alone (0700), where it is missing, and return its path here."""
    here = path(absolute)
    os.makedirs(here, mode=0o700, exist_ok=True)
    return here
