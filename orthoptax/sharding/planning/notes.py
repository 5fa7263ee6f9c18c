# SPDX-License-Identifier: Apache-2.0
"""What a plan says of each exchange, in words."""

from orthoptax.sharding.exchange import Exchange
from orthoptax.sharding.planning.cost import Cost


def notes(exchange: Exchange, cost: Cost) -> tuple[str, ...]:
    """Which matrices, how they travel, how even the work is, and what is too few.

    Args:
      exchange: who works on what.
      cost: of it alone.
    """
    shapes: dict[tuple[int, int], int] = {}
    for leaf in exchange.leaves:
        kind = leaf.kind
        stacks = kind.leaf.view.shapes((1, *kind.inputs[0].shape))
        shape = sum(rows for *_, rows, _ in stacks), stacks[0][-1]
        shapes[shape] = shapes.get(shape, 0) + leaf.units * kind.grain
    number = sum(shapes.values())
    each = ", ".join(f"{n} of {rows}x{cols}" for (rows, cols), n in shapes.items())
    some = f"{number} {'matrix' if number == 1 else 'matrices'}"
    if exchange.silent:
        return (f"{some} ({each}): whole where they are, nothing moves",)
    devices = exchange.spread * exchange.teams
    (work, size), ratio = cost.imbalance, cost.result_bytes / cost.floor
    even = f"busiest {work:.2f} x the mean work, {size:.2f} x the mean bytes"
    lines = [f"{some} ({each}): {_ways(exchange)}", f"{even}; {ratio:.2f} x the floor"]
    lines += [_team(exchange, k) for k, *_ in exchange.together]
    if number < devices and not exchange.gather and not exchange.together:
        lines.append(
            f"{some} for {devices} devices: at most {number} of {devices} busy, which "
            f"costs {work:.2f} x the time of even work and {ratio:.2f} x the floor"
        )
    return tuple(lines)


def _team(exchange: Exchange, kind: int) -> str:
    """Which matrices teams work on."""
    part, teams = exchange.fraction(kind), len(exchange.joint)
    units = sum(len(share.get(kind, ())) for share in exchange.joint)
    rows, cols = part.shapes[0]
    return (
        f"{units * part.kind.grain} of {rows}x{cols} by {teams} "
        f"team{'s' * (teams > 1)} of {exchange.team} devices, each with a fraction of "
        "the long side"
    )


def _ways(exchange: Exchange) -> str:
    """How matrices and devices come together."""
    cut, split = (" x ".join(axes) for axes in (exchange.cut, exchange.split))
    ways = []
    if exchange.gather:
        ways.append(
            f"gathered over {cut} on each of {exchange.spread} devices, as sharing out "
            "so few would move more"
        )
    elif cut:
        ways.append(f"exchanged over {cut} among {exchange.spread} devices")
    if split:
        ways.append(f"shared out over {split} among {exchange.teams} groups")
    return " and ".join(ways)
