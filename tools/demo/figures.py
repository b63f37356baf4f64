"""Figures beside their targets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A measured share or mean, and what it has to reach."""

    name: str
    value: float
    target: float | None = None
    """None for what is only reported."""
    most: bool = False
    """Whether the target is the most that the value may be, not the least."""
    note: str = ""

    @property
    def reached(self) -> bool:
        if self.target is None:
            return True
        return self.value <= self.target if self.most else self.value >= self.target

    def __str__(self) -> str:
        """One line.

        >>> print(Figure("found", 0.97, 0.99, note="of 300"))
        found                                             0.970   >= 0.990   MISSED    of 300
        """
        bound = "" if self.target is None else f"{'<=' if self.most else '>='} {self.target:.3f}"
        verdict = "" if self.target is None else "reached" if self.reached else "MISSED"
        return f"{self.name:<48}  {self.value:.3f}   {bound:<8}   {verdict:<7}   {self.note}".rstrip()


def share(name: str, right: Iterable[bool], target: float | None = None, what: str = "") -> Figure:
    """The share of what is right; 0 of nothing, so that nothing measured is nothing reached."""
    verdicts = list(right)
    value = sum(verdicts) / len(verdicts) if verdicts else 0.0
    return Figure(name, value, target, note=f"of {len(verdicts)} {what}".rstrip())
