# SPDX-License-Identifier: LGPL-2.1-only
"""The pools that are known on this machine, and sessions with them.

$XDG_CONFIG_HOME/sxm/pools.toml, else ~/.config/sxm/pools.toml:

    default = "paris"               # where no --server is given

    [pools.paris]
    address = "10.0.0.1"            # of its master
    user = "root"                   # which it is without
    password_file = "~/.config/sxm/paris.password"
"""

import json
import os
import sys
from typing import Any, Callable, Dict, NamedTuple, Optional, Union

import XenAPI

from storage_motion.cli import certificates, passwords
from storage_motion.cli.failures import BadConfiguration, NotUnderstood
from storage_motion.errors import Unreachable
from storage_motion.xapi import session as sessions
from storage_motion.xapi.records import Records

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PLUGIN = "sxm.py"
FILE = "pools.toml"
USER = "root"
FIELDS = ("address", "user", "password_file")


class Known(NamedTuple):
    """A pool that can be logged in to. `name`: the configuration's, or else its address."""

    name: str
    address: str
    user: str = USER
    password_file: Optional[str] = None

    @property
    def url(self) -> str:
        """Raises NotUnderstood."""
        try:
            return sessions.url_of(self.address)
        except ValueError as error:
            raise NotUnderstood("%s: %s" % (self.address, error))


class Configuration(NamedTuple):
    """`pools`: by name; `default`: the name of one of them, or ""."""

    pools: Dict[str, Known]
    default: str = ""


def folder() -> str:
    """Where the configuration lies, and what is trusted."""
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return os.path.join(base, "sxm")


def configuration() -> Configuration:
    """What pools.toml says; without one, nothing. Raises BadConfiguration, naming all that is
    wrong."""
    path = os.path.join(folder(), FILE)
    try:
        with open(path, "rb") as file:
            content = tomllib.load(file)
    except FileNotFoundError:
        return Configuration({})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadConfiguration(path, str(error))
    except OSError as error:
        raise BadConfiguration(path, "cannot be read: %s" % error.strerror)
    wrong = ["%s: not known" % name for name in sorted(set(content) - {"default", "pools"})]
    pools: Dict[str, Known] = {}
    tables = content.get("pools", {})
    for name, table in tables.items() if isinstance(tables, dict) else ():
        found = _wrong(name, table)
        wrong += found
        if not found:
            pools[name] = Known(name, **table)
    default = content.get("default", "")
    if not isinstance(tables, dict):
        wrong.append("pools: not a table, as [pools.NAME]")
    elif default and (not isinstance(default, str) or default not in tables):
        wrong.append("default: %s is none of the pools" % default)
    if wrong:
        raise BadConfiguration(path, *wrong)
    return Configuration(pools, default)


def _wrong(name: str, table: Any) -> "list[str]":
    where = "pools.%s" % name
    if not isinstance(table, dict):
        return ["%s: not a table" % where]
    wrong = [
        "%s.%s: not known%s"
        % (where, key, "; password_file names a file that has it" if key == "password" else "")
        for key in sorted(set(table) - set(FIELDS))
    ]
    wrong += [
        "%s.%s: not a string" % (where, key)
        for key in FIELDS
        if key in table and not isinstance(table[key], str)
    ]
    if "address" not in table:
        wrong.append("%s.address: missing" % where)
    return wrong


def known(text: Optional[str], user: Optional[str] = None) -> Known:
    """The pool that `text` names: one of the configuration, or an address; without it the default.
    `user`: in place of the configured one. Raises NotUnderstood, BadConfiguration."""
    configured = configuration()
    if not text:
        text = configured.default or (
            list(configured.pools)[0] if len(configured.pools) == 1 else None
        )
    if not text:
        names = ", ".join(sorted(configured.pools))
        raise NotUnderstood(
            "which pool? give -s ADDRESS, or one of %s" % names
            if names
            else "which pool? give -s and the address of its master, or name it in %s"
            % os.path.join(folder(), FILE)
        )
    found = configured.pools.get(text, Known(text, text))
    return found._replace(user=user) if user else found


