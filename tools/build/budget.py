"""How many bad images a command tolerates: none, unless its user allows some."""

from dataclasses import dataclass

from shards.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """How many bad images to tolerate."""

    text: str

    def __post_init__(self) -> None:
        number = self.text.removesuffix("%")
        if not number.replace(".", "", self._is_percentage).isdecimal() or (
            self._is_percentage and float(number) > 100
        ):
            raise InputError(f"--max-bad {self.text}: expected a number of images, or a percentage as in 1%")

    @property
    def _is_percentage(self) -> bool:
        return self.text.endswith("%")

    def allows(self, bad: int, images: int) -> bool:
        """Whether `bad` images of `images` are within the budget."""
        return bad <= (images * float(self.text[:-1]) / 100 if self._is_percentage else int(self.text))
