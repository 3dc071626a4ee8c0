"""python -m tools: the commands and how the process ends."""

import tyro

from kkanji.cli import run
from tools.arrays import arrays
from tools.balance import balance
from tools.combine import combine
from tools.convert import convert
from tools.fetch import fetch
from tools.index import index
from tools.pack import pack
from tools.push import push
from tools.render import render
from tools.sample import sample
from tools.show import show
from tools.split import split
from tools.verify import verify

COMMANDS = {
    command.__name__: command
    for command in (fetch, combine, render, split, pack, balance, arrays, convert, index, push, verify, show, sample)
}
DESCRIPTION = "Raw archives of characters -> originals -> split -> shard sets. Each command has its own --help."


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
