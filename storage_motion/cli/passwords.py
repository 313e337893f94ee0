# SPDX-License-Identifier: LGPL-2.1-only
"""Where a pool's password comes from: a file, the environment, the keyring, or who sits there.
Never from the command line, which everybody can read."""

import getpass
import os
import stat
import sys
from typing import Callable, Optional

from storage_motion.cli.failures import Interrupted, NoPassword

VARIABLE = "SXM_PASSWORD"
REMOTE_VARIABLE = "SXM_REMOTE_PASSWORD"
SERVICE = "sxm"  # in the keyring: keyring set sxm root@10.0.0.1
STDIN = "-"


def find(
    user: str,
    address: str,
    given: Optional[str],
    variable: str,
    configured: Optional[str],
    tell: Callable[[str], None],
) -> str:
    """The password of `user` at `address`. `given`: a file that was named now, `configured`: the
    one of the configuration; `variable`: of the environment; `tell`: gets warnings.

    Raises NoPassword where there is none and nobody can be asked, or a file that is named has none;
    Interrupted."""
    if given:
        return _of_file(given, tell)
    if os.environ.get(variable):
        return os.environ[variable]
    if configured:
        return _of_file(configured, tell)
    return _of_keyring(user, address, tell) or _asked(user, address)


def _of_file(path: str, tell: Callable[[str], None]) -> str:
    """The first line of a file, or of standard input ("-")."""
    if path == STDIN:
        return sys.stdin.readline().rstrip("\r\n")
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as file:
            if (
                stat.S_ISREG(os.fstat(file.fileno()).st_mode)
                and os.fstat(file.fileno()).st_mode & 0o077
            ):
                tell("others may read %s: chmod 600 %s" % (path, path))
            password = file.readline().rstrip("\r\n")
    except OSError as error:
        raise NoPassword("%s cannot be read: %s" % (path, error.strerror))
    except UnicodeDecodeError:
        raise NoPassword("%s is no text in UTF-8" % path) from None
    if not password:
        raise NoPassword("the first line of %s is empty" % path)
    return password


def _of_keyring(user: str, address: str, tell: Callable[[str], None]) -> Optional[str]:
    try:
        import keyring
        import keyring.errors
    except ImportError:
        return None
    try:
        return keyring.get_password(SERVICE, "%s@%s" % (user, address))
    except keyring.errors.NoKeyringError:
        return None
    except keyring.errors.KeyringError as error:
        tell("the keyring does not answer: %s" % error)
        return None


def _asked(user: str, address: str) -> str:
    whose = "%s at %s" % (user, address)
    if not sys.stdin.isatty():
        raise NoPassword("of %s" % whose)
    try:
        return getpass.getpass("Password of %s: " % whose)
    except EOFError:
        raise Interrupted("at the password's prompt")
