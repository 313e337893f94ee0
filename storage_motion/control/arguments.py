"""The plugin's arguments: those of `xe vm-migrate` by the same names (DESIGN section 5), and `wait`, `dry-run` and `retry-limit`.

Everything wrong is collected, and raised once: one detail per problem, "argument: what is wrong; what would be right".
"""
import difflib
import re
from typing import Dict, NamedTuple, Optional

from storage_motion.control import resume
from storage_motion.errors import BadArguments
from storage_motion.xapi import session

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
MAX_LENGTH = 1024      # characters of one value
MAX_ARGUMENTS = 1024
MAX_RETRIES = 1000
BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
REMOTE = ("remote-master", "remote-username", "remote-password")
# Arguments of xe vm-migrate that we know and that mean a VM which this product cannot move, or not in that way.
NOT_HERE = {"copy": "the VM is moved, not copied", "compress": "the destination pool's migration-compression decides",
            "vgpu": "a VM with a virtual GPU cannot be moved", "image-format": "the destination SR decides"}


class Remote(NamedTuple):
    """How to log in to the destination pool's master. `url`: scheme, host, port."""
    url: str
    username: str
    password: str

    def __repr__(self):
        return "Remote(%r, %r, ...)" % (self.url, self.username)


class Request(NamedTuple):
    """What was asked for. `vdis`: {source VDI uuid: SR or VDI uuid}, `vifs`: {source VIF uuid: network or VIF uuid}."""
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
    force: bool
    wait: bool
    dry_run: bool
    retry_limit: int


class Problems:
    """The wrong arguments so far."""

    def __init__(self):
        self.details = []

    def add(self, argument, wrong, right=""):
        """`argument`: its name; `wrong`: what is wrong with it; `right`: what would be right."""
        detail = "%s: %s%s" % (argument, wrong, "; " + right if right else "")
        if detail not in self.details:
            self.details.append(detail)

    def __bool__(self):
        return bool(self.details)

    def raise_any(self):
        """Raise BadArguments when there are any."""
        if self.details:
            raise BadArguments(*self.details)


def read(arguments, problems):
    """The Request that `arguments` ({name: string}) make; what is wrong goes to `problems`.

    A part that is wrong is as if it had not been given, so that the rest can still be checked."""
    reader = _Reader(arguments, problems)
    vm_argument, vm = reader.one_of("vm", "uuid")
    if not vm:
        problems.add("vm", "is missing", "the UUID or the name of the VM to move")
    host_argument, host = reader.one_of("host", "host-uuid")
    request = Request(
        vm=vm, vm_argument=vm_argument, live=reader.boolean("live", None), host=host, host_argument=host_argument,
        remote=reader.remote(), network=reader.text("remote-network"),
        destination_sr=reader.uuid("destination-sr-uuid", "the UUID of an SR of the destination"),
        vdis=reader.mapping("vdi", "vdi:<VDI>=<SR or VDI of the destination>"),
        vifs=reader.mapping("vif", "vif:<VIF>=<network or VIF of the destination>"),
        force=reader.boolean("force", False), wait=reader.boolean("wait", True),
        dry_run=reader.boolean("dry-run", False), retry_limit=reader.number("retry-limit", resume.LIMIT, MAX_RETRIES))
    reader.refuse_the_rest()
    return request


class _Reader:
    def __init__(self, arguments, problems):
        self._problems = problems
        self._left = dict(arguments)
        self._known = []
        if len(arguments) > MAX_ARGUMENTS:
            problems.add("arguments", "more than %d" % MAX_ARGUMENTS)
            self._left = {}

    def text(self, name):
        self._known.append(name)
        value = self._left.pop(name, "")
        if not isinstance(value, str) or len(value) > MAX_LENGTH or "\0" in value:
            self._problems.add(name, "is not a string of at most %d characters" % MAX_LENGTH)
            return ""
        return value

    def one_of(self, first, second):
        values = [(name, self.text(name)) for name in (first, second)]
        given = [pair for pair in values if pair[1]]
        if len(given) == 2 and given[0][1] != given[1][1]:
            self._problems.add(second, "is given beside %s" % first, "give one of them")
        return given[0] if given else (first, "")

    def boolean(self, name, default):
        text = self.text(name)
        if not text:
            return default
        if text.lower() not in BOOLEANS:
            self._problems.add(name, "is %r" % text, "true or false")
            return default
        return BOOLEANS[text.lower()]

    def number(self, name, default, most):
        text = self.text(name)
        if not text:
            return default
        if not re.match(r"[0-9]{1,9}\Z", text) or int(text) > most:
            self._problems.add(name, "is %r" % text, "a number from 0 to %d" % most)
            return default
        return int(text)

    def uuid(self, name, right):
        text = self.text(name).lower()
        if text and not UUID.match(text):
            self._problems.add(name, "%r is not a UUID" % text, right)
            return ""
        return text

    def mapping(self, kind, right):
        self._known.append(kind + ":")
        found = {}
        for name in sorted(key for key in self._left if key.startswith(kind + ":")):
            value = self.text(name).strip().lower()
            self._known.pop()
            source = name.partition(":")[2].lower()
            if not UUID.match(source) or not UUID.match(value):
                self._problems.add(name, "is not a pair of UUIDs", right)
            else:
                found[source] = value
        return found

    def remote(self):
        master, username, password = [self.text(name) for name in REMOTE]
        if not (master or username or password):
            return None
        for name, value in zip(REMOTE, (master, username, password)):
            if not value:
                self._problems.add(name, "is missing", "all of %s, or none for a move within the pool" % ", ".join(REMOTE))
        try:
            url = session.url_of(master) if master else ""
        except ValueError as error:
            self._problems.add("remote-master", str(error), "the address of the destination pool's master")
            url = ""
        return Remote(url, username, password) if url and username and password else None

    def refuse_the_rest(self):
        for name in sorted(self._left, key=str):
            kind = str(name).partition(":")[0]
            if kind in NOT_HERE:
                self._problems.add(name, NOT_HERE[kind], "leave it out")
                continue
            near = difflib.get_close_matches(str(name), self._known, 1, 0.6)
            self._problems.add(str(name)[:64], "is not an argument of migrate",
                               "did you mean %s?" % near[0] if near else "leave it out")
