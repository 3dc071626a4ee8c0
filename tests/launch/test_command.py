"""The command `kkanji`: what it lists, how fast it answers, and that a wheel of it works where there is no checkout."""

import json
import re
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest

from launch.__main__ import COMMANDS, LAUNCH, main, outline
from tests.launch.commands import ROOT, Result, lines, start, start_in, train_command
from tests.making import SAMPLE
from tools.__main__ import COMMANDS as TOOLS

CROP = sorted((SAMPLE / "U+4E09").iterdir())[0]
# With the option -S, Python looks for packages in PYTHONPATH only: no .pth file leads it to the checkout.
PACKAGES = sysconfig.get_path("purelib")
IN_A_WHEEL = ("kkanji", "launch", "models", "shards", "tools", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")


def imported_by(*arguments: str) -> set[str]:
    """Top-level modules that `kkanji ARGUMENTS` imports."""
    result = start("-X", "importtime", "-m", "launch", *arguments)
    assert result.returncode == 0, result.stderr
    return {name.partition(".")[0] for name in re.findall(r"^import time:.*\| +([\w.]+)$", result.stderr, re.MULTILINE)}


def test_every_command_is_there() -> None:
    programs = {path.stem for path in (ROOT / "launch").glob("*.py")} - {
        "__init__",
        "__main__",
        "evaluation",
        "index_building",
    }
    assert set(COMMANDS) == programs | set(TOOLS)
    assert {name for name, package in COMMANDS.items() if package == LAUNCH} == programs


def test_help_tells_the_story_in_order() -> None:
    words = re.findall(r"^(?:  )?(\w[\w ]*?)(?::|  )", outline(), re.MULTILINE)
    story = ["Prepare data", "fetch", "combine", "split", "pack", "Train", "train", "evaluate", "Use", "export"]
    assert [word for word in words if word in story] == story and set(COMMANDS) <= set(words)
    assert max(map(len, outline().splitlines())) <= 100


def test_help_imports_what_it_prints_and_no_more() -> None:
    """Milliseconds rather than seconds, on any machine."""
    found = imported_by("--help")
    assert {"launch", "kkanji"} <= found and not found & {"shards", "tools", "numpy", "tyro", "torch"}


@pytest.mark.parametrize("name", [name for name, package in COMMANDS.items() if package == LAUNCH] + ["pack", "show"])
def test_help_of_a_command_needs_no_torch(name: str) -> None:
    found = imported_by(name, "--help")
    assert {"launch", "tyro"} <= found and not found & {"torch", "torchvision", "timm", "accelerate", "nvidia"}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_has_its_usage_and_an_example(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kkanji", name, "--help"])
    with pytest.raises(SystemExit) as caught:
        main()
    text = " ".join(capsys.readouterr().out.split())
    assert caught.value.code == 0 and text.startswith(f"usage: kkanji {name} ") and "Example: " in text


@pytest.mark.parametrize(
    ("name", "wrapped"),
    [("train", "a few shards at a time, for sets larger than the disk"), ("combine", "or a folder with images.npy")],
)
def test_help_wraps_where_the_terminal_does_not_where_the_source_does(
    name: str, wrapped: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kkanji", name, "--help"])
    monkeypatch.setenv("COLUMNS", "500")
    with pytest.raises(SystemExit):
        main()
    assert wrapped in capsys.readouterr().out


def test_another_name_is_misuse() -> None:
    result = start("-m", "launch", "trian", "--data", "shards")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: trian: no such command; did you mean train?; `kkanji --help` lists them\n"


def test_a_package_that_hides_ours_is_named(tmp_path: Path) -> None:
    """Many distributions install a top-level package `tools`, and pip does not refuse."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "__init__.py").touch()
    path = f"{tmp_path}:{ROOT}:{PACKAGES}"
    result = start_in(tmp_path, "-S", "-m", "launch", "pack", "--help", PYTHONPATH=path)
    assert (result.returncode, result.stdout) == (2, "")
    assert f"finds another package `tools` first: {tmp_path}/tools/__init__.py; install kkanji into" in result.stderr


def test_a_script_without_installation_says_what_to_do(tmp_path: Path) -> None:
    result = start_in(tmp_path, "-S", str(ROOT / "launch" / "train.py"), PYTHONPATH="")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: No module named 'kkanji'; install kkanji first: `pip install .`")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that a wheel of this checkout is installed in."""
    folder = tmp_path_factory.mktemp("wheel")
    source, site = folder / "source", folder / "site"
    source.mkdir()
    for path in (ROOT / name for name in IN_A_WHEEL):  # a copy: building leaves folders beside setup.cfg
        if path.is_dir():
            shutil.copytree(path, source / path.name, symlinks=True)
        else:
            shutil.copy(path, source)
    pip = ("-m", "pip", "--disable-pip-version-check", "--quiet")
    build = start(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    assert build.returncode == 0, build.stderr
    (wheel,) = folder.glob("kkanji-*.whl")
    install = start(*pip, "install", "--no-deps", "--target", str(site), str(wheel))
    assert install.returncode == 0, install.stderr
    shutil.rmtree(source)
    return site


def in_empty_folder(site: Path, *command: str) -> Result:
    """Run Python with the wheel and without the checkout."""
    empty = site.with_name("empty")
    empty.mkdir(exist_ok=True)
    result = start_in(empty, "-S", *command, PYTHONPATH=f"{site}:{PACKAGES}")
    assert result.returncode == 0, result.stderr
    return result


def kkanji(site: Path, *arguments: str) -> str:
    """What the installed command prints."""
    return in_empty_folder(site, str(site / "bin" / "kkanji"), *arguments).stdout


def test_a_wheel_predicts_in_an_empty_folder(site: Path) -> None:
    (entry,) = map(json.loads, kkanji(site, "predict", str(CROP), "--format", "json").splitlines())
    assert entry["guesses"][0]["character"] == "三" and len(entry["guesses"]) == 5


def test_a_wheel_brings_timms_pretrained_weights(site: Path) -> None:
    code = """
import kkanji.models, timm
model = timm.create_model("kkanji_efficientnet_fused_m", pretrained=True)
print(kkanji.models.__file__, model.num_classes)
"""
    file, classes = in_empty_folder(site, "-c", code).stdout.split()
    assert Path(file).is_relative_to(site) and classes == "3832"


ONE_AFTER_ANOTHER = """
import json, sys
from launch.__main__ import main
for arguments in map(json.loads, sys.argv[1:]):
    sys.argv = ["kkanji", *arguments]
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            raise
"""


def test_a_wheel_trains_and_evaluates(site: Path, tiny_set: Path, tmp_path: Path) -> None:
    """In one process: without a checkout, what both import and compile takes most of their time."""
    _, *options = train_command(tiny_set, tmp_path / "run", "--epochs", "1", "--augment", "0")
    best = str(tmp_path / "run" / "checkpoints" / "best")
    commands = (["train", *options], ["evaluate", "--checkpoint", best, "--data", str(tiny_set)])
    done = in_empty_folder(site, "-c", ONE_AFTER_ANOTHER, *map(json.dumps, commands))
    assert [entry["step"] for entry in lines(tmp_path / "run")] == list(range(1, 8))
    assert "report: " in done.stdout


def test_accelerate_finds_the_module_of_a_wheel(site: Path) -> None:
    """What it starts is what `kkanji train` runs."""
    launcher = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "-m", "launch.train")
    assert "\n│ --data " in in_empty_folder(site, *launcher, "--help").stdout
