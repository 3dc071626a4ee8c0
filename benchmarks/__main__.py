"""`python -m benchmarks loader`"""

import tyro

from benchmarks.loader import loader
from kkanji import cli

COMMANDS = {"loader": loader}


def main() -> None:
    """Entry point of `python -m benchmarks`."""
    cli.run(lambda: tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="python -m benchmarks"))


if __name__ == "__main__":
    main()
