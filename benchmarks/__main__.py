"""`python -m benchmarks <gpu|loader|models|prepare|scans|stream|train|scale|size|accuracy|table|chart|all>`

Only the module of the chosen command is imported: a machine with a GPU may lack what draws charts.
"""

import sys
from collections.abc import Callable
from importlib import import_module

import tyro

from kkanji import cli

# The module of each command, in which the function has the command's name.
COMMANDS = {
    "accuracy": "accuracy.accuracy",
    "all": "everything",
    "chart": "chart",
    "gpu": "gpu.examine",
    "loader": "loader",
    "models": "models.models",
    "prepare": "prepare",
    "scale": "simulation.scale",
    "scans": "scans.scans",
    "size": "size.size",
    "stream": "stream.stream",
    "table": "table",
    "train": "train.train",
}
PROGRAM = "python -m benchmarks"


def main() -> None:
    """Entry point of `python -m benchmarks`."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in COMMANDS:
        cli.run(lambda: tyro.cli(function_of(name), prog=f"{PROGRAM} {name}", args=arguments))
    else:
        functions = {each: function_of(each) for each in COMMANDS}
        cli.run(lambda: tyro.extras.subcommand_cli_from_dict(functions, prog=PROGRAM))


def function_of(name: str) -> Callable[..., None]:
    """The function of a command."""
    module = import_module(f"benchmarks.{COMMANDS[name]}")
    function: Callable[..., None] = getattr(module, "everything" if name == "all" else name)
    return function


if __name__ == "__main__":
    main()
