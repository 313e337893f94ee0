# SPDX-License-Identifier: LGPL-2.1-only
"""The plugin's arguments: what may be given, and for `migrate` what it means: those of `xe
vm-migrate` by the same names (docs/design.md, 5), and `wait`, `dry-run`,
`retry-limit`, `bandwidth`, `cbt`, `snapshots` and `base`.

Everything wrong is collected, and raised once: one detail per problem, "argument: what is wrong;
what would be right".
"""

import difflib
import re
from typing import Dict, List, NamedTuple, Optional, Tuple, TypeVar, Union

from storage_motion.booleans import BOOLEANS
from storage_motion.errors import BadArguments
from storage_motion.migration import resume
from storage_motion.plan.formats import ASKED
from storage_motion.uuids import UUID
from storage_motion.xapi import session

MAX_LENGTH = 1024  # characters of one value
MAX_ARGUMENTS = 1024
MAX_RETRIES = 1000
UNITS = {"": 1, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30}
LEAST_BANDWIDTH = 1 << 20  # bytes per second: a disk of some size would never be across with less
BANDWIDTH_MEANS = (
    "how much the disks may send, copied and mirrored together: bytes per second, or as 100MiB; "
    "0: as much as goes"
)
RENEW = "renew"
KEEP, DROP = "keep", "drop"
ANSWER = "answer"
AUTO, NONE = "auto", "none"
REMOTE = ("remote-master", "remote-username", "remote-password")
# Fields of a VM by which xe selects one, or several (xen-api, cli_operations.ml, select_vms: all
# that records.ml has; these are the ones that somebody selects by), and what lets it act on several
# (do_vm_op).
SELECTORS = (
    "affinity",
    "appliance",
    "groups",
    "ha-restart-priority",
    "is-a-snapshot",
    "is-a-template",
    "is-control-domain",
    "multiple",
    "name-description",
    "name-label",
    "networks",
    "os-version",
    "other-config",
    "power-state",
    "resident-on",
    "snapshot-schedule",
    "tags",
)
BY_SELECTOR = (
    "is how xe selects VMs, and one migration moves one VM",
    "name that with vm, or have several moved by sxm evacuate",
)
# Arguments of xe vm-migrate that we know and do not take: why, and what would be right.
NOT_HERE = dict(
    {"compress": ("the destination pool's migration-compression decides", "leave it out")},
    **dict.fromkeys(SELECTORS, BY_SELECTOR),
)

Default = TypeVar("Default")


class Argument(NamedTuple):
    """One that a function takes. `name`: of one that is given for several things, "vdi:<VDI>"."""

    name: str
    means: str

    @property
    def kind(self) -> str:
        """Its name up to what differs: "vdi:"."""
        return self.name.partition("<")[0]


class Takes(NamedTuple):
    """What a function takes. `required`: of each group one has to be given. `not_here`: {kind: why
    it is refused, and what would be right}."""

    arguments: Tuple[Argument, ...]
    required: Tuple[Tuple[str, ...], ...] = ()
    not_here: Dict[str, Tuple[str, str]] = {}


