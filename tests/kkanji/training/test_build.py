"""What a run is refused for before its first step."""

from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

from kkanji.config import train_config
from kkanji.data.training_set import class_map, open_set
from kkanji.training.build import build_run
from shards import InputError

SMALL = {"full_size_at": 1.0, "batch_size": 4, "micro_batch": 1}
OPTIONS: dict[str, Any] = {"model": "kkanji_efficientnet_fused_s", "order": "full", "epochs": 1} | SMALL


@pytest.mark.parametrize("size", [8, 16])
def test_one_small_image_is_refused_with_a_size_that_works(tiny_set: Path, tmp_path: Path, size: int) -> None:
    """Batch normalisation needs two values a channel, which an image of 8 pixels does not leave it. One of 24 does."""
    data, accelerator = open_set(tiny_set), Accelerator(cpu=True)
    config = train_config(data=str(tiny_set), output=tmp_path, start_size=size, **OPTIONS)
    told = rf"^step 1 has a micro-batch of one image of {size} pixels, .*; give --start-size 24, or batches"
    with pytest.raises(InputError, match=told):
        build_run(accelerator, config, data, class_map(data))
    for remedy in ({"start_size": 24}, {"micro_batch": 2}):
        build_run(accelerator, config.with_options(**remedy), data, class_map(data))
