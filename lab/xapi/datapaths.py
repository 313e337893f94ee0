# SPDX-License-Identifier: LGPL-2.1-only
"""xapi's storage layer on one host: which datapaths hold which VDI, and what of that SM is asked
for (storage_smapiv1_wrapper.ml).

SM is only asked where the state of the VDI as a whole changes: the first datapath attaches and
activates it, the last one deactivates and detaches it. What stands is written down after SM did it,
in memory of the host only (/run/nonpersistent/xapi/storage.db): it outlives xapi and not a loss of
power. What a xapi forgets is which VDIs SM attached to be written to: one that it does not know is
activated read-only (storage_smapiv1.ml, vdi_read_write), until its start has looked at all of them.
So a VDI that SM deactivated for somebody else stays activated here. A datapath whose removal failed
is *leaked*: before each further operation on the VDI its removal is tried again.
"""

import json
import logging
import threading

from lab.xapi import automaton
from lab.xapi.automaton import DETACHED, State
from lab.xapi.failures import Failure
from lab.xapi.schema import Timestamp

STATE = "/run/nonpersistent/xapi/storage.db"
_ERRORS = 100  # remembered

log = logging.getLogger("xapi.datapaths")


class NoVdi(Exception):
    """xapi has no record of this VDI, so SM cannot be asked."""


class _Vdi:
    """`states`: {datapath: State}; `leaked`: datapaths; `info`: what SM answered to the attach."""

    def __init__(self, states=None, leaked=(), info=None):
        self.states = dict(states or {})
        self.leaked = list(leaked)
        self.info = info

    @property
    def superstate(self):
        return automaton.superstate(self.states.values())

    def with_state(self, datapath, state):
        """The same, with another state of one datapath."""
        states = {name: former for name, former in self.states.items() if name != datapath}
        if state != DETACHED:
            states = {datapath: state, **states}
        return _Vdi(states, self.leaked, self.info)


