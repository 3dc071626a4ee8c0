import resource
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from kkanji.evaluation.predictions import KINDS, load_predictions
from shards import InputError
from tests.faults.injector import run_injector
from tests.faults.predictors import NEW, OLD, save
from tests.kkanji.evaluation.synthetic import predictions_from


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    """With fewer than five classes the readings are padded."""
    predictions = predictions_from(torch.eye(3)[[0, 1, 1]], torch.tensor([0, 1, 2]))
    predictions.save(tmp_path / "predictions.npz")
    loaded = load_predictions(tmp_path / "predictions.npz")
    for name, kind in KINDS.items():
        assert getattr(loaded, name).dtype == kind
        assert torch.equal(getattr(loaded, name), getattr(predictions, name))
    assert loaded.wrong().tolist() == [False, False, True]
    assert loaded.among_top().tolist() == [True, True, True]
    assert (loaded.predicted[:, 3:] == -1).all()


@pytest.mark.parametrize("change", ["missing", "shape", "object", "cut", "none"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, change: str) -> None:
    path = tmp_path / "predictions.npz"
    predictions_from(torch.eye(3), torch.arange(3)).save(path)
    with np.load(path) as file:
        arrays = dict(file)
    if change == "missing":
        del arrays["label"]
    elif change == "shape":
        arrays["probability"] = arrays["probability"][:, :4]
    elif change == "object":
        arrays["label"] = np.array([{}, {}, {}])
    elif change == "none":
        arrays = {name: array[:0] for name, array in arrays.items()}
    np.savez(path, **arrays)
    if change == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"predictions\.npz: .*`kkanji evaluate`"):
        load_predictions(path)


def test_sigkill_at_each_write_leaves_the_old_ones(tmp_path: Path) -> None:
    *kills, undisturbed = run_injector("predictors", "killed-by-write", tmp_path, environment={"OMP_NUM_THREADS": "1"})
    assert undisturbed == [0, NEW]
    assert len(kills) >= 8 and {code for code, _ in kills} == {-signal.SIGKILL}
    assert {found for _, found in kills} == {OLD}, "the new ones take the name after the last write"


def test_a_disk_that_refuses_leaves_the_old_ones(tmp_path: Path) -> None:
    path = tmp_path / "predictions.npz"
    save(path, OLD)
    before = path.read_bytes()
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(OSError, match=r"File too large: .*/predictions\.npz'"):
            save(path, NEW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and [each.name for each in tmp_path.iterdir()] == ["predictions.npz"]
