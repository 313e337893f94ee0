# SPDX-License-Identifier: LGPL-2.1-only
"""What a selftest does, step by step: the table, and the functions of it."""

import contextlib
import http.client
import time
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import XenAPI

from storage_motion.cli.failures import Interrupted, SelftestFailed, TooQuick, WayRefused
from storage_motion.cli.following import MigrationFailed
from storage_motion.cli.output import Output
from storage_motion.cli.pools import Pool
from storage_motion.cli.selftest import cleaning, subject, ways
from storage_motion.cli.selftest.report import Result
from storage_motion.cli.selftest.subject import HALTED, RUNNING, Place, Subject
from storage_motion.errors import MotionError

OK, FAILED, REFUSED, SKIPPED, LEFT_OUT = "ok", "failed", "not possible", "skipped", "left out"
WAY = Tuple[Place, Place]


class Run:
    """One selftest. `here`, `there`: the places of the VM's pool and of the other one, in the order
    in which they are visited; `given`: those that its user has named; `pools`: by name; `vm`: once
    there is one."""

    def __init__(
        self,
        selftest: str,
        out: Output,
        pools: Dict[str, Pool],
        here: List[Place],
        there: List[Place],
        given: List[Place],
        size: int,
        short: bool = False,
    ) -> None:
        self.selftest, self.out, self.pools = selftest, out, pools
        self.here, self.there, self.size, self.short = here, there, size, short
        self.given = given
        self.vm: Optional[Subject] = None
        self.results: List[Result] = []
        self.held: List[WAY] = []
        self.skipped: Dict[str, str] = {}  # steps that cannot be done here, and why
        self.lost = False  # the VM is not as it has to be: nothing more is done with it

    @property
    def subject(self) -> Subject:
        """The VM, once there is one."""
        assert self.vm is not None
        return self.vm

    @contextlib.contextmanager
    def step(self, what: str, *places: Place) -> Iterator[Result]:
        """A line of the report: how what is done in here ends, and how long it takes. Control C
        goes on to whoever called."""
        result = Result(what, places)
        self.results.append(result)
        begun = time.monotonic()
        try:
            yield result
            result.outcome = OK
        except KeyboardInterrupt:
            result.outcome, result.error = FAILED, Interrupted("by you").failure()
            raise
        except TooQuick as error:
            result.outcome, result.error = LEFT_OUT, error.failure()
        except WayRefused as error:
            result.outcome, result.error = REFUSED, error.failure()
        except MigrationFailed as error:
            result.outcome, result.error = FAILED, error.failure()
        except MotionError as error:
            self._fail(result, error.failure())
        except XenAPI.Failure as failure:
            self._fail(result, [str(detail) for detail in failure.details])
        except (OSError, http.client.HTTPException) as failed:
            self._fail(result, ["SXM_OS_ERROR", str(failed)])
        finally:
            result.seconds = round(time.monotonic() - begun, 1)
            for line in result.text(self.called).splitlines():
                self.out.line(line)

    def _fail(self, result: Result, error: List[str]) -> None:
        result.outcome, result.error, self.lost = FAILED, error, True

    def is_wrong(self, result: Result) -> bool:
        """Whether a result means that not all held. A way that is refused between places that
        nobody has named is none of those that these hosts allow."""
        if result.outcome in (REFUSED, SKIPPED):
            return bool(result.places) and all(place in self.given for place in result.places)
        return result.outcome not in (OK, LEFT_OUT)

    def called(self, place: Place) -> str:
        """How a place is called on this machine's screen."""
        view = self.pools[place.pool].records()
        _, record = view.by_uuid("SR", place.sr)
        return "%s/%s" % (place.pool, record["name_label"] if record else place.sr)

    def move(self, to: Place) -> bool:
        """Move the VM there, and compare its disks. Whether that held."""
        start, vm = self.subject.place(), self.subject
        title = "move, %s" % vm.power_state.lower()
        with self.step(title, start, to) as result:
            result.bytes = vm.move(to, self.pools[to.pool])["bytes_moved"]
            result.checksum = vm.compare()
        if result.outcome == OK:
            self.held.append((start, to))
        return result.outcome == OK


class Step(NamedTuple):
    """`needs(run)`: why it cannot be done here, else ""."""

    name: str
    needs: Callable[[Run], str]
    do: Callable[[Run], None]


def _own(run: Run) -> str:
    return "" if run.vm is None or run.vm.made else "the VM was named, and is only moved as it is"


def _to_be_made(run: Run) -> str:
    return "" if run.vm is None else "the VM was named"


def _named(run: Run) -> str:
    return "the VM is the selftest's own" if run.subject.made else ""


def _always(run: Run) -> str:
    return ""


def _is_halted(run: Run) -> str:
    return "" if run.subject.power_state == HALTED else "the VM that was named runs"


def _is_running(run: Run) -> str:
    return "" if run.subject.power_state == RUNNING else "the VM does not run"


def _a_way(run: Run) -> str:
    return "" if run.held else "there is no way that held"


def _make(run: Run) -> None:
    with run.step("make a VM, fill its disk, read it", run.here[0]) as result:
        run.vm = subject.make(run.selftest, run.pools[run.here[0].pool], run.here[0].sr, run.size)
        result.checksum = run.vm.compare()


