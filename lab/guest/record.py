# SPDX-License-Identifier: LGPL-2.1-only
"""What the guest was told is safe: the generation of every sector that was acknowledged, one disk
each."""

import array
import base64
import json
import zlib

from lab.guest import content

EXAMPLES = 20
"""So many wrong sectors are described; the rest are only counted."""


class Record:
    """The acknowledged generations of one disk. Not locked: its disk does that."""

    def __init__(self, key, sectors):
        """`key`: see content.disk_key; `sectors`: the size of the disk in sectors of 512 bytes."""
        self.key = key
        self.generations = array.array("I", bytes(array.array("I").itemsize * sectors))
        self.uncertain = set()
        """Sectors of a write that failed: old or new, no promise was given."""

    @property
    def sectors(self):
        return len(self.generations)

    def next_content(self, first, count):
        """(generations, bytes) of the next write to these sectors."""
        generations = [generation + 1 for generation in self.generations[first : first + count]]
        return generations, content.extent_bytes(self.key, first, generations)

    def acknowledge(self, first, generations):
        """The write of `generations` from sector `first` on is safe, says the disk."""
        self.generations[first : first + len(generations)] = array.array("I", generations)
        if self.uncertain:
            self.uncertain.difference_update(range(first, first + len(generations)))

    def doubt(self, first, generations):
        """That write failed: its sectors hold the old or the new generation. Nothing is skipped
        afterwards: the next generation must differ from both."""
        self.acknowledge(first, generations)
        self.uncertain.update(range(first, first + len(generations)))

    def wrong(self, first, data):
        """The sectors from `first` whose bytes `data` are not what was acknowledged: [(sector,
        expected, found)]."""
        generations = self.generations[first : first + len(data) // content.SECTOR]
        if not self.uncertain and data == content.extent_bytes(self.key, first, generations):
            return []
        wrong = []
        for index, expected in enumerate(generations):
            sector = first + index
            found = data[index * content.SECTOR : (index + 1) * content.SECTOR]
            if sector not in self.uncertain and found != content.sector_bytes(
                self.key, sector, expected
            ):
                wrong.append((sector, expected, content.generation_of(self.key, sector, found)))
        return wrong

    def learn(self, first, data):
        """Take what stands on the disk as the truth (at a boot, when nothing is remembered); how
        many sectors are neither blank nor ours, which are doubted from then on."""
        foreign = 0
        if not data.strip(b"\0"):
            return foreign
        for index in range(len(data) // content.SECTOR):
            sector = first + index
            generation = content.generation_of(
                self.key, sector, data[index * content.SECTOR : (index + 1) * content.SECTOR]
            )
            if generation == content.FOREIGN:
                foreign += 1
                self.uncertain.add(sector)
            else:
                self.generations[sector] = generation
        return foreign

    def pack(self):
        """This record as JSON values, compressed."""
        packed = zlib.compress(self.generations.tobytes(), 1)
        return {
            "sectors": self.sectors,
            "generations": base64.b64encode(packed).decode(),
            "uncertain": sorted(self.uncertain),
        }

    @classmethod
    def unpack(cls, key, packed):
        """The record that `pack` gave."""
        record = cls(key, packed["sectors"])
        record.generations = array.array("I")
        record.generations.frombytes(zlib.decompress(base64.b64decode(packed["generations"])))
        record.uncertain = set(packed["uncertain"])
        return record


def dump(memory):
    """A guest's memory (JSON values) as bytes."""
    return json.dumps(memory, separators=(",", ":")).encode()


def load(raw):
    """The memory that `dump` gave."""
    return json.loads(raw.decode())
