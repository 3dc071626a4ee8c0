"""The command `kkanji`, also `python -m launch`: one door to all commands of the project.

Only the modules of the chosen command are imported: `kkanji --help` needs none, and no `--help` needs torch.
"""

import sys
from importlib import import_module
from types import ModuleType

from kkanji import __version__

TOOLS, LAUNCH = "tools.commands", "launch"
# A heading, the package of its commands, and a line for each: the order in which a project meets them.
STORY: tuple[tuple[str, str, dict[str, str]], ...] = (
    (
        "Prepare data",
        TOOLS,
        {
            "fetch": "download the archives of CODH: Kuzushiji-Kanji, Kuzushiji-49, Kuzushiji-MNIST",
            "sample": "render a small set of characters from brush fonts, to try the commands on",
            "combine": "read archives and folders of images, check each image, and collect them as originals",
            "render": "add images of rare characters, rendered from fonts",
            "split": "divide the originals into training, validation and test images",
            "pack": "write a shard set: tar files for training, and their manifest",
            "balance": "write a shard set with as many augmented images of each character as you ask for",
            "index": "describe tar files made by others, so that they can be trained on where they are",
            "verify": "check every byte of a shard set, and that its splits share no original",
            "show": "draw a shard set: sheets of images, augmented variants, class balance, a data card",
            "convert": "write a shard set in another layout or compression",
            "arrays": "write a shard set as NumPy arrays",
            "push": "upload a shard set to object storage",
        },
    ),
    (
        "Train",
        LAUNCH,
        {
            "doctor": "examine this machine before a run: versions, devices, DALI, disks, storage",
            "train": "train a network on a shard set, local or streamed",
            "evaluate": "measure a checkpoint on a split, and write the report",
            "average": "average the weights of several checkpoints",
        },
    ),
    (
        "Use",
        LAUNCH,
        {
            "export": "write a checkpoint for use: half precision, timm, ONNX, model card",
            "neighbours": "let the nearest training images vote, or add characters without training",
            "predict": "predict the characters that image files show",
        },
    ),
)
COMMANDS = {name: package for _, package, commands in STORY for name in commands}
OUTLINE = """\
usage: kkanji COMMAND [OPTIONS]

Classify historical Japanese handwriting: from archives of images to a trained network.

{commands}

kkanji COMMAND --help lists the options of a command. kkanji --version prints the version.
"""
MISUSE = 2  # as argument parsers have it


def main() -> None:
    """Run the command that the command line names, and leave the process with its exit code."""
    name, *options = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        sys.stdout.write(outline())
    elif name == "--version":
        sys.stdout.write(f"kkanji {__version__}\n")
    elif name in COMMANDS:
        _run(name, options)
    else:
        sys.stderr.write(f"error: {name}: no such command{_suggestion(name)}; `kkanji --help` lists them\n")
        sys.exit(MISUSE)


def outline() -> str:
    """What `kkanji --help` prints."""
    width = max(map(len, COMMANDS))
    groups = (
        "\n".join([f"{heading}:", *(f"  {name:{width}}  {text}" for name, text in commands.items())])
        for heading, _, commands in STORY
    )
    return OUTLINE.format(commands="\n\n".join(groups))


def _run(name: str, options: list[str]) -> None:
    from kkanji import cli  # its imports take longer than all that `kkanji --help` does

    def command() -> None:
        module = _load(name)
        sys.argv = [f"kkanji {name}", *options]  # the usage line shows the first
        if COMMANDS[name] == LAUNCH:
            module.main()
        else:
            cli.parse(getattr(module, name))

    cli.run(command)


def _load(name: str) -> ModuleType:
    """The module of a command. Raises InputError if another distribution's package hides ours.

    Distributions may install packages of the same top-level name, such as `tools`; pip does not refuse.
    """
    from shards.errors import InputError

    package = COMMANDS[name]
    try:
        return import_module(f"{package}.{name}")
    except ModuleNotFoundError as error:
        top = package.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != top:
            raise
        found = import_module(top).__file__
        remedy = "install kkanji into an environment of its own, or remove the other package"
        raise InputError(f"kkanji {name}: Python finds another package `{top}` first: {found}; {remedy}") from error


def _suggestion(name: str) -> str:
    from difflib import get_close_matches

    return "".join(f"; did you mean {match}?" for match in get_close_matches(name, COMMANDS, 1))


if __name__ == "__main__":
    main()
