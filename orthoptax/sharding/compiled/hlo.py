# SPDX-License-Identifier: Apache-2.0
"""Optimized HLO text as computations and operations; as much of it as counting needs.

Read: what CPU, GPU and TPU compilers print, with or without `%`, operand types, tiled
layouts (`{1,0:T(8,128)S(1)}`) and `/*index=5*/`. An operation in two halves (`x-start`,
`x-done`) becomes an `x` with the type of its result where it starts; the other half
keeps its name.
"""

import dataclasses
import math
import re
from typing import NamedTuple, TypeAlias

from orthoptax._check import message

WIDE = {"pred": 8, "c64": 64, "c128": 128, "token": 0, "opaque": 0}  # bits
HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) (?:\(.*)?\{$")
LINE = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)")
ARRAY = re.compile(r"\s*(\w+)\[([^\]]*)\](?:\{[^}]*\})?")
OPCODE = re.compile(r"\s*([\w\-]+)\(")
METADATA = re.compile(r'metadata=\{((?:[^{}"]|"(?:[^"\\]|\\.)*")*)\}')
QUOTED = r'"((?:[^"\\]|\\.)*)"'


@dataclasses.dataclass(frozen=True)
class Shape:
    """An array: its element type as HLO spells it, and its axes."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Bytes without padding; types of less than a byte are packed."""
        bits = WIDE.get(self.dtype)
        if bits is None:
            digits = re.search(r"\d+", self.dtype)
            bits = int(digits[0]) if digits else 0
        return -(-self.elements * bits // 8)


Type: TypeAlias = "Shape | tuple[Type, ...]"


def leaves(kind: Type) -> list[Shape]:
    """The arrays of a type, in order."""
    return [kind] if isinstance(kind, Shape) else [s for k in kind for s in leaves(k)]


class Operation(NamedTuple):
    """One line: `name = type opcode(operands), attributes`.

    argument: the text between the parentheses, which constants and parameters need.
    where: `op_name` of its metadata, the path of the Python call; "" if there is none.
    """

    name: str
    opcode: str
    type: Type
    operands: tuple[str, ...]
    argument: str
    attributes: str
    where: str

    @property
    def shapes(self) -> list[Shape]:
        """The arrays of the result."""
        return leaves(self.type)

    @property
    def target(self) -> str:
        """What a custom call calls; "" for other operations."""
        found = re.search(f"custom_call_target={QUOTED}", self.attributes)
        return found[1] if found else ""

    def called(self, *attributes: str) -> list[str]:
        """Names of the computations that these attributes hold, in their order."""
        names = "|".join(attributes)
        found = re.findall(rf"\b(?:{names})=(\{{[^}}]*\}}|%?[\w.\-]+)", self.attributes)
        return re.findall(r"[\w.\-]+", " ".join(found))

    def integers(self, attribute: str) -> tuple[int, ...]:
        """The integers of `attribute={0,1}`; () where it is missing."""
        found = re.search(rf"\b{attribute}=\{{([\d,]*)\}}", self.attributes)
        return tuple(map(int, re.findall(r"\d+", found[1]))) if found else ()


class Computation(NamedTuple):
    """Operations by name, and the name of the one whose result is the computation's."""

    operations: dict[str, Operation]
    root_name: str

    @property
    def root(self) -> Operation:
        """The operation whose result is the computation's."""
        return self.operations[self.root_name]

    def shape(self, operation: Operation, index: int) -> Shape:
        """The shape of an array that an operation takes."""
        return self.operations[operation.operands[index]].shapes[0]


class Module(NamedTuple):
    """Computations by name, the name of the first to run, and for how many devices."""

    computations: dict[str, Computation]
    entry: str
    devices: int


def parse(text: str) -> Module:
    """Reads the text of a compiled program.

    Args:
      text: what `compiled.as_text()` returned.
    Returns: a `Module`.
    Raises: ValueError for text without an entry computation.
    Example:
      >>> module = parse('''
      ... ENTRY main {
      ...   ROOT x = f32[2,3]{1,0:T(8,128)} parameter(0)
      ... }''')
      >>> module.computations["main"].root.type
      Shape(dtype='f32', dims=(2, 3))
    """
    computations: dict[str, Computation] = {}
    entry, name, root = "", "", ""
    operations: dict[str, Operation] = {}
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        header, found = HEADER.match(line), LINE.match(line)
        if header:
            name, operations, root = header[2], {}, ""
            entry = name if header[1] else entry
        elif found and name:
            operations[found[2]] = _operation(found[2], found[3])
            root = found[2] if found[1] else root
        elif line.startswith("}") and name:
            computations[name] = Computation(operations, root)
            name = ""
    if entry not in computations:
        raise ValueError(
            message(
                "count",
                "the text has no entry computation",
                "optimized HLO",
                "Pass jax.jit(f).lower(...).compile(), or the text of its as_text()",
            )
        )
    first = re.search(r"^HloModule.*", text, re.MULTILINE)
    devices = re.findall(
        r"\b(?:num_partitions|replica_count)=(\d+)", first[0] if first else ""
    )
    return Module(computations, entry, math.prod(map(int, devices)))


def _operation(name: str, text: str) -> Operation:
    """An operation from what stands right of its equals sign."""
    try:
        kind, at = _type(text, 0)
    except (IndexError, ValueError):
        kind, at = (), 0
    found = OPCODE.match(text, at)
    if found is None or not at:
        raise ValueError(
            message(
                "count",
                f"operation {name!r} cannot be read from {text[:80]!r}",
                "type opcode(operands), attributes",
                "Pass the text of as_text() as it is",
            )
        )
    opcode, argument = found[1], _enclosed(text, found.end())
    rest = text[found.end() + len(argument) + 1 :]
    metadata = METADATA.search(rest)
    where = re.search(f"op_name={QUOTED}", metadata[1]) if metadata else None
    if opcode.endswith("-start") and isinstance(kind, tuple) and len(kind) > 1:
        # (operand, result, ...); an all-reduce keeps to its result, unless wrapped.
        plain = opcode == "all-reduce-start" and not isinstance(kind[0], tuple)
        kind = kind if plain else kind[1]
    return Operation(
        name,
        opcode.removesuffix("-start"),
        kind,
        tuple(re.findall(r"([^\s,%]+)\s*(?:,|$)", _flat(argument))),
        argument,
        METADATA.sub("", rest),
        where[1] if where else "",
    )


def _type(text: str, at: int) -> tuple[Type, int]:
    """The type that starts at a place, and where it ends."""
    array = ARRAY.match(text, at)
    if array:
        dims = tuple(map(int, re.findall(r"\d+", array[2])))
        return Shape(array[1], dims), array.end()
    parts: list[Type] = []
    at = text.index("(", at) + 1
    while text[at] != ")":
        part, at = _type(text, at)
        parts.append(part)
        at += text.startswith(",", at)
    return tuple(parts), at + 1


def _enclosed(text: str, start: int) -> str:
    """What stands before the parenthesis that closes the one before `start`."""
    depth = 1
    for found in re.compile(r"[()]").finditer(text, start):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return text[start : found.start()]
    return text[start:]


def _flat(argument: str) -> str:
    """Operands without their types, whose commas separate axes."""
    argument = re.sub(r"\{[^{}]*\}|\[[^\]]*\]", "", argument)
    while "(" in argument:
        shorter = re.sub(r"\([^()]*\)", "", argument)
        if shorter == argument:
            break
        argument = shorter
    return argument
