"""Started on each of two ranks by test_compiled_run: `compiled_ranks.py FOLDER OPTIONS...`, options of launch/train.py.

Trains with a compiler that compiles nothing (it only captures graphs), and tells what it saw.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from torch._dynamo.utils import counters

from kkanji import cli
from kkanji.config_files import parse_options
from kkanji.data.training_set import open_set
from kkanji.models import compile_network
from kkanji.training import build, trainer


def main() -> None:
    """After each step: the graphs so far, a batch statistic, and whether gradients lie where they are exchanged."""
    folder = Path(sys.argv.pop(1))
    seen: list[dict[str, Any]] = []
    take_step = trainer.take_step

    def watched(run: build.Run, *given: Any) -> None:
        take_step(run, *given)
        statistic = float(run.learner.network.get_buffer("bn1.running_mean").sum())
        seen.append({"graphs": counters["stats"]["unique_graphs"], "statistic": statistic, "rank": run.rank.index})
        seen[-1]["views"] = getattr(run.learner.model, "gradient_as_bucket_view", None)

    trainer.take_step = watched  # type: ignore[assignment]
    build.compile_network = partial(  # type: ignore[attr-defined]
        compile_network, backend="eager"
    )
    config = parse_options()
    trainer.train(config, open_set(config.dataset.data))
    (folder / f"{seen[0]['rank']}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    cli.run(main)
