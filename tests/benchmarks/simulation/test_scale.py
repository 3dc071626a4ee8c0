import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.simulation import costs, questions, validation
from benchmarks.simulation import scale as module
from benchmarks.simulation.costs import Figure, Network
from benchmarks.simulation.scale import lines, recorded, scale
from benchmarks.simulation.simulate import simulate
from benchmarks.simulation.validation import PACES, Pace, validate
from shards import InputError, StorageError

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"
SMALL = Network(name="b0", multiply_adds=67e6, saved_bytes=6e6, parameters=9_000_000)


def at(rate: float) -> dict[str, Figure]:
    """b0's measured images/s on a GPU."""
    return {"b0": Figure(value=rate, unit="images/s", origin="measured", source="made up")}


def known(results: Path = RESULTS) -> dict[str, Figure]:
    return costs.figures(results, cores=112, network_gbit=100, disk_gb=10, latency_ms=100)


@pytest.mark.parametrize("pace", [PACES[2], PACES[5]], ids=lambda pace: pace.name)
def test_nothing_real_is_faster_than_predicted(pace: Pace) -> None:
    """A real pipeline whose stages sleep, never too short. How much slower it is says more of the machine's other jobs
    than of the model, so that is for the benchmark to tell."""
    (row,) = validate([pace], repeats=1)
    assert row["n"] == 1
    assert 0 < row["median"] < 1.03 * row["predicted"], row


def test_a_wrong_model_would_be_noticed() -> None:
    """The same pipeline, predicted as if shards came at once."""
    (row,) = validate([PACES[2]], repeats=1)
    wrong = simulate(replace(PACES[2], fetch_s=0.0).case()).images_per_s
    assert wrong / row["median"] - 1 > 0.5


@pytest.mark.timeout(60)
def test_an_error_of_a_stage_ends_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: validation.SlowStore, name: str, *_: object) -> None:
        raise StorageError(f"{self.location}/{name}: refused")

    monkeypatch.setattr(validation.SlowStore, "download", refuse)
    with pytest.raises(StorageError, match=r"train-000\d\d.tar: refused"):
        validate([PACES[5]], repeats=1)


def test_there_are_six_configurations_that_differ() -> None:
    assert len({pace.name for pace in PACES}) == len(PACES) >= 6
    assert {pace.ranks for pace in PACES} >= {1, 2, 4}


def test_more_is_needed_for_a_faster_gpu() -> None:
    slow, fast = (questions.needs(known(), [SMALL], at(rate))[0] for rate in (20_000.0, 60_000.0))
    for name in ("network, Gbit/s", "disk, MB/s", "to each GPU, GB/s", "cores, streaming"):
        assert slow[name] < fast[name], name
    assert 1 <= slow["cores, cached"] <= fast["cores, cached"]
    demand = 0.99 * 8 * 60_000 * known()["plain"].value * 8e-9
    assert demand * 0.98 < fast["network, Gbit/s"] < demand * 1.2
    assert slow["GPU"] == "measured" and slow["images/s"] == pytest.approx(160_000, rel=0.02)


def test_small_shares_break_at_the_launches_of_kernels() -> None:
    rows = questions.breaks(known(), SMALL, at(40_000.0), (64,))
    strong, weak = rows
    assert strong["batch"] == "50,000 in all" and strong["first limit"] == "kernel launches"
    assert weak["of the GPUs"] > strong["of the GPUs"]


def test_estimates_are_labelled_and_replaced_by_what_was_measured() -> None:
    assert {figure.origin for figure in costs.gpu_rates(SMALL, {}).values()} == {"ESTIMATE"}
    assert costs.gpu_rates(SMALL, at(5.0))["measured"].value == 5.0
    low, high = (figure.value for figure in costs.gpu_rates(SMALL, {}).values())
    assert low < high
    assert all(figure.source and figure.unit for figure in known().values())


