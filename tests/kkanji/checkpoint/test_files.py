import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from kkanji import checkpoint
from kkanji.checkpoint import CorruptCheckpoint
from kkanji.classes import sorted_class_map
from shards import InputError

CLASSES = sorted_class_map([0x4E00, 0x4E8C])


def trained(kind: Callable[..., Optimizer], steps: int = 2) -> tuple[nn.Module, Optimizer]:
    """A small network in channels_last with its fused optimizer, as in training, after some steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    model = model.to(memory_format=torch.channels_last)
    optimizer = kind(
        model.parameters(), lr=0.1, fused=True, **({"momentum": 0.9} if kind is SGD else {"amsgrad": True})
    )
    for _ in range(steps):
        model(torch.rand(3, 1, 4, 4)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def save(folder: Path, step: int, *, best: bool = False, kind: Callable[..., Optimizer] = Adam, seed: int = 0) -> Path:
    model, optimizer = trained(kind)
    state = {"progress": {"step": step}, "config": {"seed": seed}}
    return checkpoint.save(folder, step, model=model, optimizer=optimizer, state=state, classes=CLASSES, best=best)


@pytest.mark.parametrize("kind", [Adam, AdamW, SGD])
def test_round_trip_is_bit_exact(tmp_path: Path, kind: Callable[..., Optimizer]) -> None:
    """A step after loading equals a step without the detour."""
    path = save(tmp_path, 1, kind=kind)
    model, optimizer = trained(kind)
    other, other_optimizer = trained(kind, steps=1)
    checkpoint.load_model(path, other)
    checkpoint.load_optimizer(path, other_optimizer)
    for one, its_optimizer in ((model, optimizer), (other, other_optimizer)):
        torch.manual_seed(1)
        one(torch.rand(3, 1, 4, 4)).sum().backward()
        its_optimizer.step()
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert checkpoint.read_classes(path) == CLASSES
    assert checkpoint.read_state(path)["progress"] == {"step": 1}


def test_newest_and_best_are_kept(tmp_path: Path) -> None:
    for step in range(1, 6):
        save(tmp_path, step, best=step == 2)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [f"step-00000000{n}" for n in (2, 4, 5)]
    assert (tmp_path / "best").resolve().name == "step-000000002"
    assert (tmp_path / "last").resolve().name == "step-000000005"


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "index.json"])
def test_a_flipped_bit_in_any_file_falls_back_to_the_one_before(tmp_path: Path, name: str) -> None:
    good, bad = save(tmp_path, 1), save(tmp_path, 2)
    data = bytearray((bad / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bad / name).write_bytes(data)
    with pytest.raises(CorruptCheckpoint, match=rf"{name}: sha256"):
        checkpoint.check(bad)
    with pytest.warns(RuntimeWarning, match=name):
        assert checkpoint.newest(tmp_path) == good


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 1)
    (path / name).unlink()
    with pytest.raises(CorruptCheckpoint, match=name):
        checkpoint.check(path)


def test_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "none") is None
    with pytest.raises(InputError, match="no such checkpoint"):
        checkpoint.check(tmp_path / "none")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    with pytest.raises(InputError, match=r"model\.safetensors: does not fit the model"):
        checkpoint.load_model(path, nn.Linear(2, 2))


FILLER = """
import sys
from pathlib import Path
from kkanji import cli
sys.path.insert(0, sys.argv[2])
from test_files import save
from tests.faults.writers import fill
folder = Path(sys.argv[1])
save(folder / "checkpoints", 1)
fill(folder / "of-others")
cli.run(lambda: save(folder / "checkpoints", 2))
"""


def test_a_full_disk_is_named_and_the_checkpoint_before_kept(tmp_path: Path) -> None:
    script = f'mount -t tmpfs -o size=2m tmpfs {tmp_path} && "$@"; code=$?; ls -a {tmp_path}/checkpoints; exit $code'
    command = ["unshare", "-rm", "sh", "-c", script, "sh", sys.executable, "-c", FILLER, str(tmp_path)]
    if subprocess.run([*command[:2], "true"], capture_output=True, check=False).returncode:
        pytest.skip("unshare -rm is not permitted here: no small file system to fill")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    result = subprocess.run(
        [*command, str(Path(__file__).parent)], capture_output=True, text=True, env=environment, check=False
    )
    assert result.returncode == 2, result.stderr
    expected = f"error: {tmp_path}/checkpoints/step-000000002: No space left on device: "
    assert expected in result.stderr and "0.0 MB free" in result.stderr and "Traceback" not in result.stderr
    assert result.stdout.split() == [".", "..", "last", "step-000000001"]


def everything(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_only_checkpoints_that_this_run_wrote_are_removed(tmp_path: Path) -> None:
    """Copies, links, those of another run and whatever a user touched: each is older than what is kept."""
    run, archive = tmp_path / "run", tmp_path / "archive"
    for step in (1, 2, 3):
        save(run, step)
    save(archive, 4)
    shutil.copytree(run / "step-000000002", run / "step-000000002-keep")
    shutil.copytree(run / "step-000000002", archive / "step-000000005")
    shutil.copytree(run / "step-000000002", run / "step-000000006")  # another step's name
    shutil.copytree(save(tmp_path / "other", 7, seed=1), run / "step-000000007")
    (run / "step-000000004").symlink_to(archive / "step-000000004")
    (run / "step-000000005").symlink_to(archive / "step-000000005")
    (run / "step-000000008").symlink_to(tmp_path / "nowhere")
    (run / "step-000000009").mkdir()
    (run / "step-000000009" / "notes.txt").write_text("mine")
    (run / "step-000000010").write_text("mine")
    (run / "step-000000003" / "notes.txt").write_text("mine")
    kept = everything(archive) | {
        path: data for path, data in everything(run).items() if path.parent.name != "step-000000002"
    }
    for step in (11, 12, 13):
        save(run, step)
    assert not (run / "step-000000002").exists() and not (run / "step-000000011").exists()
    assert (run / "step-000000012").is_dir() and (run / "step-000000013").is_dir()
    assert kept.items() <= everything(tmp_path).items()
    assert (run / "step-000000008").is_symlink()


@pytest.mark.parametrize("target", ["archive/step-000000003", "nowhere", None])
def test_what_is_in_a_new_checkpoints_place_is_kept_beside(tmp_path: Path, target: str | None) -> None:
    run, archive = tmp_path / "run", tmp_path / "archive"
    save(archive, 3, seed=1)
    run.mkdir()
    if target is None:
        shutil.copytree(archive / "step-000000003", run / "step-000000003")
    else:
        (run / "step-000000003").symlink_to(tmp_path / target)
    before = everything(archive)
    with pytest.warns(RuntimeWarning, match="not written by this run; kept as step-000000003-kept"):
        path = save(run, 3)
    assert everything(archive) == before
    assert checkpoint.newest(run) == path and not path.is_symlink()
    assert (run / "step-000000003-kept").is_symlink() == (target is not None)


def test_a_checkpoint_is_written_again_by_the_run_that_resumes_before_it(tmp_path: Path) -> None:
    save(tmp_path, 1)
    before = everything(save(tmp_path, 2))
    assert everything(save(tmp_path, 2)) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "step-000000001", "step-000000002"]


def test_links_that_users_made_real_dangling_or_foreign(tmp_path: Path) -> None:
    run, archive = tmp_path / "run", save(tmp_path / "archive", 1)
    save(run, 1, best=True)
    (run / "last").unlink()
    shutil.copytree(run / "step-000000001", run / "last")
    (run / "best").unlink()
    (run / "best").symlink_to("step-000000009")
    with pytest.warns(RuntimeWarning, match="last: not written by this run; kept as last-kept"):
        save(run, 2)
    (run / "best").unlink()
    (run / "best").symlink_to(archive)
    before = everything(archive)
    for step in (3, 4):
        save(run, step)
    assert everything(archive) == before and (run / "best").resolve() == archive
    save(run, 5, best=True)
    assert everything(archive) == before
    assert (run / "best").resolve().name == (run / "last").resolve().name == "step-000000005"
    assert (run / "last-kept").is_dir() and not (run / "last-kept").is_symlink()


def test_a_copy_is_not_resumed_from(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    shutil.copytree(path, tmp_path / "step-000000001-keep")
    assert checkpoint.newest(tmp_path) == path
