"""What TensorBoard shows of a run that was ended and resumed many times: the points of one that was not."""

import signal
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from tests.launch.commands import ROOT, begin, start

# Nine steps of 12 images make an epoch, so that an extension begins where no batch was cut.
OPTIONS = (
    *("--model", "test_resnet", "--epochs", "2", "--batch-size", "12", "--save-every", "2", "--log-every", "1"),
    *("--optimizer", "sgd", "--lr", "0.01", "--schedule", "constant", "--evaluate-every", "1"),
)
EPOCHS = 3
OF_THE_CLOCK = ("images_per_s", "wait_fraction", "mb_per_s", "flops_fraction")
Points = dict[str, list[tuple[int, float]]]


def command(data: Path, run: Path, *options: str) -> list[str]:
    given = dict(zip(OPTIONS[::2], OPTIONS[1::2], strict=True)) | {"--data": str(data), "--output": str(run)}
    wanted = [word for option in given.items() if option[0] not in options for word in option]
    return [str(ROOT / "launch" / "train.py"), *wanted, *options]


def ended_after(step: int, by: signal.Signals, data: Path, run: Path, *options: str) -> None:
    """Train until the line of this step, then send the signal."""
    with begin(*command(data, run, *options)) as process:
        next(line for line in process.stdout if line.startswith(f"step {step} "))
        process.send_signal(by)
        process.communicate(60)


def trained(data: Path, run: Path, *options: str) -> None:
    result = start(*command(data, run, *options))
    assert result.returncode == 0, result.stderr


def points(run: Path) -> Points:
    """All that TensorBoard shows, over images and over steps: of what the clock measures only where it is."""
    found: Points = {}
    for folder in (run / "tensorboard", run / "tensorboard/by_step"):
        shown = EventAccumulator(str(folder), size_guidance=dict.fromkeys(KINDS, 0))
        shown.Reload()
        for kind, value_of in KINDS.items():
            for tag in shown.Tags()[kind]:
                timed = tag.endswith(OF_THE_CLOCK)
                events = getattr(shown, kind.capitalize())(tag)
                found[f"{kind} {tag}"] = [(event.step, 0 if timed else value_of(event)) for event in events]
    return found


KINDS: dict[str, Any] = {
    "scalars": lambda event: event.value,
    "images": lambda event: event.encoded_image_string,
    "histograms": lambda event: event.histogram_value.num,
    "tensors": lambda _: 0,
}


@pytest.fixture(scope="module")
def undisturbed(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Points:
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    trained(tiny_set, run, "--epochs", str(EPOCHS))
    shown = points(run)
    assert [step for step, _ in shown["scalars train_by_step/loss"]] == list(range(1, 9 * EPOCHS + 1))
    assert [images for images, _ in shown["scalars val/loss"]] == [108, 216, 324]
    return shown


def test_a_run_of_eight_resumes_shows_the_points_of_one_without(
    undisturbed: Points, tiny_set: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    ended_after(5, signal.SIGKILL, tiny_set, run)  # in mid-epoch, after a checkpoint
    ended_after(7, signal.SIGTERM, tiny_set, run, "--resume")  # in mid-epoch, at a checkpoint
    trained(tiny_set, run, "--resume", "--max-steps", "9")  # at an epoch's end
    ended_after(12, signal.SIGKILL, tiny_set, run, "--resume")
    trained(tiny_set, run, "--resume")  # to its end
    trained(tiny_set, run, "--resume")  # finished: nothing is left to do
    longer = ("--extend", "--epochs", str(EPOCHS))
    ended_after(20, signal.SIGKILL, tiny_set, run, *longer)
    trained(tiny_set, run, *longer)
    trained(tiny_set, run, *longer, "--resume")
    assert without_options(points(run)) == without_options(undisturbed)


def without_options(shown: Points) -> Points:
    """Each start writes the table of options."""
    return {name: found for name, found in shown.items() if "text_summary" not in name}
