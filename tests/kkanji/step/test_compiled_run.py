"""A run with --compile on two ranks: the losses of one without on one rank, and a graph for each size of images."""

import json
from pathlib import Path
from typing import Any

import pytest

from kkanji.config import train_config
from kkanji.data.training_set import open_set
from kkanji.training.schedule import image_size
from kkanji.training.trainer import train
from tests.launch.commands import losses, start_ranks

# Three steps of 40 images, the last of 28; in micro-batches of 5, at last of 4, on one or two ranks.
STEPS = 3
OPTIONS: dict[str, Any] = {
    **{"model": "kkanji_efficientnet_fused_s", "head": "cosine", "epochs": 1, "batch_size": 40, "micro_batch": 5},
    **{"augment": 0, "mixup": 0.5, "mixup_stages": 2, "start_size": 56, "full_size_at": 0.5, "ema_images": 40},
    "log_every": 1,
}


@pytest.mark.filterwarnings("ignore:torch uses 1 thread")
def test_two_compiled_ranks_compute_what_one_uncompiled_does(tiny_set: Path, tmp_path: Path) -> None:
    """Mixed after each stage, growing, with odd last micro-batches; batch statistics are those of all ranks."""
    one, two = ({"data": str(tiny_set), "output": tmp_path / name} for name in ("one", "two"))
    (tmp_path / "options.json").write_text(json.dumps(OPTIONS))
    flags = ["--config", str(tmp_path / "options.json"), *(f"--{name}={value}" for name, value in two.items())]
    script = str(Path(__file__).with_name("compiled_ranks.py"))
    results = start_ranks(script, str(tmp_path), *flags, "--compile")
    assert [result.returncode for result in results] == [0, 0], results[0].stderr
    config = train_config(**OPTIONS, **one)
    train(config, open_set(tiny_set))
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-3)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    sizes = [image_size(config, 40 * step / 108) for step in range(STEPS)]
    assert len(set(sizes)) == 2
    for seen in ranks:
        assert [entry["graphs"] for entry in seen] == [len(set(sizes[: step + 1])) for step in range(STEPS)]
        assert all(entry["views"] for entry in seen)
    assert all(first["statistic"] == second["statistic"] for first, second in zip(*ranks, strict=True))