MIGRATE = Takes(
    (
        Argument("vm", "the VM to move: its UUID or its name"),
        Argument("uuid", "the UUID of the VM to move, in place of vm"),
        Argument(
            "remote-master",
            "the address of the other pool's master; without remote-... the move is within the "
            "pool",
        ),
        Argument("remote-username", "the name of an administrator of the other pool"),
        Argument("remote-password", "that administrator's password"),
        Argument("host", "the host to move to: its name or its UUID"),
        Argument("host-uuid", "the UUID of the host to move to, in place of host"),
        Argument(
            "remote-network",
            "the network of the destination host that carries the data: its UUID, name or bridge",
        ),
        Argument("destination-sr-uuid", "the SR for all disks that no vdi: names"),
        Argument("vdi:<VDI>", "where this disk goes: an SR, or an existing VDI to fill"),
        Argument(
            "base:<VDI>",
            "a VDI in the SR that this disk goes to, which holds most of it: the disk arrives as a "
            "clone of that, and only what differs is sent",
        ),
        Argument(
            "base",
            "none: no other disk is made as a clone of a VDI that is there; auto, as without it: "
            "where one is known to be related",
        ),
        Argument(
            "image-format:<VDI>",
            "the image format that this disk shall have there, vhd or "
            "qcow2; without it the destination SR decides",
        ),
        Argument(
            "vif:<VIF>",
            "the network of this interface at the destination, or a VIF whose network is meant; "
            "without it the one that is called as its own is",
        ),
        Argument(
            "vgpu:<VGPU>",
            "the GPU group of this virtual GPU in the other pool; without it the one that has "
            "the same types of GPU",
        ),
        Argument("live", "as in xe vm-migrate; false is refused while the VM runs"),
        Argument("force", "true: do not compare the processors"),
        Argument(
            "copy",
            "true, between pools: the VM, which has to be halted, stays as it is, and the other "
            "pool gets a copy, with new UUIDs and MAC addresses, and without the snapshots",
        ),
        Argument("retry-limit", "how often a broken mirror is taken up again (%d)" % resume.LIMIT),
        Argument("bandwidth", BANDWIDTH_MEANS),
        Argument(
            "cbt",
            "renew: a disk whose changed blocks are tracked moves too; that is disabled for the "
            "move and enabled again at its end, and the next backup is a full one",
        ),
        Argument(
            "snapshots",
            "keep: they come along, which is so without it, too; drop, between pools: they do not, "
            "and are deleted when the VM has moved",
        ),
        Argument("wait", "false: answer at once, with the migration's id"),
        Argument("dry-run", "true: check everything, change nothing, and show the plan"),
        Argument(
            "problems",
            "answer, with dry-run: what is wrong is part of the answer, with all that is known, "
            "and no failure",
        ),
        Argument(
            "scan",
            "false, with dry-run: the SRs are not scanned, as they just were for another one: it "
            "is judged by what xapi knows of them",
        ),
    ),
    (("vm", "uuid"),),
    NOT_HERE,
)


class Remote(NamedTuple):
    """How to log in to the destination pool's master. `url`: scheme, host, port."""

    url: str
    username: str
    password: str

    def __repr__(self) -> str:
        return "Remote(%r, %r, ...)" % (self.url, self.username)


class Request(NamedTuple):
    """What was asked for. `vdis`: {source VDI uuid: SR or VDI uuid}, `vifs`: {source VIF uuid:
    network or VIF uuid}, `vgpus`: {source VGPU uuid: GPU group uuid}, `formats`: {source VDI uuid:
    one of formats.ASKED}, `bases`: {source VDI uuid: VDI uuid of the destination}. `find_bases`:
    others are looked for as well. Of a dry run: `answer_problems`: what is wrong is no failure;
    `scan`: whether the SRs are scanned, as they always are of a move."""

    vm: str
    vm_argument: str
    live: Optional[bool]
    host: str
    host_argument: str
    remote: Optional[Remote]
    network: str
    destination_sr: str
    vdis: Dict[str, str]
    vifs: Dict[str, str]
    formats: Dict[str, str]
    force: bool
    wait: bool
    dry_run: bool
    retry_limit: int
    bandwidth: int
    renew_tracking: bool
    drop_snapshots: bool = False
    copy: bool = False
    bases: Dict[str, str] = {}
    find_bases: bool = True
    vgpus: Dict[str, str] = {}
    answer_problems: bool = False
    scan: bool = True


class Problems:
    """The wrong arguments so far."""

    def __init__(self) -> None:
        self.details: List[str] = []

    def add(self, argument: str, wrong: str, right: str = "") -> None:
        """`argument`: its name; `wrong`: what is wrong with it; `right`: what would be right."""
        detail = "%s: %s%s" % (argument, wrong, "; " + right if right else "")
        if detail not in self.details:
            self.details.append(detail)

    def __bool__(self) -> bool:
        return bool(self.details)

    def raise_any(self) -> None:
        """Raise BadArguments when there are any."""
        if self.details:
            raise BadArguments(*self.details)


