"""`python -m benchmarks <loader|prepare|stream|table>`"""

import tyro

from benchmarks.loader import loader
from benchmarks.prepare import prepare
from benchmarks.stream import stream
from benchmarks.table import table
from kkanji import cli

COMMANDS = {command.__name__: command for command in (loader, prepare, stream, table)}


def main() -> None:
    """Entry point of `python -m benchmarks`."""
    cli.run(lambda: tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="python -m benchmarks"))


if __name__ == "__main__":
    main()