def examined(folder: Path, device: str, gpu: str | None) -> Path:
    """A folder with the result of an examination."""
    steps = [
        {"name": "b0, eager, 6,250", "network": "kkanji_efficientnet_b0", "images/s": 60_000.0, "host ms": 20.0},
        {"name": "b0, compiled, 6,250", "network": "kkanji_efficientnet_b0", "images/s": 90_000.0, "host ms": 9.0},
        {"name": "b0, compiled, CUDA graphs, 6,250", "failed": "OutOfMemoryError"},
        {
            "name": "fused_s, eager, 6,250",
            "network": "kkanji_efficientnet_fused_s",
            "images/s": 120_000.0,
            "host ms": 8,
        },
    ]
    for name in ("loader", "stream", "prepare"):
        (folder / f"{name}.json").write_text((RESULTS / f"{name}.json").read_text())
    result = {"options": {"device": device}, "environment": {"gpu": gpu}, "steps": steps}
    (folder / "gpu.json").write_text(json.dumps(result))
    return folder


def test_step_times_are_those_of_a_gpu_that_was_examined(tmp_path: Path) -> None:
    rates = costs.measured_rates(examined(tmp_path, "cuda", "NVIDIA H200"), {"fused_s": 5.0})
    assert {name: rate.value for name, rate in rates.items()} == {"b0": 90_000.0, "fused_s": 5.0}
    assert rates["b0"].source == "gpu.json, b0, compiled, 6,250, NVIDIA H200" and rates["fused_s"].source == "--rates"
    least = known(tmp_path)["least step"]
    assert least.value == pytest.approx(0.008) and least.origin == "measured" and "NVIDIA H200" in least.source


def test_an_examination_on_a_cpu_says_nothing_about_a_gpu(tmp_path: Path) -> None:
    assert costs.measured_rates(examined(tmp_path, "cpu", None), {}) == {}
    assert known(tmp_path)["least step"].origin == "ESTIMATE"
    assert costs.measured_rates(RESULTS / "nowhere", {}) == {}


def test_recorded_streaming_is_predicted() -> None:
    rows = recorded(RESULTS / "stream.json")
    assert [row["name"] for row in rows] == ["stream.json at 20 ms", "stream.json at 100 ms"]
    assert all(abs(row["error"]) < 0.15 for row in rows), rows


def test_small_run_writes_and_prints_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(costs, "network", lambda _: SMALL)
    monkeypatch.setattr(module, "validate", lambda *, repeats: validate(PACES[:1], repeats=repeats))
    scale(variants=("b0",), gpus=(8, 16), repeats=1, results=RESULTS, output=tmp_path / "scale.json")
    found, printed = json.loads((tmp_path / "scale.json").read_text()), capsys.readouterr().out
    tables = ("validation", "recorded", "needs", "breaks", "layouts", "troubles")
    assert [len(found[name]) for name in tables] == [1, 2, 2, 6, 20, 10]
    assert found["environment"]["cores"] and found["inputs"]["gather"]["origin"] == "measured"
    assert printed.count("ESTIMATE") == 4
    well, *troubled = (row["100 steps, s"] for row in found["troubles"][:5])
    assert all(seconds > well for seconds in troubled[1:]), "streaming has some room for failed requests"
    plain, small, raw = (
        next(row for row in found["layouts"] if row["layout"] == name)
        for name in ("packed, plain", "packed, zstd", "one raw member an image")
    )
    assert small["GB"] < plain["GB"] < raw["GB"] and small["requests"] < plain["requests"]
    assert plain["GB"] == pytest.approx(costs.IMAGES * known()["plain"].value / 1e9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus": (12,)}, r"--gpus \[12\]: expected numbers up to 8, or multiples of 8"),
        ({"rates": {"b0": 0.0}}, r"--rates b0 0.0: expected images/s above 0"),
        ({"network_gbit": 0}, "expected more than 0"),
        ({"variants": ("b9",)}, "kkanji_efficientnet_b9"),
    ],
)
def test_nonsense_is_refused(options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        scale(output=tmp_path / "scale.json", results=RESULTS, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "scale.json").exists()


def test_results_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"loader.json: .*expected the JSON of `python -m benchmarks loader`"):
        scale(results=tmp_path, output=tmp_path / "scale.json")
    (tmp_path / "loader.json").write_text('{"options": {"threads": 2}, "rows": []}')
    with pytest.raises(
        InputError, match=r"loader.json: no measured row with .*run `python -m benchmarks loader` again"
    ):
        scale(results=tmp_path, output=tmp_path / "scale.json")


def test_lines_are_as_wide_as_their_widest_cell() -> None:
    assert lines([{"a": 1_000, "b": 0.5}, {"a": 2, "b": None}]) == [
        "    a        b",
        "1,000      0.5",
        "    2  over 64",
    ]
    assert lines([]) == ["(nothing)"]
