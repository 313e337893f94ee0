# SPDX-License-Identifier: LGPL-2.1-only
"""Samples as tables of Markdown: ratios, and what a MiB or a write costs. {name: text} is what a
result has; docs/performance.md has a place for each name."""

from bench import downtime, mirroring, peers, switch
from bench.rounds import names, of, ratios, spread

DASH = "–"
LATENCIES = (("median latency", "p50"), ("p99 latency", "p99"))


def table(head, rows):
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| %s |" % " | ".join(line) for line in lines)


def number(value):
    """A number in three digits or so."""
    return "%.3g" % value if value < 99.5 else "%.0f" % value


def ranged(found):
    """A Spread: its median, and behind it the least and the greatest."""
    if found is None:
        return DASH
    if found.least == found.greatest:
        return "**%s**" % number(found.median)
    return "**%s** (%s–%s)" % tuple(map(number, found))


def one_of(samples, found):
    """The Spread `found`, or why there is none."""
    errors = [sample["error"] for sample in samples if "error" in sample]
    return errors[0].partition(":")[0] if errors else ranged(found)


def seconds(sample):
    return sample.get("seconds")


def copies(result, base=peers.BASE):
    """Time of a copy / time of the base's: contestants by scenarios. Seconds, where the base did
    not come to its end."""
    samples = result["copy"]
    scenarios, rows = names(samples, "scenario"), []
    for name in names(samples, "contestant"):
        cells = []
        for scenario in scenarios:
            here = of(samples, scenario=scenario)
            mine = of(here, contestant=name)
            found = ratios(here, base, seconds).get(name)
            absolute = spread(map(seconds, mine))
            cells.append(one_of(mine, found) if found or not absolute else ranged(absolute) + " s")
        rows.append([name, *cells])
    return table(["time / time of %s" % base, *scenarios], rows)


def base_of_copies(result, base=peers.BASE):
    """The one line of absolute figures."""
    told = []
    for scenario in names(result["copy"], "scenario"):
        samples = of(result["copy"], scenario=scenario, contestant=base)
        rates = [sample["mib"] / sample["seconds"] for sample in samples if sample["seconds"]]
        if rates:
            told.append("%s: %.0f MiB/s of data" % (scenario, spread(rates).median))
    return "1.00, %s, was here: %s." % (base, "; ".join(told))


def _roles(samples):
    """All roles of some samples, in the order in which they are met."""
    return list(dict.fromkeys(role for sample in samples for role in sample["usage"]))


def _usage(samples, role, value):
    """The median of value(usage of that role) over samples; None if it has no such role."""
    found = spread(value(sample, sample["usage"].get(role)) for sample in samples)
    return found and found.median


def _cpu(unit):
    """A function for `_usage`: milliseconds of CPU for each `unit` (a key of the sample)."""
    return lambda sample, used: used and 1000 * used["cpu"] / sample[unit]


def _costs(samples, value, total, cell):
    """[contestant, all roles together, each role]: rows with the median of each."""
    rows = []
    for name in names(samples, "contestant"):
        mine = [sample for sample in of(samples, contestant=name) if sample["usage"]]
        if not mine:
            continue
        parts = [(role, _usage(mine, role, value)) for role in _roles(mine)]
        parts = [(role, part) for role, part in parts if part is not None]
        rows.append(
            [
                name,
                cell(total(part for _, part in parts)),
                ", ".join("%s %s" % (role, cell(part)) for role, part in parts),
            ]
        )
    return rows


def cost_of_copies(result):
    """CPU of each process, ms per MiB, of the first scenario."""
    samples = of(result["copy"], scenario=names(result["copy"], "scenario")[0])
    rows = _costs(samples, _cpu("mib"), sum, lambda part: "%.2f" % part)
    return table(["CPU, ms per MiB", "together", "of which"], rows)


def memory_of_copies(result):
    """Peak memory, MiB, of one disk's copy and of the most disks'."""
    scenarios = names(result["copy"], "scenario")
    many = [name for name in scenarios if "disks" in name]
    rows = []
    for scenario in [scenarios[0], *many[-1:]]:
        for name, together, parts in _costs(
            of(result["copy"], scenario=scenario),
            lambda _, used: used and sum(used["rss"]) / 1024,
            sum,
            lambda part: "%.0f" % part,
        ):
            rows.append([scenario, name, together, parts])
    return table(["", "peak RSS, MiB", "together", "of which, all of a kind together"], rows)


def _mirrors(result, beside, value, base):
    samples = [sample for sample in result["mirror"] if sample["beside"] is beside]
    loads, rows = names(samples, "scenario"), []
    for name in names(samples, "contestant"):
        cells = []
        for load in loads:
            here = of(samples, scenario=load)
            cells.append(one_of(of(here, contestant=name), ratios(here, base, value).get(name)))
        rows.append([name, *cells])
    return loads, rows