class Pool:
    """A pool that is logged in to. `xenapi`: the calls of XenAPI. `plugin` asks the master's, which
    finds the host that has a migration by itself."""

    def __init__(self, one: Known, session: "sessions.Session", password: str) -> None:
        self.known = one
        self.name = one.name
        self.address = one.address
        self.session = session
        self.xenapi = session.xenapi
        self.password = password
        self._master: Optional[str] = None
        self._records: Optional[Records] = None

    def __repr__(self) -> str:
        return "Pool(%r)" % self.name

    def records(self, anew: bool = False) -> Records:
        """Its records, each read once; `anew`: forget those that were read."""
        if self._records is None or anew:
            self._records = Records(self.session)
        return self._records

    @property
    def master(self) -> str:
        """The ref of its master."""
        if self._master is None:
            self._master = self.xenapi.pool.get_master(self.xenapi.pool.get_all()[0])
        return self._master

    def plugin(self, _function: str, **arguments: str) -> Dict[str, Any]:
        """What the plugin's function answers on the master. Raises XenAPI.Failure."""
        return self.plugin_on(self.master, _function, **arguments)

    def plugin_on(self, _host: str, _function: str, **arguments: str) -> Dict[str, Any]:
        """The same on one host, by its ref."""
        return json.loads(self.xenapi.host.call_plugin(_host, PLUGIN, _function, arguments))

    def plugin_everywhere(
        self, _function: str, **arguments: str
    ) -> Dict[str, Union[Dict[str, Any], XenAPI.Failure]]:
        """The same on each host: {its UUID: what it answers, or its failure}. Raises
        XenAPI.Failure if the hosts are not to be had."""
        found: Dict[str, Union[Dict[str, Any], XenAPI.Failure]] = {}
        for ref, host in self.xenapi.host.get_all_records().items():
            try:
                found[host["uuid"]] = self.plugin_on(ref, _function, **arguments)
            except XenAPI.Failure as failure:
                found[host["uuid"]] = failure
        return found

    def plugin_within(
        self, _seconds: float, _host: str, _function: str, **arguments: str
    ) -> Dict[str, Any]:
        """The same, where the answer may take so long, be it longer than others. Raises
        socket.timeout after that."""
        calls = sessions.for_long(self.session, _seconds).xenapi
        return json.loads(calls.host.call_plugin(_host, PLUGIN, _function, arguments))

    def as_remote(self) -> Dict[str, str]:
        """The arguments of `migrate` in another pool that name this one as the destination's, its
        password among them."""
        return {
            "remote-master": self.address,
            "remote-username": self.known.user,
            "remote-password": self.password,
        }

    def close(self) -> None:
        """Log out."""
        sessions.logout(self.session)


def connect(
    one: Known,
    tell: Callable[[str], None],
    password_file: Optional[str] = None,
    variable: str = passwords.VARIABLE,
) -> Pool:
    """Log in to a pool, whose certificate has to be the one that is trusted. `tell`: gets what the
    user should know, line by line.

    Raises Unreachable, BadCredentials, HostIsSlave, CertificateChanged, NoPassword, OSError."""
    url = one.url
    try:
        certificate = certificates.trusted(folder(), url, tell)
    except Unreachable as error:
        names = sorted(configuration().pools)
        if one.name not in names:  # it may be a name that was mistyped, or is in no file yet
            there = "which has %s" % ", ".join(names) if names else os.path.join(folder(), FILE)
            error.details = list(error.details) + [
                "%s is no pool of the configuration, %s" % (one.name, there)
            ]
        raise
    password = passwords.find(
        one.user, one.address, password_file, variable, one.password_file, tell
    )
    session = sessions.remote(url, one.user, password, certificate=certificate)
    return Pool(one, session, password)
