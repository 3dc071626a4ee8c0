"""Training that ends early: `failing.py KIND NUMBER OPTIONS...`, options of launch/train.py.

KIND data: the last rank's NUMBERth micro-batch cannot be read. KIND killed: there it is killed instead. KIND unmet: the
ranks have NUMBER seconds to meet. KIND begin: the last rank has no memory for its loader. KIND evaluation: it is killed
in the NUMBERth evaluation.
"""

import errno
import os
import signal
import sys
from collections.abc import Iterator
from itertools import count
from typing import Any

from kkanji import cli
from kkanji.config_files import parse_options
from kkanji.data.dali import Batch, Loader
from kkanji.data.training_set import open_set
from kkanji.evaluation.predict_split import predict_split
from kkanji.evaluation.predictions import Predictions
from kkanji.training import agreement, build, saving, trainer
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

    def killed_in_evaluation(*arguments: Any, **options: Any) -> Predictions:
        if last and next(evaluations) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return predict_split(*arguments, **options)

    def without_memory(run: build.Run, first_step: int) -> Loader:
        if last:
            raise OSError(errno.ENOMEM, "Cannot allocate memory", "buffers")
        return build.create_loader(run, first_step)

    evaluations = count(1)
    if kind == "unmet":
        agreement.MEETING_S = number
    elif kind == "begin":
        trainer.create_loader = without_memory  # type: ignore[attr-defined]
    elif kind == "evaluation":
        saving.predict_split = killed_in_evaluation  # type: ignore[attr-defined]
    else:
        build.Loader = Failing  # type: ignore[attr-defined]
    config = parse_options()
    train(config, open_set(config.dataset.data))


if __name__ == "__main__":
    cli.run(main)
