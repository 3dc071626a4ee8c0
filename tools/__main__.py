"""python -m tools: the commands of `kkanji` that prepare data."""

import tyro

from kkanji.cli import run
from tools.commands.arrays import arrays
from tools.commands.balance import balance
from tools.commands.combine import combine
from tools.commands.convert import convert
from tools.commands.fetch import fetch
from tools.commands.index import index
from tools.commands.pack import pack
from tools.commands.push import push
from tools.commands.render import render
from tools.commands.sample import sample
from tools.commands.show import show
from tools.commands.split import split
from tools.commands.verify import verify

COMMANDS = {
    command.__name__: command
    for command in (fetch, combine, render, split, pack, balance, verify, show, push, convert, arrays, index, sample)
}
"""In the order in which a data set is made and used."""
DESCRIPTION = """Turn raw archives of characters into shard sets to train on. Each command has its own --help.

fetch gets CODH's archives, combine makes checked originals of them, render adds images for rare classes, and split
divides the originals into train, val and test. pack then writes every image once into a shard set; balance writes the
same number of every class. verify, show and push check a set, show it and copy it to object storage. convert and arrays
change its format. index makes a set of tars that others wrote. sample renders a small data set from fonts."""


def main() -> None:
    """Entry point of `python -m tools`."""
    run(command_line)


def command_line() -> None:
    """Parse the arguments and run one command."""
    tyro.extras.subcommand_cli_from_dict(
        COMMANDS, prog="python -m tools", description=DESCRIPTION, config=(tyro.conf.FlagCreatePairsOff,)
    )


if __name__ == "__main__":
    main()
