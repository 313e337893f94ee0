# SPDX-License-Identifier: LGPL-2.1-only
"""The lab's tapdisk: `tap-ctl` over qemu-storage-daemon, with the real one's command lines, answers
and habits.

One tapdisk is one qemu-storage-daemon process (its pid is the tapdisk's pid) with at most one vbd.
What the real programs do was measured in docs/facts/tapdisk-and-sm.md and docs/facts/qemu-storage-daemon.md;
the sequences used here are the ones that were proven there. Images are qcow2 chains (`qcow2:PATH`)
and raw files or devices (`aio:PATH`).

    tap_ctl.py   the commands: answers, usage, exit codes
    options.py   their options, read by getopt(3) and atoi(3)
    listing.py   what `tap-ctl list` prints
    records.py   what a tapdisk and its vbd are at, kept in files; all that `tap-ctl list` needs
    engine.py    starts and ends a qemu-storage-daemon
    qmp.py       speaks with it
    chain.py     which images make up a disk
    vbd.py       open, close, pause, unpause: the sequences of monitor commands
    mirror.py    the secondary
    dirty_log.py  the layer that tracks changed blocks
    worker.py    runs such a sequence as if inside the tapdisk: whoever asked may be killed meanwhile
    detach.py    what such a process must not keep of its parent's
    commit.py    merges below the disk in use (XCP-ng's, QCOW2)
    nbd_server.py  what XCP-ng's tapdisk does to clients of a QCOW2 disk
    nbd_serving.py the process that does it
    reply.py     the habit of `pause` to answer only once something else wakes the tapdisk
    stats.py     tapdisk's JSON
    install.py   puts it into the root of a lab host

Not as on the real one, and refused with a message on stderr and ENOTSUP:

  * image types other than `qcow2` and `aio`; `-e` (shared parent), `-r` (local cache), `-s`
    (standby), `-E` (encryption), `-t` of open and create (request timeout), a secondary that is not
    `nbd:`;
  * a secondary beside a log of changed blocks (`-C`, `-c`), with which the real one writes to the
    secondary alone; such a log that is too short for its disk;
  * a second vbd in one tapdisk; pausing a vbd that is not open.

Not as on the real one, and silent, since it shows only on the wire or in numbers:

  * no `nbd-old*`, `nbdserver*`, `nbdserver-new*`, `nbdclient*` sockets. A secondary that names a
    passed fd is therefore always an unknown one, and fails as that does (`nbd_mirror_failed` 1);
  * the NBD server is QEMU's: one export name (`tapdisk_client`), more transmission flags and
    commands, requests up to 32 MiB, 16 in flight, odd offsets and lengths served, errors as
    positive errno, read-only advertised. DISC closes the connection;
  * while a vbd is paused its NBD socket is moved away, so connecting fails with ENOENT (the real
    one lets the client wait). A client that is in the middle of the handshake when the pause begins
    may, once the pause ends, block the vbd until it closes: connect before, or after;
  * the secondary's client is QEMU's: OPT_GO first, at most 16 requests in flight (so that the real
    one's loss beyond 352 cannot happen here), and it connects again if an idle connection is
    closed. It waits without a bound for a target that accepts and stays silent;
  * no bit is set in a log of changed blocks: which they are, nobody may ask it (`dirty_log.py`);
  * stats: `hits`, `fail`, `secs` and what the aio driver says is pending stay 0; `reqs_outstanding`
    is 1 for any number of mirrored writes in flight, and 0 for requests that wait for the primary
    or for the end of a pause;
  * after a failed unpause the real one also forgets that a vbd was read-only; this one does not.
"""  # noqa: E501
