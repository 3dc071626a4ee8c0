"""Which stage limits a run, and by how much: from rates to words."""

from dataclasses import dataclass

FED = 0.05  # fraction lost against the model alone; on a shared machine, less is within the noise


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """Images/s over all ranks, medians."""

    alone: float
    """The model, with batches that are on the device already."""
    cached: float
    """The model, with batches of the loader that are in host memory already."""
    fed: float
    """Training as it is."""
    loader: float
    """The loader, without a model."""
    waited: float
    """Fraction of the time that the host waited for the loader, on the rank that waited longest."""
    separate: bool
    """Whether batches are copied into a memory of the device's own, as on a GPU."""
    spread: float = 0.0
    """Largest difference of a measurement from the median of its kind, as a fraction."""
    shards_ahead: float | None = None
    """Shards that were fetched but not needed yet, at the end. None for a set on a local disk."""

    @property
    def lost(self) -> float:
        """Fraction of the time that the model alone would not need."""
        return max(0.0, 1 - self.fed / self.alone)

    @property
    def copying(self) -> float:
        """Fraction of the time spent on bringing batches from host memory to the device."""
        return max(0.0, self.fed / self.cached - self.fed / self.alone) if self.separate else 0.0

    @property
    def loading(self) -> float:
        """Fraction of the time spent on loading."""
        return max(0.0, 1 - self.fed / self.cached) if self.separate else self.lost


def verdict(rates: Rates) -> str:
    """One or two sentences: the stage, and what a better one could give."""
    return " ".join(filter(None, (_limit(rates), _headroom(rates), _noise(rates))))


def _limit(rates: Rates) -> str:
    if rates.lost < FED:
        return f"The model limits: fed by the loader it runs at {rates.fed / rates.alone:.0%} of its rate without one."
    gain = f"without that, training would be {rates.alone / rates.fed:.2f} times as fast."
    if rates.copying > rates.loading:
        return f"The way to the device limits: copying takes {rates.copying:.0%} of the time; {gain}"
    if rates.waited < rates.loading / 2:
        beside = f"the loader costs {rates.loading:.0%} of the time, but only {rates.waited:.1%} is waiting"
        return f"The model and the loader share what limits: {beside}, so steps take longer beside it; {gain}"
    if rates.shards_ahead == 0:
        return f"The storage limits: {rates.waited:.0%} of the time is waiting, and no shard is there ahead; {gain}"
    return f"The loader limits: {rates.waited:.0%} of the time is waiting for it; {gain}"


def _headroom(rates: Rates) -> str:
    times = rates.loader / rates.alone
    return f"The loader by itself brings {times:,.{0 if times >= 10 else 1}f} times what the model can take."


def _noise(rates: Rates) -> str:
    noise = max(rates.spread, rates.fed / rates.alone - 1)  # nothing trains faster for having to be fed
    if noise <= max(rates.lost, FED):
        return ""
    found = f"Measurements of what should be the same differ by up to {noise:.0%}, what is lost is {rates.lost:.0%}"
    return f"{found}: repeat on a quiet machine."