def check_names(function: str, takes: Takes, given: Dict[str, str], problems: Problems) -> None:
    """Look at the names of what was `given` ({name: string}) to a function; what is wrong goes to
    `problems`."""
    kinds = [argument.kind for argument in takes.arguments]
    for text in sorted(str(name) for name in given):
        name, colon, _ = text.partition(":")
        if name + colon in kinds:
            continue
        if name in takes.not_here:
            problems.add(text[:64], *takes.not_here[name])
            continue
        near = difflib.get_close_matches(text[:64], kinds, 1, 0.6)
        problems.add(
            text[:64],
            "is not an argument of %s" % function,
            "did you mean %s?" % near[0] if near else "leave it out",
        )
    for group in takes.required:
        if not any(given.get(name) for name in group):
            means = {argument.name: argument.means for argument in takes.arguments}
            problems.add(
                group[0],
                "is missing",
                ", or ".join("%s: %s" % (name, means[name]) for name in group),
            )


def read(arguments: Dict[str, str], problems: Problems) -> Request:
    """The Request that `arguments` ({name: string}) make; what is wrong goes to `problems`.

    A part that is wrong is as if it had not been given, so that the rest can still be checked."""
    reader = _Reader(arguments, problems)
    vm_argument, vm = reader.one_of("vm", "uuid")
    host_argument, host = reader.one_of("host", "host-uuid")
    return Request(
        vm=vm,
        vm_argument=vm_argument,
        live=reader.boolean("live", None),
        host=host,
        host_argument=host_argument,
        remote=reader.remote(),
        network=reader.text("remote-network"),
        destination_sr=reader.uuid("destination-sr-uuid", "the UUID of an SR of the destination"),
        vdis=reader.mapping("vdi", "vdi:<VDI>=<SR or VDI of the destination>"),
        vifs=reader.mapping("vif", "vif:<VIF>=<network or VIF of the destination>"),
        formats=reader.formats(),
        force=reader.boolean("force", False),
        wait=reader.boolean("wait", True),
        dry_run=reader.boolean("dry-run", False),
        retry_limit=reader.number("retry-limit", resume.LIMIT, MAX_RETRIES),
        bandwidth=bandwidth(reader.text("bandwidth"), problems),
        renew_tracking=reader.word("cbt", (RENEW,)) == RENEW,
        drop_snapshots=reader.word("snapshots", (KEEP, DROP)) == DROP,
        copy=reader.copy(),
        bases=reader.mapping("base", "base:<VDI>=<VDI of the destination>"),
        find_bases=reader.word("base", (AUTO, NONE)) != NONE,
        vgpus=reader.mapping("vgpu", "vgpu:<VGPU>=<GPU group of the destination>"),
        answer_problems=reader.answer_problems(),
        scan=reader.scan(),
    )


def bandwidth(text: str, problems: Problems) -> int:
    """The bytes per second that the argument `bandwidth` says; 0: as much as goes. What is wrong
    goes to `problems`."""
    found = re.match(r"([0-9]{1,12})(|[kMG]i?B?)\Z", text) if text else None
    value = int(found.group(1)) * UNITS[found.group(2)[:1]] if found else 0
    if text and (found is None or 0 < value < LEAST_BANDWIDTH):
        problems.add(
            "bandwidth",
            "is %r" % text[:64],
            "bytes per second, as 104857600 or 100MiB, at least 1MiB, or 0 for as much as goes",
        )
        return 0
    return value


