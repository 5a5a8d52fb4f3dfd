"""From a probability to a word: what the user's thresholds change, and what they leave alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

VIRUS, UNCERTAIN = "virus", "uncertain"
PresetName = Literal["conservative", "relaxed"]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a record must reach to be called a virus; without any, the model's own call stands.

    Attributes:
        min_score: least `p_virus` of a virus; None leaves it to the model.
        max_fdr: greatest `fdr` of a virus; None asks for nothing.
        only_stricter: nothing becomes a virus that the model does not call one, such as a
            sequence unlike any in training, however it scores.
    """

    min_score: float | None = None
    max_fdr: float | None = None
    only_stricter: bool = False

    def __post_init__(self) -> None:
        for name in ("min_score", "max_fdr"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must lie between 0 and 1, got {value}")

    def call(self, model_call: str, p_virus: float, fdr: float) -> str:
        """The call of a scored record.

        What reaches `min_score` is a virus (unless `only_stricter`), and what the model calls
        one but does not reach it is uncertain. A virus above `max_fdr` becomes uncertain.

        >>> Thresholds(min_score=0.9).call("virus", p_virus=0.8, fdr=0.1)
        'uncertain'
        """
        call = model_call
        if self.min_score is not None:
            if p_virus < self.min_score:
                call = UNCERTAIN if call == VIRUS else call
            elif not self.only_stricter:
                call = VIRUS
        if call == VIRUS and self.max_fdr is not None and fdr > self.max_fdr:
            return UNCERTAIN
        return call


PRESETS: dict[PresetName, Thresholds] = {
    "conservative": Thresholds(min_score=0.9, max_fdr=0.05, only_stricter=True),
    "relaxed": Thresholds(min_score=0.5),
}


def thresholds(
    preset: PresetName | None, min_score: float | None = None, max_fdr: float | None = None
) -> Thresholds:
    """A preset, with thresholds given by number in place of its own.

    Raises:
        ValueError: a threshold is not between 0 and 1.
    """
    base = PRESETS[preset] if preset else Thresholds()
    return replace(
        base,
        min_score=base.min_score if min_score is None else min_score,
        max_fdr=base.max_fdr if max_fdr is None else max_fdr,
    )
