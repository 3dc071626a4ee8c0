"""Options from files, as `kkanji train --config` takes them."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kkanji.config import GROUP_OF, OF_A_START, OPTIONS, TrainConfig, read_options, train_config
from kkanji.config_files import parse_options, read_file, to_yaml
from shards import InputError

REQUIRED = ("--data", "data", "--output", "runs/x")


def parsed(patch: pytest.MonkeyPatch, *words: str) -> TrainConfig:
    patch.setattr(sys, "argv", ["kkanji train", *words])
    return parse_options()


def written(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


TEXT = """
dataset: {data: sets/a, trust: true}
optimization:
  lr: 3e-3   # text to YAML 1.1, which wants 3.0e-3
  batch_size: 384
regularisation:
  drop_path: 0.1
  teachers: [runs/a, runs/b]
epochs: 24
"""


def test_options_come_from_files_and_the_command_line_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = written(tmp_path, TEXT)
    second = written(tmp_path, '{"schedule": {"epochs": 3, "schedule": "cosine"}}', "more.json")
    config = parsed(monkeypatch, "--config", str(first), str(second), "--lr", "0.5", "--output", "runs/x")
    expected = {"data": "sets/a", "output": Path("runs/x"), "trust": True, "lr": 0.5, "batch_size": 384}
    taught = {"drop_path": 0.1, "teachers": (Path("runs/a"), Path("runs/b"))}
    options = expected | taught | {"epochs": 3, "schedule": "cosine"}
    given_files = {"config": (first, second)}
    assert config == train_config(**options, **given_files)


def test_options_are_checked_together_wherever_they_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file alone has more epochs without augmentation than epochs; with the command line it has not."""
    file = written(tmp_path, "unaugmented_epochs: 30")
    assert parsed(monkeypatch, *REQUIRED, "--config", str(file), "--epochs", "40").augmentation.unaugmented_epochs == 30
    found = r"augmentation\.unaugmented_epochs 30: expected at most 20, which is --epochs \(some options are from .*run"
    with pytest.raises(InputError, match=found):
        parsed(monkeypatch, *REQUIRED, "--config", str(file))


@pytest.mark.parametrize("saved_by", ["run", "folder"])
def test_what_a_run_saved_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved_by: str) -> None:
    config = train_config(data="d", output=Path("o"), lr=1e-5, drop_path=0.25, init=Path("x"), resume=True)
    path = written(tmp_path, json.dumps({"config": config.to_dict(), "environment": {"torch": "2"}}), "config.json")
    found = parsed(monkeypatch, "--config", str(path if saved_by == "run" else tmp_path))
    assert found.to_dict() == config.to_dict()
    assert not found.checkpointing.resume  # how that start was asked for is no property of the run


values = {
    **{"lr": st.floats(1e-9, 1), "epochs": st.integers(1, 1000), "compile": st.booleans()},
    **{"model": st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)},
    **{"drop_path": st.none() | st.floats(0, 0.99), "schedule": st.sampled_from(["constant", "cosine"])},
    **{"teachers": st.lists(st.sampled_from(["a", "b c", "字"])).map(lambda names: tuple(map(Path, names)))},
}


@given(st.fixed_dictionaries({}, optional=values))
@settings(max_examples=30)
def test_what_is_printed_is_read_back(tmp_path_factory: pytest.TempPathFactory, options: dict[str, Any]) -> None:
    config = train_config(data="s3://bucket/set", output=Path("runs/ #1: x"), **options)
    path = written(tmp_path_factory.getbasetemp(), to_yaml(config))
    assert train_config(**read_file(path)) == config


PRINT = """
import sys
from launch.train import main
sys.argv = ["train", "--print-config", "--lr", "0.5"]
try:
    main()
finally:
    assert "torch" not in sys.modules
"""


