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
