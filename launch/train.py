"""Train: `kkanji train`, or `accelerate launch -m launch.train` on several devices."""

import sys

try:
    from kkanji import cli
except ModuleNotFoundError as missing:  # run from a checkout: Python then looks beside this file only
    sys.stderr.write(f"error: {missing}; install kkanji first: `pip install .` in the folder of its setup.cfg\n")
    sys.exit(2)
from kkanji.config_files import parse_options
from kkanji.data.training_set import check_options, open_set
from kkanji.launchers import end_with_launcher
from kkanji.model_folder import check_sources


def main() -> None:
    """Train with the options of the command line. They and the set are checked before torch is imported."""
    end_with_launcher()
    config = parse_options()
    check_sources(config)
    data = open_set(config.dataset.data, cache_size=config.dataset.cache_size)
    if not config.continues:
        check_options(config, data)
    from kkanji.training.trainer import train

    train(config, data)


if __name__ == "__main__":
    cli.run(main)