def test_all_options_are_printed_with_what_they_mean(tmp_path: Path) -> None:
    result = subprocess.run([sys.executable, "-c", PRINT], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    file = written(tmp_path, result.stdout)
    options = read_file(file)
    assert set(options) == set(GROUP_OF) - OF_A_START - {"data", "output"} and options["lr"] == 0.5
    text = " ".join(result.stdout.replace("#", " ").split())
    assert "* Exponent e from 0 to 1: order balanced samples" in text  # it has no flag
    assert "data: required, here or on the command line" in text and "Peak learning rate. lr: 0.5" in text


WRONG: dict[str, str] = {
    "optimization: {lr: fast}": "optimization.lr: found 'fast', expected a number",
    "optimization: {learning_rate: 1}": "optimization.learning_rate: no such option",
    "batchsize: 5": "batchsize: no such option; did you mean batch_size?",
    "optimisation: {lr: 1}": "optimisation: no such option; did you mean optimization?",
    "network: {lr: 1}": "network.lr: lr is an option of optimization; write optimization.lr",
    "epochs: 2.5": "epochs: found 2.5, expected a whole number",
    "epochs: true": "epochs: found True, expected a whole number",
    "epochs: null": "epochs: found None, expected a whole number",
    "compile: 1": "compile: found 1, expected true or false",
    "order: balance": "order: found 'balance', expected auto, full, windowed, balanced; did you mean balanced?",
    "data: 7": "data: found 7, expected text; put it in quotes",
    "init: [a]": "init: found a list, expected a path",
    "teachers: [{a: 1}]": "teachers: found a mapping, expected a path",
    "lr: 1\nlr: 2": "line 1: lr is there twice",
    "schedule: {epochs: 1, epochs: 2}": "line 1: epochs is there twice",
    "- lr": "a list, expected groups of options",
    "lr: [": "not YAML: while parsing",
    "config: other.yaml": "config: an option of the command line only",
    "!!python/object/apply:os.system [ls]": "not YAML: could not determine a constructor",
    "7: 8": "7: no such option",
    "lr: &a [*a]": "lr: found a list, expected a number",
    "lr: 1\noptimization: {lr: 2}": "lr is there twice, in its group optimization and without",
    "teaching: 0.1\ndistillation_weight: 0.2": "distillation_weight is there twice",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_in_a_file_is_named_with_the_nearest_name(tmp_path: Path, text: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_file(file)
    told = str(caught.value)
    assert told.startswith(f"--config {file}: {WRONG[text]}") and len(told) < 500
    assert told.endswith("; `kkanji train --print-config` prints all options")


def test_files_that_are_none_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"nowhere\.yaml: No such file or directory; give a YAML file, or the config"):
        parsed(monkeypatch, *REQUIRED, "--config", str(tmp_path / "nowhere.yaml"))
    (tmp_path / "large.yaml").write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(InputError, match="1,048,577 bytes, expected at most 1,048,576"):
        read_file(tmp_path / "large.yaml")
    assert read_file(written(tmp_path, "# nothing")) == {}


def test_a_small_file_takes_little_time_and_memory(tmp_path: Path) -> None:
    """Merges of merges multiply: nine levels of nine would be 387 million names."""
    levels = (
        "a{0}: &a{0} {{{1}}}".format(n, f"<<: [{', '.join([f'*a{n - 1}'] * 9)}]" if n else "lr: 1") for n in range(10)
    )
    start = time.monotonic()
    with pytest.raises(InputError, match="of 6561 names, expected at most 1000"):
        read_file(written(tmp_path, "\n".join(levels)))
    with pytest.raises(InputError, match="more than 100 aliases"):
        read_file(written(tmp_path, f"a: &a {{lr: 1}}\nb: [{', '.join(['*a'] * 101)}]"))
    with pytest.raises(InputError, match="of 9000 names"):
        read_file(written(tmp_path, f"{{{', '.join(f'k{n}: 1' for n in range(9_000))}}}"))
    assert time.monotonic() - start < 60
    merged = written(tmp_path, "optimization: &own {lr: 1}\nschedule: {epochs: 3}\n<<: {batch_size: 7}\n")
    assert read_file(merged) == {"batch_size": 7, "lr": 1.0, "epochs": 3}


def test_a_path_that_looks_like_a_flag_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, "teachers: [--lr, '5', --help]")
    config = parsed(monkeypatch, *REQUIRED, "--config", str(file))
    assert config.optimization.lr == 1e-3
    assert config.regularisation.teachers == (Path("--lr"), Path("5"), Path("--help"))


def test_an_option_without_a_flag_says_where_it_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"--draw-exponent=1: .* configuration file only") as caught:
        parsed(monkeypatch, *REQUIRED, "--draw-exponent=1")
    remedy = str(caught.value).split("`")[1].replace("VALUE", "0.5")
    config = parsed(monkeypatch, *REQUIRED, "--order", "balanced", "--config", str(written(tmp_path, remedy)))
    assert config.sampling.draw_exponent == 0.5


def test_what_a_file_turns_off_is_off_by_default() -> None:
    """A file cannot be outvoted by a flag that only turns on, so nothing may be on by default."""
    assert not [option.name for option in OPTIONS if option.default is True]
    assert read_options(train_config(data="d", output=Path("o")).to_dict())["compile"] is False