def _of(key):
    return lambda sample: sample.get(key)


def _longest(sample):
    return sample["longest"] / 1000 if "longest" in sample else None


def mirrors(result):
    """The median latency, and the writes a second, alone: / those of the base."""
    text = []
    for what, key in (
        ("median latency", "p50"),
        ("p99 latency", "p99"),
        ("writes a second", "iops"),
    ):
        loads, rows = _mirrors(result, False, _of(key), mirroring.BASE)
        text.append(table(["%s / %s" % (what, mirroring.BASE), *loads], rows))
    return "\n\n".join(text)


def base_of_mirrors(result):
    """The one line of absolute figures."""
    told = []
    for load in names(result["mirror"], "scenario"):
        samples = of(result["mirror"], scenario=load, beside=False, contestant=mirroring.BASE)
        found = spread(sample.get("p50") for sample in samples)
        if found:
            told.append("%s: p50 %.0f µs" % (load, found.median))
    return "1.00, %s, was here: %s." % (mirroring.BASE, "; ".join(told))


def beside(result):
    """The guest's latency beside a copy / its own without one, and how fast the copy is meanwhile
    / the base's."""
    samples, text = result["mirror"], []
    loads = names([one for one in samples if one["beside"]], "scenario")
    rows = []
    for name in names([one for one in samples if one["beside"]], "contestant"):
        cells = []
        for load in loads:
            mine = of(samples, scenario=load, contestant=name)
            alone = {one["round"]: one.get("p50") for one in of(mine, beside=False)}
            with_copy = of(mine, beside=True)
            cells.append(
                one_of(
                    with_copy,
                    spread(
                        one["p50"] / alone[one["round"]]
                        for one in with_copy
                        if one.get("p50") and alone.get(one["round"])
                    ),
                )
            )
        rows.append([name, *cells])
    text.append(table(["median latency beside a copy / without one, of the same", *loads], rows))
    for what, key in (
        ("median latency beside a copy", "p50"),
        ("p99 latency beside a copy", "p99"),
    ):
        loads, rows = _mirrors(result, True, _of(key), mirroring.BASE)
        text.append(table(["%s / %s" % (what, mirroring.BASE), *loads], rows))
    rows = []
    for name in names([one for one in samples if one["beside"]], "contestant"):
        own = [of(samples, scenario=load, contestant=name, beside=True) for load in loads]
        rows.append([name, *(one_of(found, spread(map(_longest, found))) for found in own)])
    text.append(table(["longest write beside a copy, ms", *loads], rows))
    loads, rows = _mirrors(result, True, _of("copy_seconds"), mirroring.BASE)
    rows = [
        [row[0]] + [cell if cell != DASH else "did not end" for cell in row[1:]] for row in rows
    ]
    text.append(table(["time of the copy meanwhile / %s" % mirroring.BASE, *loads], rows))
    return "\n\n".join(text)


def cost_of_writes(result):
    """CPU of each process, µs per write, and its peak memory, of the first load."""
    first = names(result["mirror"], "scenario")[0]
    samples = of(result["mirror"], scenario=first, beside=False)
    cpu = _costs(
        samples,
        lambda sample, used: used and 1e6 * used["cpu"] / sample["writes"],
        sum,
        lambda part: "%.0f" % part,
    )
    memory = _costs(
        samples, lambda _, used: used and sum(used["rss"]) / 1024, sum, lambda part: "%.0f" % part
    )
    return "%s\n\n%s" % (
        table(["CPU, µs per write (%s)" % first, "together", "of which"], cpu),
        table(["peak RSS, MiB (%s)" % first, "together", "of which"], memory),
    )


def downtimes(result):
    """Total time and pause by the guest's rate, in times of what the disk takes over the link."""
    samples = result["downtime"]
    rows = []
    for where in names(samples, "scenario"):
        for rate in names(of(samples, scenario=where), "rate"):
            here = of(samples, scenario=where, rate=rate)
            row = [where, "%.0f%%" % (100 * rate)]
            for name in (downtime.OURS, downtime.DIRTY):
                mine = of(here, contestant=name)
                late = [one for one in mine if one.get("stopped") in ("anyway", "never")]
                total = one_of(mine, spread(one.get("seconds") for one in mine))
                row += [
                    total + (" *" if late else ""),
                    ranged(spread(one.get("pause") for one in mine)),
                    share(mine),
                ]
            rows.append(row)
    head = ["guest writes to", "its rate / the link's"]
    for name in (downtime.OURS, downtime.DIRTY):
        head += ["%s: s in all" % name, "s paused", "guest got"]
    return table(head, rows) + (
        "\n\n\\* It did not come to its end by itself, and the guest was stopped at %g times what"
        " a disk at rest takes." % downtime.PATIENCE
    )


def share(samples):
    """What the guest could write meanwhile, as a part of what it wanted."""
    found = spread(
        one["written"] / one["asked"] for one in samples if one.get("written") and one["asked"]
    )
    return "%.0f%%" % (100 * found.median) if found else DASH


