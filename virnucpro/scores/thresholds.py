"""From probabilities to words: the user's thresholds."""

from dataclasses import dataclass
from typing import Literal

VIRUS, UNCERTAIN = "virus", "uncertain"
PresetName = Literal["conservative", "relaxed"]

VIRAL = 0.5  # p_virus above which a chunk is viral


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a record must reach to be called a virus; without any, the model's own call stands."""

    min_score: float | None = None  # least `p_virus` of a virus; None leaves it to the model
    max_fdr: float | None = None  # greatest `fdr` of a virus
    # nothing becomes a virus that the model does not call one, such as a sequence unlike any in
    # training, however it scores
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
        """
        is_virus, is_low = model_call == VIRUS, False
        if self.min_score is not None:
            is_low = p_virus < self.min_score
            is_virus = is_virus or not (is_low or self.only_stricter)
        if not is_virus:
            return model_call
        return UNCERTAIN if is_low or (self.max_fdr is not None and fdr > self.max_fdr) else VIRUS


PRESETS: dict[PresetName, Thresholds] = {
    "conservative": Thresholds(min_score=0.9, max_fdr=0.05, only_stricter=True),
    "relaxed": Thresholds(min_score=0.5),
}
