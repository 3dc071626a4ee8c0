"""`python -m benchmarks <loader|models|prepare|stream|train|scale|size|accuracy|table|chart|all>`"""

import tyro

from benchmarks.accuracy.accuracy import accuracy
from benchmarks.chart import chart
from benchmarks.everything import everything
from benchmarks.loader import loader
from benchmarks.models.models import models
from benchmarks.prepare import prepare
from benchmarks.simulation.scale import scale
from benchmarks.size.size import size
from benchmarks.stream.stream import stream
from benchmarks.table import table
from benchmarks.train.train import train
from kkanji import cli

COMMANDS = {"all": everything} | {
    command.__name__: command
    for command in (accuracy, chart, loader, models, prepare, scale, size, stream, table, train)
}


def main() -> None:
    """Entry point of `python -m benchmarks`."""
    cli.run(lambda: tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="python -m benchmarks"))


if __name__ == "__main__":
    main()