def _look(run: Run) -> None:
    if run.subject.power_state == HALTED:
        with run.step("read the disks of the VM", run.subject.place()) as result:
            run.subject.digests = run.subject.read()
            result.checksum = run.subject.compare()


def _go_all(run: Run, untried: List[WAY]) -> None:
    """All these ways, as far as they can be reached."""
    untried = list(untried)
    while untried and not run.lost:
        at = run.subject.place()
        to = ways.next_stop(at, untried, run.held)
        if to is None:
            break
        run.move(to)
        untried = [way for way in untried if way != (at, to)]
    for start, to in untried:
        result = Result("move, %s" % run.subject.power_state.lower(), (start, to), SKIPPED)
        result.error = ["SXM_SELFTEST_FAILED", "it cannot be reached by ways that held"]
        run.results.append(result)


def _halted_moves(run: Run) -> None:
    _go_all(run, _ways(run, ways.short_out))


def _running_moves(run: Run) -> None:
    _go_all(run, _ways(run, ways.short_back))


def _ways(run: Run, leg: Callable[[List[Place], List[Place]], List[WAY]]) -> List[WAY]:
    """`leg`: the part of the short way. One that was named is moved as it is, so it goes all of
    it."""
    if not run.short:
        return ways.all_of(run.here, run.there)
    if run.subject.made:
        return leg(run.here, run.there)
    return ways.short_out(run.here, run.there) + ways.short_back(run.here, run.there)


def _start(run: Run) -> None:
    with run.step("start the VM", run.subject.place()):
        run.subject.start()


def _disturbed(run: Run) -> Tuple[Place, Place]:
    """A way from where it is that held, in this direction or the other one."""
    at = run.subject.place()
    known = run.held + [(to, start) for start, to in run.held]
    return at, next(to for start, to in known if start == at)


def _cancel(run: Run) -> None:
    at, to = _disturbed(run)
    vm = run.subject
    with run.step("cancel a move half-way, %s" % vm.power_state.lower(), at, to) as result:
        was = vm.power_state
        status = vm.half_way(to, run.pools[to.pool])
        migration = status["migration"]
        vm.disturb("cancel", migration, run.pools[to.pool])
        ended = vm.ended(migration)
        result.bytes = status["bytes_moved"]
        if ended["state"] != "cancelled":
            raise SelftestFailed("it was cancelled, and is %s" % ended["state"])
        vm.require_at(at, was)
        _require_nothing_left(run, migration)
        result.checksum = vm.compare()


def _kill(run: Run) -> None:
    at, to = _disturbed(run)
    vm = run.subject
    with run.step("kill the worker half-way, %s" % vm.power_state.lower(), at, to) as result:
        was = vm.power_state
        status = vm.half_way(to, run.pools[to.pool])
        migration = status["migration"]
        vm.disturb("selftest-kill", migration, run.pools[to.pool], selftest=run.selftest)
        ended = vm.ended(migration)  # by the worker that follows; nobody asks for a recovery
        result.bytes = status["bytes_moved"]
        result.note = (
            "the recovery finished it" if ended["state"] == "succeeded" else "it was taken back"
        )
        if ended["left"]:
            raise SelftestFailed("the recovery has left something", *ended["left"])
        if ended["state"] == "succeeded":
            vm.pool = run.pools[to.pool]
            vm.require_at(to, was)
        else:
            vm.require_at(at, was)
        _require_nothing_left(run, migration)
        result.checksum = vm.compare()


def _require_nothing_left(run: Run, migration: str) -> None:
    """Raises SelftestFailed if a VDI of a migration is there still."""
    for pool in run.pools.values():
        for vdi in pool.xenapi.VDI.get_all_records().values():
            if migration in vdi["other_config"].values():
                raise SelftestFailed("VDI %s of the migration is left" % vdi["uuid"])


def _go_home(run: Run) -> None:
    home, at = run.here[0], run.subject.place()
    while at != home and not run.lost:
        to = ways.towards(at, {home}, run.held) or home
        if not run.move(to):
            return
        at = run.subject.place()


def _clean(run: Run) -> None:
    with run.step("clean up") as result:
        pools = list(run.pools.values())
        left = cleaning.clean(pools, run.selftest)
        unsure = cleaning.unsure(pools, run.selftest)
        for sentence in unsure:
            run.out.warning(sentence)
        result.note = "%d disk(s) may be copies, and stay" % len(unsure) if unsure else ""
        if left:
            raise SelftestFailed("something is left: sxm selftest --clean", *left)


def _stop(run: Run) -> None:
    with run.step("shut the VM down", run.subject.place()):
        run.subject.stop()


# In this order. After one that failed, with the VM not where it has to be, only the last is done.
STEPS = (
    Step("make", _to_be_made, _make),
    Step("look", _named, _look),
    Step("halted", _is_halted, _halted_moves),
    Step("start", _own, _start),
    Step("running", _is_running, _running_moves),
    Step("kill", _a_way, _kill),
    Step("stop", _own, _stop),
    Step("cancel", _a_way, _cancel),
    Step("home", _always, _go_home),
    Step("clean", _always, _clean),
)
LAST = STEPS[-1]


def do_all(run: Run) -> None:
    """All steps. What they find is in run.results; KeyboardInterrupt goes on to whoever called."""
    for step in STEPS[:-1]:
        if run.lost:
            break
        why = step.needs(run)
        if why:
            run.skipped[step.name] = why
        else:
            step.do(run)
    LAST.do(run)
