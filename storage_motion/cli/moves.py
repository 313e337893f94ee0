# SPDX-License-Identifier: LGPL-2.1-only
"""What `plan` and `migrate` are asked for, and the arguments of the plugin that this makes."""

from typing import Annotated, Any, Dict, List, NamedTuple, Optional, Tuple

import typer

from storage_motion.cli import names, pools
from storage_motion.cli.arguments import RemotePasswordFile, ToHost, ToPool, named, require_beside
from storage_motion.cli.command import Invocation
from storage_motion.cli.failures import NotUnderstood, UnknownName
from storage_motion.cli.names import Found
from storage_motion.cli.pools import Pool


class Wish(NamedTuple):
    """As it was given. Each thing by its name or its UUID."""

    arguments: Annotated[
        Optional[List[str]],
        typer.Argument(
            metavar="NAME=VALUE",
            show_default=False,
            help="As xe vm-migrate has them, beside or in place of the options.",
        ),
    ] = None
    vm: Annotated[Optional[str], typer.Option("--vm", metavar="VM", help="The VM to move.")] = None
    to_sr: Annotated[
        Optional[str],
        typer.Option(
            "--to-sr", metavar="SR", help="Where its disks go; HOST/SR where several are called so."
        ),
    ] = None
    disk: Annotated[
        Optional[List[str]],
        typer.Option(
            "--disk",
            metavar="DISK=SR",
            help="Where this disk goes; by its device (xvdb), name or UUID. Again for others.",
        ),
    ] = None
    to_host: ToHost = None
    to_pool: ToPool = None
    network: Annotated[
        Optional[List[str]],
        typer.Option(
            "--network",
            metavar="FROM=TO",
            help="Another pool: the interfaces on network FROM (or interface FROM) go to network "
            "TO; those that are not named, to the one of the same name. Again for others.",
        ),
    ] = None
    data_network: Annotated[
        Optional[str],
        typer.Option(
            "--data-network",
            metavar="NETWORK",
            help="The network of the destination that carries the data.",
        ),
    ] = None
    bandwidth: Annotated[
        Optional[str],
        typer.Option("--bandwidth", metavar="RATE", help="At most so much a second, as 100MiB."),
    ] = None
    copy: Annotated[
        bool,
        typer.Option("--copy", help="Another pool: copy the VM, which is halted, and keep it."),
    ] = False
    drop_snapshots: Annotated[
        bool,
        typer.Option(
            "--drop-snapshots", help="Another pool: its snapshots are deleted, not moved."
        ),
    ] = False
    renew_cbt: Annotated[
        bool,
        typer.Option(
            "--renew-cbt",
            help="Move disks with changed block tracking too; the next backup is a full one.",
        ),
    ] = False
    force: Annotated[
        bool, typer.Option("--force", help="Do not compare the hosts' processors.")
    ] = False
    remote_password_file: RemotePasswordFile = None


# option -> the plugin's argument that says the same, and its value
FLAGS = {
    "copy": ("copy", "true"),
    "drop_snapshots": ("snapshots", "drop"),
    "renew_cbt": ("cbt", "renew"),
    "force": ("force", "true"),
}