def switches(result):
    """What storage costs of the pause: by both, and what ours adds; of that, SM's own commands."""
    samples, rows = result["switch"], []
    for scenario in names(samples, "scenario"):
        here = of(samples, scenario=scenario)
        ours, shared = (of(here, contestant=one) for one in (switch.OURS, switch.SHARED))
        rows.append(
            [
                scenario,
                *(
                    one_of(mine, spread(sample.get(key) for sample in mine))
                    for mine in (ours, shared)
                    for key in ("seconds", "deactivate", "activate")
                ),
                ranged(spread(_added(ours, shared))),
            ]
        )
    parts = ["s", "deactivate", "activate"]
    head = ["", *(name + ": " + part for name in (switch.OURS, switch.SHARED) for part in parts)]
    return table([*head, "ours adds, s"], rows)


def _added(ours, shared):
    """Seconds that ours took longer, by rounds."""
    stock = {sample["round"]: sample.get("seconds") for sample in shared}
    for sample in ours:
        if sample.get("seconds") is not None and stock.get(sample["round"]) is not None:
            yield sample["seconds"] - stock[sample["round"]]


def shares(result):
    """Of several copies at once: what each had when half of all was there, and when they ended."""
    rows = []
    for scenario in names(result["shares"], "scenario"):
        here = [one for one in of(result["shares"], scenario=scenario) if "error" not in one]
        halves = [part for sample in here for part in sample["half"]]
        ends = [end / sample["ends"][-1] for sample in here for end in sample["ends"][:1]]
        rows.append([scenario, ranged(spread(halves)), ranged(spread(ends))])
    return table(["", "of its own, when half of all is copied", "first end / last end"], rows)


def extents(result):
    """Seconds to learn what of a VHD holds data."""
    samples = result["extents"]
    scenarios = names(samples, "scenario")
    rows = [
        [
            name,
            *(
                one_of(found, spread(sample.get("seconds") for sample in found))
                for found in (of(samples, scenario=case, contestant=name) for case in scenarios)
            ),
        ]
        for name in names(samples, "contestant")
    ]
    return table(["s", *scenarios], rows)


def rounds_of(samples):
    """How many rounds the scenarios had, for people: "3 rounds", "2 to 3 rounds"."""
    counts = [
        len(names(of(samples, scenario=name), "round")) for name in names(samples, "scenario")
    ]
    if max(counts) == 1:
        return "1 round"
    return "%s rounds" % " to ".join(map(str, sorted({min(counts), max(counts)})))


def machine(part):
    """A function of a result: on what that part of it was run, which may be another run than that
    of the others."""

    def told(result):
        run = result["runs"][part]
        facts = [
            "%s %s" % item if " " not in item[0] else "%s: %s" % item
            for item in run["machine"].items()
        ]
        return "%s. Engine: %s. %s. %s; %s, %.0f minutes." % (
            run["when"],
            run["engine"],
            "; ".join(facts),
            rounds_of(result[part]),
            run["effort"],
            run["minutes"],
        )

    return told


def peers_of(result):
    """What each peer of the copies does besides."""
    mark = {True: "yes", False: "no"}
    present = names(result["copy"], "contestant")
    rows = [
        [peer.name, mark[peer.encrypts], mark[peer.verifies], mark[peer.mirrors]]
        for peer in peers.PEERS
        if peer.name in present
    ]
    text = table(["", "encrypts", "verifies", "mirrors meanwhile"], rows)
    missing = [
        peer.name
        for peer in peers.PEERS
        if result["engine_name"] in peer.engines and peer.name not in present
    ]
    return text + "".join("\n\n**%s was not installed, and did not run.**" % it for it in missing)


ALL = (  # name, what it needs of a result, function
    ("copy-machine", "copy", machine("copy")),
    ("mirror-machine", "mirror", machine("mirror")),
    ("downtime-machine", "downtime", machine("downtime")),
    ("switch-machine", "switch", machine("switch")),
    ("shares-machine", "shares", machine("shares")),
    ("extents-machine", "extents", machine("extents")),
    ("peers", "copy", peers_of),
    ("copy", "copy", copies),
    ("copy-base", "copy", base_of_copies),
    ("copy-cpu", "copy", cost_of_copies),
    ("copy-memory", "copy", memory_of_copies),
    ("mirror", "mirror", mirrors),
    ("mirror-base", "mirror", base_of_mirrors),
    ("mirror-beside", "mirror", beside),
    ("mirror-cost", "mirror", cost_of_writes),
    ("downtime", "downtime", downtimes),
    ("switch", "switch", switches),
    ("shares", "shares", shares),
    ("extents", "extents", extents),
)


def render(result):
    """{name: Markdown} of all tables for which the result has samples."""
    return {name: make(result) for name, need, make in ALL if result.get(need)}
