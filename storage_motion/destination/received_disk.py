# SPDX-License-Identifier: LGPL-2.1-only
"""One disk at the receiver: which roles it has had and how they ended, and by that, whether its
gate may be opened."""

import logging
import threading
from typing import Any, Callable, Dict, Optional

from storage_motion.destination import tapdisk
from storage_motion.destination.copy_role import CopyRole
from storage_motion.destination.mirror_role import MirrorRole
from storage_motion.errors import (
    ConnectionLost,
    DataPathError,
    NotFinished,
    PeerRefused,
    ProtocolError,
)
from storage_motion.wire import digest, json_lines, nbd, nbd_client
from storage_motion.wire.buffered_tls import BufferedTls
from storage_motion.wire.control_socket import Handler
from storage_motion.wire.guest_writes import GuestWrites
from storage_motion.wire.json_lines import JsonLines

MAX_DIGEST = 1 << 20  # bytes that one digest may cover: a window of the copier
MAX_PARTS = 256  # of which a digest each may be asked for at once: the window in parts of 4 KiB
# seconds of silence after which a control role is lost; its heartbeat comes every 10
CONTROL_BOUND = 90.0

log = logging.getLogger(__name__)


class ReceivedDisk(object):
    """A destination VDI that is being filled, behind its gate.

    `roles`: role -> "unused", "open", "ended" (by a goodbye, with everything answered) or "broken".
    `gate`: "shut" or "open". `vdi`, `sr`: UUIDs.
    """

    def __init__(self, key: str, spec: Dict[str, Any], gates: Any) -> None:
        """`spec`: {"vdi", "sr": uuids, "size": bytes, "socket": unix path of its tapdisk's NBD
        server, "depth": requests that may be in flight on a connection with it, "blank": whether it
        reads as zeros, "read_only": whether the VM will have it so (optional)}.

        `gates.open(sr uuid, vdi uuid)` closes that tapdisk and takes the marks off the VDI, and
        `gates.hold_open` of the same takes them off once more, if they have come back; a
        MotionError if it cannot. `gates.stand_by`, `close_disk` and `stand_down` make that quick,
        and `expect_reader` tells of a VM that has the disk read-only: see destination_gates.py.
        """
        self.key = key
        self.size: int = spec["size"]
        self.gate = "shut"
        self.roles = {"mirror": "unused", "copy": "unused", "control": "unused"}
        self.sr: str = spec["sr"]
        self.vdi: str = spec["vdi"]
        self._socket: str = spec["socket"]
        self._depth: int = spec["depth"]
        self._blank: bool = spec["blank"]
        self._gates = gates
        if spec.get("read_only"):
            gates.expect_reader(self.vdi)
        self._guest = GuestWrites()
        self._trouble: Optional[str] = None  # what the last look at an open gate failed with
        # for digests; of the control role's thread
        self._reading: Optional[nbd_client.Client] = None
        self._given_up = ""  # why the source has no more to do with this disk, in its words
        self._beyond = 0  # bytes by which SM has made the disk larger
        self._lock = threading.Lock()  # over `roles` and `gate`

    def status(self) -> Dict[str, Any]:
        """The disk's part of the receiver's status."""
        with self._lock:
            return {"vdi": self.vdi, "gate": self.gate, "roles": dict(self.roles)}

    def take_role(self, role: str) -> None:
        """Reserve `role`. Raises PeerRefused if it was given away before: the token is good once
        per role and disk.

        So a mover cannot come back to a role that it lost; what it had sent is not known to have
        arrived.
        """
        with self._lock:
            if self.gate == "open":
                raise PeerRefused("this disk is finished")
            if self.roles[role] != "unused":
                raise PeerRefused("this role has been taken")
            self.roles[role] = "open"

    def connect(self) -> nbd_client.Client:
        """A new nbd_client.Client of this disk's tapdisk. Raises DataPathError, also if it is
        smaller than was agreed.

        It may be larger, since SM rounds sizes up: what lies beyond is nobody's, and refused
        (Client.size)."""
        client = nbd_client.connect(self._socket, depth=self._depth)
        if client.size < self.size:
            client.close()
            raise DataPathError(
                "the destination's tapdisk has %d bytes, not %d" % (client.size, self.size)
            )
        self._beyond, client.size = client.size - self.size, self.size
        return client

    def _clear_beyond(self, client: nbd_client.Client) -> None:
        """Have what lies beyond the disk that is copied be zeros, where it may be something else,
        and see that it is."""
        if self._blank or not self._beyond:
            return
        client.size = self.size + self._beyond
        for offset, length in nbd_client.pieces(self.size, self._beyond):
            client.write(offset, bytes(length))
            if any(client.read(offset, length)):
                raise DataPathError("the destination's tapdisk loses the zeros at %d" % offset)
        client.size = self.size

    def forward(self, role: str, tls: BufferedTls, client: nbd_client.Client) -> None:
        """Serve `mirror` or `copy` on `tls` to its end, with `client` of our tapdisk; closes
        both."""
        ended = "broken"
        reading: Optional[nbd_client.Client] = None
        try:
            if role == "copy":
                self._clear_beyond(client)
                reading = self.connect()
                tapdisk.have_memory_kept(reading)
                CopyRole(tls, client, reading, self._guest).run()
            else:
                MirrorRole(tls, client, self._guest).run()
            ended = "ended"
        except DataPathError as error:
            if not self._given_up:
                log.warning("disk %s: %s is broken: %s", self.key, role, error)
        except Exception:  # a bug of ours: the mover must not wait for it
            log.exception("disk %s: %s failed", self.key, role)
        finally:
            client.close()
            if reading is not None:
                reading.close()
            # In this order: the mover takes the closing for the confirmation, and asks for the
            # finish then.
            self.end_role(role, ended)
            try:
                if self._is_filled():
                    self._gates.close_disk(self.vdi)
            finally:
                tls.close()

    def _is_filled(self) -> bool:
        """Whether everything has come that will come."""
        with self._lock:
            return self.roles["mirror"] == self.roles["copy"] == "ended"

    def end_role(self, role: str, ended: str) -> None:
        """`role` is over: "ended" or "broken"."""
        with self._lock:
            self.roles[role] = ended
        how = "been given up" if ended == "broken" and self._given_up else ended
        log.info("disk %s: %s has %s", self.key, role, how)

    def control(self, lines: JsonLines, heard: Callable[[], None]) -> None:
        """Serve `control` on `lines` (JsonLines) until its connection ends. `heard()` is called for
        each request."""
        commands: Dict[str, Handler] = {
            "digest": self._digest,
            "digests": self._digests,
            "finish": self._finish,
            "stand-by": self._stand_by,
            "heartbeat": lambda _: {"ok": True},
            "abort": self._give_up,
        }
        try:
            while True:
                message = lines.receive(CONTROL_BOUND)
                heard()
                command = message.get("cmd")
                if not isinstance(command, str) or command not in commands:
                    raise ProtocolError("unknown command")
                lines.send(self._answered(commands[command], message), CONTROL_BOUND)
                heard()
        except ConnectionLost as error:
            # else the mover has done its part, or said why it does not, and has no more to say
            if self.gate != "open" and not self._given_up:
                log.info("disk %s: control has ended with the gate shut: %s", self.key, error)
        except DataPathError as error:
            log.info("disk %s: control has ended: %s", self.key, error)
        finally:
            self._stop_reading()
            self.end_role("control", "ended" if self.gate == "open" else "broken")
            self._gates.stand_down(self.vdi)

    def _answered(self, command: Handler, message: Dict[str, Any]) -> Dict[str, Any]:
        try:
            return command(message)
        except ProtocolError:
            raise
        except Exception as error:
            # Whatever SM or xapi raised has to reach the worker as the reason why the gate is shut.
            log.exception("disk %s: %s failed", self.key, message.get("cmd"))
            return {"ok": False, "error": str(error) or repr(error)}

    def _digest(self, message: Dict[str, Any]) -> Dict[str, Any]:
        """Of all `ranges` together."""
        ranges: Any = message.get("ranges")
        self._require_ranges(ranges)
        reading = self._for_digests()
        return {"ok": True, "digest": digest.of_disk(message.get("algorithm"), reading, ranges)}

    def _digests(self, message: Dict[str, Any]) -> Dict[str, Any]:
        """Of each of the `parts`, lists of ranges of one window, which ascend."""
        parts: Any = message.get("parts")
        if not isinstance(parts, list) or not 0 < len(parts) <= MAX_PARTS:
            raise ProtocolError("digests of no parts, or of too many")
        done: Optional[int] = None
        for part in parts:
            self._require_ranges(part)
            for offset, length in part:
                if done is not None and offset < done:
                    raise ProtocolError("parts that do not ascend")
                done = offset + length
        if done is not None and done - parts[0][0][0] > MAX_DIGEST:
            raise ProtocolError("digests of more than %d bytes" % MAX_DIGEST)
        reading = self._for_digests()
        return {"ok": True, "digests": digest.of_parts(message.get("algorithm"), reading, parts)}

    def _for_digests(self) -> nbd_client.Client:
        if self._reading is None:
            self._reading = self.connect()
        return self._reading

    def _require_ranges(self, ranges: Any) -> None:
        if not isinstance(ranges, list) or not ranges:
            raise ProtocolError("a digest of nothing")
        covered = 0
        for pair in ranges:
            if (
                not isinstance(pair, list)
                or [type(number) for number in pair] != [int, int]
                or pair[0] < 0
                or pair[1] <= 0
            ):
                raise ProtocolError("a range that is none")
            if nbd.request_fault(pair[0], pair[1], self.size):
                raise ProtocolError("a digest of %d bytes at %d" % (pair[1], pair[0]))
            covered += pair[1]
        if covered > MAX_DIGEST:
            raise ProtocolError("a digest of %d bytes" % covered)

    def _give_up(self, message: Dict[str, Any]) -> Dict[str, Any]:
        """The source gives this disk up, and closes all connections of it. Its gate stays shut."""
        self._given_up = " ".join(json_lines.reason_of(message).split())
        log.info("disk %s: the source gives it up: %s", self.key, self._given_up)
        return {"ok": True}

    def _stand_by(self, _: Dict[str, Any]) -> Dict[str, Any]:
        """The guest will be suspended soon, and the gate opened then."""
        self._gates.stand_by(self.sr, self.vdi)
        return {"ok": True}

    def _finish(self, message: Dict[str, Any]) -> Dict[str, Any]:
        """Open the gate, if everything that the mover was given has ended cleanly. Idempotent."""
        with self._lock:
            if self.gate == "open":
                return {"ok": True}
            mirror, copy = self.roles["mirror"], self.roles["copy"]
        if self._given_up:
            raise NotFinished("the source has given it up: %s" % self._given_up)
        if mirror != "ended" and not (mirror == "unused" and message.get("unmirrored") is True):
            raise NotFinished("the mirror is %s" % mirror)
        if copy != "ended":
            raise NotFinished("the copy is %s" % copy)
        self._stop_reading()
        self._gates.open(self.sr, self.vdi)
        with self._lock:
            self.gate = "open"
        log.info("disk %s: the gate of VDI %s is open", self.key, self.vdi)
        return {"ok": True}

    def hold_open(self) -> bool:
        """Have the gate, which has been opened, opened again, if it is not any more. Whether that
        could be seen."""
        try:
            self._gates.hold_open(self.sr, self.vdi)
            self._trouble = None
        except Exception as error:  # xapi is away, or SM's driver refuses: it is looked again
            if repr(error) != self._trouble:
                log.warning("disk %s: whether its gate is still open: %r", self.key, error)
            self._trouble = repr(error)
        return self._trouble is None

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.close()
            self._reading = None