def arguments_of(run: Invocation, wish: Wish) -> Dict[str, str]:
    """{name: value} for the plugin's `migrate`. Raises NotUnderstood, UnknownName, AmbiguousName,
    and what connecting to the destination pool does."""
    given = named(wish.arguments or [])
    _check(given, wish)
    for option, (name, value) in FLAGS.items():
        if getattr(wish, option):
            given[name] = value
    if wish.bandwidth:
        given["bandwidth"] = wish.bandwidth
    there = _destination(run, given, wish)
    vm = _vm(run, given, wish)
    on = None
    if wish.to_host:
        with names.given_by("--to-host", there):
            on = names.host(there, wish.to_host)
        given["host-uuid"] = on.uuid
    if wish.to_sr:
        with names.given_by("--to-sr", there):
            given["destination-sr-uuid"] = names.sr(there, wish.to_sr, on).uuid
    if wish.data_network:
        with names.given_by("--data-network", there):
            given["remote-network"] = names.network(there, wish.data_network).uuid
    for left, right in _pairs("--disk", "DISK=SR", wish.disk):
        assert vm is not None
        with names.given_by("--disk", run.pool):
            disk = names.disk(run.pool, vm, left).uuid
        with names.given_by("--disk", there):
            given["vdi:" + disk] = names.sr(there, right, on).uuid
    for left, right in _pairs("--network", "FROM=TO", wish.network):
        assert vm is not None
        with names.given_by("--network", there):
            goal = names.network(there, right).uuid
        with names.given_by("--network", run.pool):
            given.update({"vif:" + vif: goal for vif in _interfaces(run.pool, vm, left)})
    return given


def _check(given: Dict[str, str], wish: Wish) -> None:
    """What contradicts itself."""
    wrong = []
    if "remote-password" in given:
        wrong.append(
            "remote-password is no argument here: it is asked for, or read from "
            "--remote-password-file or SXM_REMOTE_PASSWORD"
        )
    if wish.vm and ("vm" in given or "uuid" in given):
        wrong.append("--vm is given beside vm= or uuid=")
    if wish.to_pool and "remote-master" in given:
        wrong.append("--to-pool is given beside remote-master=")
    if not (wish.vm or given.get("vm") or given.get("uuid")):
        wrong.append("which VM? give --vm NAME")
    if wish.network and not (wish.to_pool or "remote-master" in given):
        wrong.append("--network is for --to-pool: within the pool the networks stay")
    if wrong:
        raise NotUnderstood(*wrong)
    require_beside(
        "--remote-password-file",
        wish.remote_password_file,
        ("--to-pool", wish.to_pool),
        ("remote-master=", given.get("remote-master")),
    )


def _destination(run: Invocation, given: Dict[str, str], wish: Wish) -> Pool:
    """The pool that the VM goes to, with the arguments that name it; the VM's own without one."""
    address = wish.to_pool or given.get("remote-master")
    if not address:
        return run.pool
    one = pools.known(address, given.get("remote-username"))
    pool = run.connect_other(one, wish.remote_password_file)
    given.update(pool.as_remote())
    return pool


def _vm(run: Invocation, given: Dict[str, str], wish: Wish) -> Optional[Found]:
    """The VM, where its name or what it has is needed here."""
    if wish.vm:
        with names.given_by("--vm", run.pool):
            vm = names.vm(run.pool, wish.vm)
        given["vm"] = vm.uuid
        return vm
    if wish.disk or wish.network:
        return names.vm(run.pool, given.get("vm") or given["uuid"])
    return None


def _pairs(option: str, form: str, words: Optional[List[str]]) -> List[Tuple[str, str]]:
    found = [word.partition("=") for word in words or []]
    wrong = ["%s %s: not %s" % (option, "".join(one), form) for one in found if not all(one)]
    if wrong:
        raise NotUnderstood(*wrong)
    return [(left, right) for left, _, right in found]


def _interfaces(pool: Pool, vm: Found, text: str) -> List[str]:
    """The UUIDs of the interfaces that are on the network of this name, those of the VM's snapshots
    among them; or of the one of the VM that is called so. Raises UnknownName, AmbiguousName: also
    of two networks of one name, on which the VM may have an interface each."""
    view = pool.records()
    owners = [vm.record] + [view.of("VM", ref) for ref in vm.record.get("snapshots", [])]
    records: List[Any] = [view.of("VIF", ref) for one in owners if one for ref in one["VIFs"]]
    try:
        network = names.network(pool, text).ref
    except UnknownName:
        network = ""
    found = [vif["uuid"] for vif in records if vif and vif["network"] == network]
    return found or [names.vif(pool, vm, text).uuid]
