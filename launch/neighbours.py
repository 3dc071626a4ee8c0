"""Give a model its neighbours: `kkanji neighbours --checkpoint FOLDER --data SET --output FOLDER`."""

from dataclasses import dataclass
from pathlib import Path

from kkanji import cli
from shards.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class NeighboursConfig:
    """Write a copy of an exported model with an index of images, the nearest of which vote beside the network.

    From the training images of a set, it makes the index; how much the neighbours count, and which images show none of
    the model's characters, it learns from the set's validation images. Or it adds new characters to a model that has an
    index, by their images alone and without training.

    Example: kkanji neighbours --checkpoint models/first --data data/shards --output models/second
    Example: kkanji neighbours --checkpoint models/second --images my-characters --output models/third
    """

    checkpoint: Path
    """Folder of a model that `kkanji export` made, or this command."""
    output: Path
    """Folder to make."""
    data: str | None = None
    """Shard set whose training images the index is made of: a folder or a URL."""
    images: Path | None = None
    """Folder with a folder for each character, U+4E00 or the character itself, of images as `kkanji predict` reads
    them. Characters that the model does not know become its new classes."""
    settings_of: Path | None = None
    """Folder of another model with an index, whose settings to take. For a model that was trained on all images: one
    that was trained without the images that its settings were chosen on."""
    bytes_per_vector: int = 64
    """Size of a vector in the index: a power of 2 up to 128."""
    most_per_class: int = 14
    """Largest number of vectors of one character in the index: its images, or means of alike ones if it has more."""
    overwrite: bool = False
    """Replace OUTPUT if this command made it."""

    def __post_init__(self) -> None:
        if (self.data is None) == (self.images is None):
            raise InputError("expected either --data SET, to make an index, or --images FOLDER, to add characters")
        if self.images is not None and self.settings_of is not None:
            raise InputError("--settings-of belongs to --data; leave it out: added characters keep the settings")
        for name in ("bytes_per_vector", "most_per_class"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected 1 or more")


def neighbours(config: NeighboursConfig) -> None:
    """Write the folder. Raises InputError if the model, the set or the images cannot be used."""
    from launch.index_building import add_images, index_set  # torch takes seconds to import

    if not (config.checkpoint / "config.json").is_file():  # timm's, which only exports have
        raise InputError(f"{config.checkpoint}: not an exported model; make one of it with `kkanji export` first")
    if config.images is not None:
        add_images(config.checkpoint, config.images, config.output, overwrite=config.overwrite)
    elif config.data is not None:
        index_set(
            config.checkpoint,
            config.data,
            config.output,
            settings_of=config.settings_of,
            parts=config.bytes_per_vector,
            most=config.most_per_class,
            overwrite=config.overwrite,
        )


def main() -> None:
    """Run with the options of the command line."""
    neighbours(cli.parse(NeighboursConfig))


if __name__ == "__main__":
    cli.run(main)
