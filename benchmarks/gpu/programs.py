"""Parts that run the project's own programs, each in a process of its own: tests, benchmark, training."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.gpu.bench import Bench, Measurement
from benchmarks.gpu.step import B0, FUSED_S, variant
from benchmarks.rows import Row
from benchmarks.subject import ROOT

LIMIT_S = 300  # of a program; a part may take 480 s
FEW = 12  # characters of 24 images each
COUNT = re.compile(r"(\d+) (passed|failed|skipped|errors?)")
MARK = "@pytest.mark.gpu"


def tests(bench: Bench) -> Iterator[Measurement]:
    """The tests that need a GPU."""
    yield "tests marked gpu", partial(_tests, bench)


def _tests(bench: Bench) -> Row:
    files = [str(path) for path in sorted(ROOT.glob("tests/**/test_*.py")) if MARK in path.read_text(encoding="utf-8")]
    # Without the options of setup.cfg, as the machine may lack their plugins, and its versions may warn. A file that
    # lacks a package counts as an error, and the others run.
    options = ["-o", "addopts=", "--import-mode=importlib", "-p", "no:cacheprovider", "-W", "default"]
    options += ["--continue-on-collection-errors"]
    promised = {"KKANJI_REQUIRE_GPU": "1"} if bench.cuda else {}
    done = start([sys.executable, "-m", "pytest", "-q", "-m", "gpu", *options, *files], promised)
    counts = dict.fromkeys(("passed", "failed", "skipped", "error"), 0)
    counts |= {kind.removesuffix("s"): int(number) for number, kind in COUNT.findall(_last_line(done.stdout))}
    if done.returncode not in (0, 1):  # of pytest: all passed, some failed
        raise RuntimeError(f"pytest: status {done.returncode}: {(done.stdout + done.stderr)[-500:]}")
    failed = counts["failed"] + counts["error"]
    said = {"said": done.stdout[-2_000:]} if failed else {}
    return {
        "files": len(files),
        "passed": counts["passed"],
        "failed tests": failed,
        "skipped": counts["skipped"],
        **said,
    }


def fed(bench: Bench) -> Iterator[Measurement]:
    """`python -m benchmarks train`: what training loses to its loader."""
    for network, compiled in ((FUSED_S, False), (B0, True)) if bench.cuda else ((FUSED_S, False),):
        name = f"{variant(network)}{', compiled' if compiled else ''}"
        yield name, partial(_fed, bench, network, compiled)


def _fed(bench: Bench, network: str, compiled: bool) -> Row:
    output = bench.work / f"train-{network}.json"
    images, seconds, precision = (100_000, 5, "bfloat16") if bench.cuda else (1_000, 0.2, "float32")
    size = str(bench.batch)
    given = {"model": network, "batch-size": size, "micro-batch": size, "images": images, "precision": precision}
    options = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    options += ["--repeats", "1", "--seconds", str(seconds), "--output", str(output), *["--compile"][: int(compiled)]]
    _run("benchmarks", "train", *options)
    found = json.loads(output.read_text())
    rates = found["rates"]
    return {
        "images/s, model alone": rates["alone"],
        "images/s, fed": rates["fed"],
        "waited": found["steps"][-1]["waited"],
        "verdict": found["verdict"],
    }


def training(bench: Bench) -> Iterator[Measurement]:
    """A short training by the real command, on the sample, with a trace."""
    yield "fused_s on the sample", partial(_training, bench)


def _training(bench: Bench) -> Row:
    data, run = sample_set(bench), bench.work / "run"
    size, epochs = ("1000", "20") if bench.cuda else ("16", "1")
    options = ("--data", str(data), "--output", str(run), "--model", FUSED_S, "--epochs", epochs, "--batch-size", size)
    recipe = ("--optimizer", "adamw", "--lr", "2e-3", "--ema-images", "20000", "--profile-steps", "3")
    _run("launch", "train", *options, *recipe)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["event"] == "step"]
    traces = [path for path in (run / "profile").rglob("*") if path.is_file()]
    return {
        "images/s": steps[-1]["images_per_s"],
        "waited": steps[-1]["wait_fraction"],
        "first loss": steps[0]["loss"],
        "last loss": steps[-1]["loss"],
        "MB of traces": sum(path.stat().st_size for path in traces) / 1e6,
    }


def sample_set(bench: Bench) -> Path:
    """The embedded sample as a shard set, made by the project's commands; for a CPU a few characters of it."""
    made, originals, source = bench.work / "sample", bench.work / "originals", ROOT / "sample" / "kkanji2"
    if not made.exists():
        if not bench.cuda:
            for character in sorted(source.iterdir())[:FEW]:
                shutil.copytree(character, bench.work / "few" / "kkanji2" / character.name)
            source = bench.work / "few" / "kkanji2"
        _run(
            "launch", "combine", str(source), "--output", str(originals), "--name", "sample", "--licence", "see sample"
        )
        _run("launch", "split", str(originals), "--val", "0.2")
        _run("launch", "pack", str(originals), "--output", str(made))
    return made


def _run(package: str, *arguments: str) -> None:
    """Run a command of ours. Raises RuntimeError with its last words if it fails."""
    done = start([sys.executable, "-m", package, *arguments], {})
    if done.returncode:
        said = "\n".join(done.stderr.splitlines()[-8:])
        raise RuntimeError(f"{package} {arguments[0]}: status {done.returncode}: {said}")


def start(command: Sequence[str], variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command in the checkout to its end, with these variables besides."""
    environment = os.environ | variables
    return subprocess.run(  # noqa: S603  (our own)
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


def _last_line(text: str) -> str:
    return next(reversed(text.strip().splitlines()), "")
