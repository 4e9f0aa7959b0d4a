"""The table of ``benchmarks.service`` and what it has to say about the goals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.load_generator import LoadFigures
from benchmarks.reports import Goal, Spread, goals_table, table
from benchmarks.sides import REFERENCE

# A reference slower than that on two cores is a bad one, or had a bad day: it would flatter ours.
_HONEST_TEXTS_PER_S = 0.6
_CHECKED_AT = "4x2"
_FLAT = 0.90
_SHARE_OF_PEAK_RSS = 1 / 3
_TIMES: dict[tuple[str, str], tuple[float, float]] = {
    ("4x2", "bf16"): (3.4, 4),
    ("4x2", "int8"): (5, 7),
    ("16x4", "bf16"): (7, 8),
    ("16x4", "int8"): (10, 14),
}
_TIMES_SHORT = {"bf16": 4.0, "int8": 7.0}
_PROMISED_SIDES = ("bf16", "int8")
_PROMISED_SETTINGS = ("4x2", "8x4", "16x4", "32x8")
# On a CUDA device the goal is a rate, of texts of this length.
_CUDA_SIDE, _CUDA_TEXTS_PER_S, _CUDA_TOKENS = "bf16", 1500, 550


@dataclass(frozen=True, slots=True)
class Cell:
    """One side at one setting in one round; without a load if the server did not survive it."""

    side: str
    setting: str
    round: int
    load: LoadFigures | None
    peak_rss: int
    spent: Mapping[str, float]
    """What our server's model did for the load, as its ``/health`` counts; empty of others."""
    failure: str = ""

    @property
    def filling(self) -> float | None:
        """Share of the tokens computed that were there to fill passes up."""
        computed = self.spent.get("padded_tokens")
        return 1 - self.spent["tokens"] / computed if computed else None

    @property
    def busy_share(self) -> float | None:
        """Share of the load's seconds in which the model computed."""
        busy_s = self.spent.get("busy_s")
        return busy_s / self.load.seconds if busy_s and self.load else None