class _Reader:
    def __init__(self, arguments: Dict[str, str], problems: Problems) -> None:
        self._problems = problems
        self._given = arguments
        if len(arguments) > MAX_ARGUMENTS:
            problems.add("arguments", "more than %d" % MAX_ARGUMENTS)
            self._given = {}
        check_names("migrate", MIGRATE, self._given, problems)

    def text(self, name: str) -> str:
        value = self._given.get(name, "")
        if not isinstance(value, str) or len(value) > MAX_LENGTH or "\0" in value:
            self._problems.add(name, "is not a string of at most %d characters" % MAX_LENGTH)
            return ""
        return value

    def one_of(self, first: str, second: str) -> Tuple[str, str]:
        values = [(name, self.text(name)) for name in (first, second)]
        given = [pair for pair in values if pair[1]]
        if len(given) == 2 and given[0][1] != given[1][1]:
            self._problems.add(second, "is given beside %s" % first, "give one of them")
        return given[0] if given else (first, "")

    def boolean(self, name: str, default: Default) -> Union[bool, Default]:
        text = self.text(name)
        if not text:
            return default
        if text.lower() not in BOOLEANS:
            self._problems.add(name, "is %r" % text, "true or false")
            return default
        return BOOLEANS[text.lower()]

    def word(self, name: str, known: Tuple[str, ...]) -> str:
        """The word that is given, one of those that are known; "" without one."""
        text = self.text(name)
        if text and text not in known:
            self._problems.add(
                name, "is %r" % text[:64], "%s, or leave it out" % " or ".join(known)
            )
            return ""
        return text

    def number(self, name: str, default: int, most: int) -> int:
        text = self.text(name)
        if not text:
            return default
        if not re.match(r"[0-9]{1,9}\Z", text) or int(text) > most:
            self._problems.add(name, "is %r" % text, "a number from 0 to %d" % most)
            return default
        return int(text)

    def uuid(self, name: str, right: str) -> str:
        text = self.text(name).lower()
        if text and not UUID.match(text):
            self._problems.add(name, "%r is not a UUID" % text, right)
            return ""
        return text

    def mapping(self, kind: str, right: str) -> Dict[str, str]:
        found = {}
        for name in sorted(key for key in self._given if str(key).startswith(kind + ":")):
            value = self.text(name).strip().lower()
            source = name.partition(":")[2].lower()
            if not UUID.match(source) or not UUID.match(value):
                self._problems.add(name, "is not a pair of UUIDs", right)
            else:
                found[source] = value
        return found

    def formats(self) -> Dict[str, str]:
        found = {}
        for name in sorted(key for key in self._given if str(key).startswith("image-format:")):
            value, source = self.text(name).strip().lower(), name.partition(":")[2].lower()
            if not UUID.match(source):
                self._problems.add(name, "names no disk", "image-format:<VDI>=<vhd or qcow2>")
            elif value not in ASKED:
                self._problems.add(name, "is %r" % value, " or ".join(ASKED))
            else:
                found[source] = value
        return found

    def copy(self) -> bool:
        if not self.boolean("copy", False):
            return False
        if self.text("snapshots"):
            self._problems.add(
                "snapshots", "is given, and a copy has none; those of the VM stay", "leave it out"
            )
        return True

    def scan(self) -> bool:
        found = self.boolean("scan", True)
        if not found:
            self._require_dry_run("scan")
        return found

    def answer_problems(self) -> bool:
        found = self.word("problems", (ANSWER,)) == ANSWER
        if found:
            self._require_dry_run("problems")
        return found

    def _require_dry_run(self, name: str) -> None:
        if not self.boolean("dry-run", False):
            self._problems.add(name, "is for a dry run", "dry-run=true, or leave it out")

    def remote(self) -> Optional[Remote]:
        master, username, password = [self.text(name) for name in REMOTE]
        if not (master or username or password):
            return None
        for name, value in zip(REMOTE, (master, username, password)):
            if not value:
                self._problems.add(
                    name,
                    "is missing",
                    "all of %s, or none for a move within the pool" % ", ".join(REMOTE),
                )
        try:
            url = session.url_of(master) if master else ""
        except ValueError as error:
            self._problems.add(
                "remote-master", str(error), "the address of the destination pool's master"
            )
            url = ""
        return Remote(url, username, password) if url and username and password else None
