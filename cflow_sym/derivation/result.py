"""What a step finds, as a type: a part of the theory and whose it is, with the name by which notes and users ask."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Part(Enum):
    """The parts of the theory that have several results; the value begins their names."""

    STABLE = "stable"  # rates by variable: of flows, ...
    ANSATZ = "ansatz"
    CENTRAL = "central"
    REDUCED = "reduced"
    ABLATED = "ablated"
    CENTRE = "centre"
    LEAP = "leap"  # ... and of one step of the leapfrog
    LEAP_AVERAGE = "leap_average"
    INCREMENT = "increment"  # what one step of the optimizer adds to a state
    PUBLISHED = "published"
    MEMORY = "memory"  # values by variable
    START = "start"
    DIRECTION = "direction"
    LATE = "late"
    EDGE = "edge"
    STATIONARY = "stationary"
    PREDICTED = "predicted"  # results by names of their own
    REMAINDER = "remainder"
    LIMIT = "limit"
    THEOREM = "theorem"

    def of(self, variable: str, kind: str = "") -> Result:
        """Return this part's result for a variable, of one kind where it has several.

        >>> Part.STABLE.of("w").key, Part.REMAINDER.of("nu", "cross").key
        ('stable_w', 'remainder_cross_nu')
        """
        return Result(kind, variable, self)

    def named(self, name: str) -> Result:
        """Return this part's result of that name.

        >>> Part.THEOREM.named("descent").key
        'theorem_descent'
        """
        return Result(name, part=self)


@dataclass(frozen=True)
class Result:
    """What a step finds: the result of one kind, of a variable and in a part of the theory where it has these.

    >>> Result("threshold").key
    'threshold'
    """

    kind: str
    variable: str = ""
    part: Part | None = None

    @property
    def key(self) -> str:
        """The name in the derivation, as in `derivation["stable_w"]`."""
        return _joined(self.family, self.variable)

    @property
    def family(self) -> str:
        """The name without the variable: of what is found alike for every variable."""
        return _joined(self.part.value if self.part else "", self.kind)

    @property
    def name(self) -> str:
        """The name within the part, as in `derivation.stable_flow["w"]`."""
        return _joined(self.kind, self.variable)


def _joined(*words: str) -> str:
    return "_".join(filter(None, words))