@dataclass(frozen=True, slots=True)
class Report:
    """All cells of one model."""

    model: str
    kind: str
    """Of the model, as in ``benchmarks.sides.Model``: whose goals it is held to."""
    device: str
    cells: list[Cell]

    def text(self) -> str:
        """Return the table, the goals that it speaks to, and a warning if it is worth nothing."""
        parts = [f"{self.model}: medians (least–most) of rounds side by side", self._table()]
        parts.append(goals_table(self.goals()))
        failures = [
            f"round {c.round + 1}, left out: {c.side} {c.setting}: {c.failure}"
            for c in self.cells
            if c.failure
        ]
        invalid = [f"INVALID: {why}" for why in self.invalid()]
        return "\n\n".join(parts + failures + invalid) + "\n"

    def goals(self) -> list[Goal]:
        """Return all that was promised of this model here, measured or not."""
        if self.device == "cuda":
            return [self._goal_cuda()]
        if self.kind == "minilm":
            return self._goals_short() + self._flat()
        if self.kind == "nomic":
            return self._goals_long() + self._flat()
        return self._flat()

    def invalid(self) -> list[str]:
        """Return why the figures are worth nothing; nothing where they are worth something."""
        if self.kind != "nomic" or self.device != "cpu":
            return []
        rates = [load.texts_per_s for load in self._loads(REFERENCE, _CHECKED_AT).values()]
        if not rates:
            return [f"the reference made nothing at {_CHECKED_AT}, where it is checked"]
        found = Spread.of(rates)
        if found.middle >= _HONEST_TEXTS_PER_S:
            return []
        return [
            f"the reference made {found} texts/s at {_CHECKED_AT}, and makes at least "
            f"{_HONEST_TEXTS_PER_S} on two cores that do nothing else"
        ]

    def _table(self) -> str:
        headings = ["side", "setting", "texts/s", "tokens/s", "× reference", "p50 s", "peak MiB"]
        rows = [self._row(side, setting) for setting in self._settings() for side in self._sides()]
        return table([*headings, "filling", "model busy", "refusals"], rows)

    def _row(self, side: str, setting: str) -> list[str]:
        cells, loads = self._whole(side, setting), self._loads(side, setting).values()
        if not loads:
            return [side, setting, *["-"] * 8]
        ratio = None if side == REFERENCE else self._ratio((side, setting), (REFERENCE, setting))
        filling = [cell.filling for cell in cells if cell.filling is not None]
        busy = [cell.busy_share for cell in cells if cell.busy_share is not None]
        return [
            side,
            setting,
            str(Spread.of([load.texts_per_s for load in loads])),
            str(Spread.of([load.tokens_per_s for load in loads])),
            str(ratio) if ratio else "-",
            str(Spread.of([load.p50_s for load in loads])),
            str(Spread.of([cell.peak_rss / 2**20 for cell in cells])),
            f"{max(filling):.1%}" if filling else "-",
            str(Spread.of(busy)) if busy else "-",
            str(sum(load.refusals for load in loads)),
        ]

    def _goals_long(self) -> list[Goal]:
        goals = []
        for (setting, side), (bound, beyond) in _TIMES.items():
            ours, theirs = (side, setting), (REFERENCE, setting)
            claim = f"{side} at {setting}, times the reference"
            lacks = self._lacks([ours, theirs])
            goals.append(
                Goal(claim, _middle(self._ratio(ours, theirs)), bound, beyond, lacks=lacks)
            )
        return goals + [self._goal_peak(side) for side in _PROMISED_SIDES]

    def _goal_peak(self, side: str) -> Goal:
        """Of medians: the highest of three rounds would be the unluckiest of either side."""
        ours, theirs = (
            [cell.peak_rss for cell in self._whole(name, "16x4")] for name in (side, REFERENCE)
        )
        share = median(ours) / median(theirs) if ours and theirs else None
        claim = f"{side}: peak RSS at 16x4, share of the reference's"
        lacks = self._lacks([(side, "16x4"), (REFERENCE, "16x4")])
        return Goal(claim, share, _SHARE_OF_PEAK_RSS, at_most=True, lacks=lacks)

    def _goals_short(self) -> list[Goal]:
        theirs = REFERENCE, self._best(REFERENCE)
        every = [(REFERENCE, setting) for setting in self._settings()]
        goals = []
        for side, bound in _TIMES_SHORT.items():
            ours = side, self._best(side)
            claim = f"{side} at {ours[1]}, times the reference at {theirs[1]}"
            # A failed setting of the reference might have been its best.
            lacks = self._lacks([ours, *every])
            goals.append(Goal(claim, _middle(self._ratio(ours, theirs)), bound, lacks=lacks))
        return goals

    def _goal_cuda(self) -> Goal:
        best = _CUDA_SIDE, self._best(_CUDA_SIDE)
        rates = [load.tokens_per_s for load in self._loads(*best).values()]
        found = median(rates) / _CUDA_TOKENS if rates else None
        claim = f"{_CUDA_SIDE}: texts/s of {_CUDA_TOKENS} tokens, at the best setting"
        return Goal(claim, found, _CUDA_TEXTS_PER_S, lacks=self._lacks([best]))

    def _flat(self) -> list[Goal]:
        """In tokens: the texts of two settings need not be the same."""
        goals = []
        settings = list(dict.fromkeys([*_PROMISED_SETTINGS, *self._settings()]))
        ours = [side for side in self._sides() if side != REFERENCE]
        for side in dict.fromkeys([*_PROMISED_SIDES, *ours]):
            rates = [self._rate(side, setting) for setting in settings]
            middles = [rate for rate in rates if rate is not None]
            share = min(middles) / max(middles) if len(middles) == len(rates) else None
            claim = f"{side}: worst setting against the best, tokens/s"
            lacks = self._lacks([(side, setting) for setting in settings])
            goals.append(Goal(claim, share, _FLAT, lacks=lacks))
        return goals

    def _ratio(self, ours: tuple[str, str], theirs: tuple[str, str]) -> Spread | None:
        """Return the ratio of the rounds that both survived; None if there are none."""
        over, under = self._loads(*ours), self._loads(*theirs)
        both = [number for number in over if number in under]
        if not both:
            return None
        return Spread.of_ratios(
            [over[number].tokens_per_s for number in both],
            [under[number].tokens_per_s for number in both],
        )

    def _lacks(self, needed: Sequence[tuple[str, str]]) -> str:
        """Return how many rounds lack one of these sides and settings; empty if none does."""
        rounds = {cell.round for cell in self.cells}
        loads = [self._loads(*each) for each in needed]
        lacking = sum(any(number not in each for each in loads) for number in rounds)
        return f"{lacking} of {len(rounds)} rounds" if lacking else ""

    def _best(self, side: str) -> str:
        """Return the setting with the highest median rate; ``-`` if there is none."""
        rates = {setting: self._rate(side, setting) for setting in self._settings()}
        return max(rates, key=lambda setting: rates[setting] or 0.0, default="-")

    def _rate(self, side: str, setting: str) -> float | None:
        rates = [load.tokens_per_s for load in self._loads(side, setting).values()]
        return median(rates) if rates else None

    def _loads(self, side: str, setting: str) -> dict[int, LoadFigures]:
        """Return what the server survived, by round."""
        cells = self._whole(side, setting)
        return {cell.round: cell.load for cell in cells if cell.load is not None}

    def _whole(self, side: str, setting: str) -> list[Cell]:
        return [
            cell
            for cell in self.cells
            if (cell.side, cell.setting) == (side, setting) and cell.load is not None
        ]

    def _settings(self) -> list[str]:
        return _distinct(self.cells, lambda cell: cell.setting)

    def _sides(self) -> list[str]:
        return _distinct(self.cells, lambda cell: cell.side)


def _middle(ratio: Spread | None) -> float | None:
    return ratio.middle if ratio else None


def _distinct(cells: Sequence[Cell], of: Callable[[Cell], str]) -> list[str]:
    """Return the values of ``of`` in the order in which they come up."""
    return list(dict.fromkeys(of(cell) for cell in cells))