class Datapaths:
    """Those of one host. Whoever calls holds the lock of the VDI that it names (by SR's UUID and
    location)."""

    def __init__(self, sm, saved, save):
        """`sm(sr, vdi, operation, writable)` has SM do it, answers the attach's info, raises
        Failure or NoVdi; `saved`: what `save` was given last (a text), or None; `save(text)` keeps
        it in the host's memory."""
        self._sm, self._save = sm, save
        self._lock = threading.Lock()  # of what follows, not of any operation
        self._srs, self._places, self._errors = {}, {}, []
        # (SR, VDI) -> whether it is attached to be written to; of this xapi alone
        self._writable = {}
        if saved:
            self._load(json.loads(saved))

    # -- SRs

    def srs(self):
        """The UUIDs of the SRs that are attached."""
        with self._lock:
            return list(self._srs)

    def sr_attached(self, sr):
        """SM has attached this SR."""
        with self._lock:
            self._srs.setdefault(sr, {})
        self._keep()

    def sr_detaches(self, sr):
        """This SR is about to be detached: remove the datapaths in it, as far as that goes."""
        for vdi, datapath in [
            (vdi, datapath) for vdi, held in self._vdis(sr).items() for datapath in held.states
        ]:
            try:
                self._destroy(datapath, sr, vdi, False)
            except Failure:
                log.exception("datapath %s has leaked", datapath)

    def sr_detached(self, sr):
        """SM has detached it: forget all of it."""
        with self._lock:
            self._srs.pop(sr, None)
        self._keep()

    # -- VDIs

    def attach(self, datapath, sr, vdi, writable):
        """Answers what SM answered to the first attach."""
        self.remove_leaked(sr, vdi)
        with self._lock:
            self._places[datapath] = {"sr": sr, "vdi": vdi, "rw": writable}
        self._keep()
        return self._perform(
            datapath, sr, vdi, automaton.attach(automaton.RW if writable else automaton.RO)
        ).info

    def activate(self, datapath, sr, vdi):
        """Make the VDI active for this datapath."""
        self.remove_leaked(sr, vdi)
        self._perform(datapath, sr, vdi, automaton.ACTIVATE)

    def deactivate(self, datapath, sr, vdi):
        """Undo `activate`."""
        self.remove_leaked(sr, vdi)
        self._perform(datapath, sr, vdi, automaton.DEACTIVATE)

    def detach(self, datapath, sr, vdi):
        """Undo `attach`."""
        self.remove_leaked(sr, vdi)
        self._perform(datapath, sr, vdi, automaton.DETACH)
        self._forget_place(datapath)

    def place(self, datapath):
        """(SR, location) that a datapath is on, or None (storage_mux.ml, DP_info)."""
        with self._lock:
            place = self._places.get(datapath)
        return place and (place["sr"], place["vdi"])

    def destroy(self, datapath, allow_leak):
        """Deactivate and detach what the datapath (one that has a place) holds. Where SM refuses,
        the datapath has leaked and the refusal is raised; with `allow_leak` it is forgotten
        instead."""
        self._destroy(datapath, *self.place(datapath), allow_leak)
        self._forget_place(datapath)

    def remove_all(self, sr, vdi):
        """Remove every datapath of a VDI that is to be destroyed. Raises the first refusal."""
        self._remove(sr, vdi, self._vdi(sr, vdi).states)

    def remove_leaked(self, sr, vdi):
        """Try again to remove its leaked datapaths. Raises the first refusal."""
        held = self._vdi(sr, vdi)
        self._remove(sr, vdi, [datapath for datapath in held.states if datapath in held.leaked])

    def remember(self, sr, vdi):
        """Take from the state of a VDI as a whole whether it is attached to be written to."""
        state = self.state(sr, vdi)
        if state != DETACHED:
            self._writable[sr, vdi] = state.mode == automaton.RW

    def remember_all(self):
        """As `remember`, of every VDI: for a host whose xapi has not ended."""
        for sr in self.srs():
            for vdi in self._vdis(sr):
                self.remember(sr, vdi)

    def state(self, sr, vdi):
        """The State of a VDI as a whole."""
        return self._vdi(sr, vdi).superstate

    def diagnostics(self):
        """All of it, as text."""
        lines = ["The following SRs are attached:"]
        with self._lock:
            for sr, vdis in self._srs.items():
                lines.append("    SR %s" % sr)
                for vdi, held in vdis.items():
                    lines.append("        VDI %s" % vdi)
                    lines.append(
                        "            %s (device=%s)"
                        % (
                            held.superstate,
                            "Some " + json.dumps(held.info) if held.info else "None",
                        )
                    )
                    lines += [
                        "                DP: %s: %s%s"
                        % (name, state, "  ** LEAKED" if name in held.leaked else "")
                        for name, state in held.states.items()
                    ]
            lines += [
                "",
                "The following errors have been logged:"
                if self._errors
                else "No errors have been logged.",
            ]
            lines += [
                "%(dp)s @ %(time)s; sr:%(sr)s vdi:%(vdi)s error:%(error)s" % error
                for error in self._errors
            ]
        return "".join(line + "\n" for line in lines)

    # -- how

    def _vdis(self, sr):
        with self._lock:
            if sr not in self._srs:
                raise _storage_error("Sr_not_attached", sr)
            return dict(self._srs[sr])

    def _vdi(self, sr, vdi):
        with self._lock:
            return self._srs.get(sr, {}).get(vdi) or _Vdi()

    def _put(self, sr, vdi, held):
        with self._lock:
            if held.superstate == DETACHED:
                self._srs[sr].pop(vdi, None)
            else:
                self._srs[sr][vdi] = held
        self._keep()

    def _perform(self, datapath, sr, vdi, operation):
        held = self._vdis(sr).get(vdi) or _Vdi()
        try:
            changed = held.with_state(
                datapath, automaton.after(held.states.get(datapath, DETACHED), operation)
            )
            changed.info = self._side_effects(sr, vdi, held, changed)
        except (automaton.BadTransition, automaton.NoOperation, Failure, NoVdi) as error:
            failure = _as_failure(error)
            self._note(datapath, sr, vdi, failure)
            raise failure from None
        if changed.states != held.states:
            self._put(sr, vdi, changed)
        return changed

    def _side_effects(self, sr, vdi, held, changed):
        """What has to be done to the VDI by SM, if anything. The info of its attach."""
        info = held.info
        for operation in automaton.path(held.superstate, changed.superstate):
            log.info(
                "%s/%s: %s -> %s: %s", sr, vdi, held.superstate, changed.superstate, operation.name
            )
            try:
                answer = self._sm(
                    sr, vdi, operation.name, self._is_writable(sr, vdi, operation, changed)
                )
            except NoVdi:
                if operation.name not in ("deactivate", "detach"):
                    raise
                log.error(
                    "there is no VDI %s/%s: going on as if its %s had succeeded",
                    sr,
                    vdi,
                    operation.name,
                )
                continue
            if operation.name == "attach":
                info = answer
                self._writable[sr, vdi] = operation.mode == automaton.RW
            elif operation.name == "detach":
                self._writable.pop((sr, vdi), None)
        return info

    def _is_writable(self, sr, vdi, operation, changed):
        if operation.name != "activate":
            return changed.superstate.mode == automaton.RW
        if (sr, vdi) not in self._writable:
            log.error("VDI.activate: doesn't know if sr:%s vdi:%s is RO or RW", sr, vdi)
        return self._writable.get((sr, vdi), False)

    def _destroy(self, datapath, sr, vdi, allow_leak):
        held = self._vdis(sr).get(vdi) or _Vdi()
        try:
            for operation in automaton.path(held.states.get(datapath, DETACHED), DETACHED):
                self._perform(datapath, sr, vdi, operation)
        except Failure:  # from here on it counts as it was before, so that all of it is done again
            if allow_leak:
                log.info("datapath %s is forgotten, although its removal failed", datapath)
                self._put(sr, vdi, held.with_state(datapath, DETACHED))
                return
            self._put(
                sr,
                vdi,
                _Vdi(
                    held.states,
                    [datapath] + [name for name in held.leaked if name != datapath],
                    held.info,
                ),
            )
            raise

    def _remove(self, sr, vdi, datapaths):
        failures = []
        for datapath in list(datapaths):
            try:
                self._destroy(datapath, sr, vdi, False)
            except Failure as failure:
                failures.append(failure)
        if failures:
            raise failures[0]

    def _forget_place(self, datapath):
        with self._lock:
            self._places.pop(datapath, None)
        self._keep()

    def _note(self, datapath, sr, vdi, error):
        with self._lock:
            self._errors.insert(
                0,
                {
                    "dp": datapath,
                    "time": Timestamp.now(),
                    "sr": sr,
                    "vdi": vdi,
                    "error": str(error),
                },
            )
            del self._errors[_ERRORS:]

    # -- in memory

    def _keep(self):
        with self._lock:
            srs = {
                sr: {
                    vdi: {"dps": held.states, "leaked": held.leaked, "attach_info": held.info}
                    for vdi, held in vdis.items()
                }
                for sr, vdis in self._srs.items()
            }
            self._save(
                json.dumps(
                    {"host": {"srs": srs}, "errors": self._errors, "storage-dps": self._places}
                )
            )

    def _load(self, saved):
        for sr, vdis in saved["host"]["srs"].items():
            self._srs[sr] = {
                vdi: _Vdi(
                    {name: State(*state) for name, state in held["dps"].items()},
                    held["leaked"],
                    held["attach_info"],
                )
                for vdi, held in vdis.items()
            }
        self._errors, self._places = saved["errors"], saved["storage-dps"]


def _storage_error(name, *parameters):
    """As `transform_storage_exn` shows an error that is none of SM's."""
    return Failure(
        "INTERNAL_ERROR",
        "Storage_interface.Storage_error ([S(%s);%s])"
        % (name, "".join("S(%s)" % text for text in parameters)),
    )


def _as_failure(error):
    if isinstance(error, automaton.NoOperation):
        return _storage_error("Illegal_transition", *map(str, error.args))
    if isinstance(error, automaton.BadTransition):
        return Failure(
            "INTERNAL_ERROR",
            "Vdi_automaton.Bad_transition(%s, %s)" % (error.args[0], error.args[1].name),
        )
    if isinstance(error, NoVdi):
        return _storage_error("Internal_error", "Storage_access.No_VDI")
    return error
