"""Training that ends early: `failing.py KIND NUMBER OPTIONS...`, options of launch/train.py.

KIND data: the last rank's NUMBERth micro-batch cannot be read. KIND killed: there it is killed instead. KIND unmet: the
ranks have NUMBER seconds to meet.
"""

import os
import signal
import sys
from collections.abc import Iterator

from kkanji import cli
from kkanji.config_files import parse_options
from kkanji.data.dali import Batch, Loader
from kkanji.data.training_set import open_set
from kkanji.training import agreement, build
from kkanji.training.trainer import train
from shards import InputError


def main() -> None:
    """Train."""
    kind, number = sys.argv.pop(1), int(sys.argv.pop(1))
    last = os.environ.get("RANK", "0") == str(int(os.environ.get("WORLD_SIZE", "1")) - 1)

    class Failing(Loader):
        def __iter__(self) -> Iterator[Batch]:
            for batch, place in zip(super().__iter__(), range(1, 1_000_000), strict=False):
                if place == number and last:
                    if kind == "killed":
                        os.kill(os.getpid(), signal.SIGKILL)
                    raise InputError("the bucket does not answer")
                yield batch

    if kind == "unmet":
        agreement.MEETING_S = number
    else:
        build.Loader = Failing  # type: ignore[attr-defined]
    config = parse_options()
    train(config, open_set(config.dataset.data))


if __name__ == "__main__":
    cli.run(main)
