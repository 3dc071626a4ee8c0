"""The report of a small made-up run: what it shows, what it refuses, and that it stands alone."""

import base64
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from kkanji.evaluation.predictions import Predictions, load_predictions
from kkanji.report import write_report
from kkanji.report._log import read_log
from shards.errors import InputError

CHARACTERS = tuple("\U00024fa3一二三人入大犬太土士己已巳日目白百千干于天夫末")
IMAGES_EACH = 12
STEPS_PER_EPOCH = 100
PICTURES = {
    "loss",
    "accuracy",
    "precision_recall_f1",
    "learning_rate",
    "throughput",
    "waiting_for_data",
    "accuracy_by_training_images",
    "calibration",
    "lowest_recall",
    "misread",
}
# (true, predicted, how often, probability), in the order the report must put them: by count, then by confidence.
MISREADINGS = ((9, 10, 6, 0.6), (4, 5, 5, 0.9), (11, 12, 5, 0.7), (0, 7, 1, 0.5))
VOID_TAGS = {"meta", "img", "source", "br", "link"}
TAGS_WITHIN_WORDS = {"b", "code", "span"}
LOADING = {"src", "srcset", "href", "data", "poster", "action"}


class Page(HTMLParser):
    """What the tests want to know of an HTML file; refuses tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._separate(tag)
        if tag not in VOID_TAGS:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self._separate(tag)
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.words += data

    def _separate(self, tag: str) -> None:
        if tag not in TAGS_WITHIN_WORDS:
            self.words += " "

    def all(self, tag: str) -> list[dict[str, str]]:
        """The attributes of each such tag."""
        return [attributes for found, attributes in self.tags if found == tag]

    @property
    def text(self) -> str:
        """The words with white space made single; a space that does not break is a space."""
        return " ".join(self.words.split())


@dataclass
class MadeRun:
    """A run's folder with made-up content, and what write_report needs beside it."""

    folder: Path
    characters: Sequence[str] = CHARACTERS
    asked: list[int] = field(default_factory=list)

    def write(self) -> Page:
        counts = np.arange(len(self.characters), dtype=np.int64) * 7 + 1
        path = write_report(self.folder, characters=self.characters, training_counts=counts, images_of=self.images_of)
        assert path == self.folder / "report.html"
        return Page(path.read_text(encoding="utf-8"))

    def images_of(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        self.asked += positions.tolist()
        return np.stack([image_at(int(position)) for position in positions])

    def change(self, name: str, change: Callable[[dict[str, Any]], object]) -> None:
        """Edit a JSON file of the run."""
        record = json.loads((self.folder / name).read_text())
        change(record)
        (self.folder / name).write_text(json.dumps(record))


def image_at(position: int) -> NDArray[np.uint8]:
    """An image that tells where it lies: its first row is the position's bytes."""
    image = np.full((64, 64), 128, np.uint8)
    image[0, :8] = np.frombuffer(np.int64(position).tobytes(), np.uint8)
    return image


def position_of(image: NDArray[np.uint8]) -> int:
    return int(np.frombuffer(image[0, :8].tobytes(), np.int64)[0])


def make_run(folder: Path, *, misreadings: Sequence[tuple[int, int, int, float]] = MISREADINGS) -> MadeRun:
    folder.mkdir(parents=True)
    predictions = make_predictions(misreadings)
    save_predictions(folder, predictions)
    right = float((predictions["predicted"][:, 0] == predictions["label"]).mean())
    (folder / "config.json").write_text(json.dumps(make_config()))
    (folder / "evaluation.json").write_text(json.dumps(make_evaluation(len(predictions["label"]), right)))
    (folder / "log.jsonl").write_text("".join(f"{line}\n" for line in make_log()))
    return MadeRun(folder)


def make_predictions(misreadings: Sequence[tuple[int, int, int, float]]) -> dict[str, NDArray[Any]]:
    """Every class has as many images; positions run backwards so that a row is not taken for a position."""
    label = np.repeat(np.arange(len(CHARACTERS), dtype=np.int32), IMAGES_EACH)
    predicted = (label[:, None] + np.arange(5, dtype=np.int32)) % len(CHARACTERS)
    probability = np.tile(np.array([0.8, 0.1, 0.05, 0.03, 0.02], np.float32), (len(label), 1))
    for true, rival, count, confidence in misreadings:
        rows = np.flatnonzero(label == true)[:count]
        predicted[rows] = [rival, true, *((rival + 1 + np.arange(3)) % len(CHARACTERS))]
        # The later images of a pair are the more confident mistakes; the mean stays.
        probability[rows, 0] = confidence + 0.01 * (np.arange(count) - (count - 1) / 2)
        probability[rows, 1] = 0.05
    right = (predicted == label[:, None]).argmax(axis=1)
    return {
        "position": np.arange(len(label), dtype=np.int64)[::-1] + 1000,
        "label": label,
        "predicted": predicted.astype(np.int32),
        "probability": probability,
        "label_probability": probability[np.arange(len(label)), right],
    }


def save_predictions(folder: Path, arrays: Any) -> None:
    np.savez(folder / "predictions.npz", **arrays)


def make_config() -> dict[str, Any]:
    return {
        "config": {"data": "sets/small", "model": "kkanji_b0", "batch_size": 32, "epochs": 4, "lr": 0.002},
        "environment": {"torch": "2.14.1", "commit": "0123abc", "device": "cpu", "cores": 2},
        "data": {
            "name": "Kuzushiji-Small",
            "licence": "made by nobody, CC0",
            "lineage": "known",
            "classes": len(CHARACTERS),
            "train_images": 3200,
            "val_images": 288,
            "identity": "ab" * 32,
        },
    }


def make_evaluation(images: int, top1: float) -> dict[str, Any]:
    macro = ("precision_macro", "recall_macro", "f1_macro")
    weighted = ("precision_weighted", "recall_weighted", "f1_weighted")
    measured = {"classes": 12, "images": 144, "top1": 0.9, "top5": 0.97, "loss": 0.4}
    nothing = {"classes": 0, "images": 0, "top1": None, "top5": None, "loss": None}
    return {
        "split": "val",
        "images": images,
        "classes": len(CHARACTERS),
        "checkpoint": "checkpoints/000400",
        "lineage": "known",
        "data": "ab" * 32,
        "tta": 1,
        "without_images": [],
        "without_training": [],
        "temperature": None,
        "loss": 0.31,
        "top1": top1,
        **dict.fromkeys(("top5", "balanced_accuracy", *macro, *weighted, "calibration_error"), 0.93),
        "bins": [
            {"training_images": "1", "low": 1, "high": 1, **measured},
            {"training_images": "2-5", "low": 2, "high": 5, **nothing},
            {"training_images": "151+", "low": 151, "high": None, **measured},
        ],
    }


def step_line(step: int, **changes: Any) -> str:
    epoch = step / STEPS_PER_EPOCH
    values = {"event": "step", "step": step, "samples": step * 32, "epoch": epoch, "loss": 3 / (1 + epoch)}
    values |= {"top1": 0.2 * epoch, "top5": 0.22 * epoch, "lr": 0.002, "images_per_s": 5000.0}
    return json.dumps(values | {"wait_share": 0.01, "seconds": step * 0.1} | changes)


def evaluation_line(step: int, **changes: Any) -> str:
    rates = dict.fromkeys(("balanced_accuracy", "precision_macro", "recall_macro", "f1_macro"), 0.5)
    rates |= dict.fromkeys(("precision_weighted", "recall_weighted", "f1_weighted"), 0.6)
    values = {"event": "evaluation", "split": "val", "step": step, "epoch": step / STEPS_PER_EPOCH, "loss": 0.9}
    values |= {"top1": 0.6, "top5": 0.8, "images": 288, "images_per_s": 9000.0, "seconds": 1.0}
    return json.dumps(values | rates | changes)


def make_log() -> list[str]:
    lines = [json.dumps({"event": "start", "anything": []})]
    for step in range(10, 4 * STEPS_PER_EPOCH + 1, 10):
        lines.append(step_line(step))
        if step % STEPS_PER_EPOCH == 0:
            lines.append(evaluation_line(step))
    return lines


def decode(uri: str) -> NDArray[np.uint8]:
    kind, data = uri.split(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return np.asarray(image)


def load(run: MadeRun) -> Predictions:
    return load_predictions(run.folder / "predictions.npz")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    return make_run(tmp_path_factory.mktemp("report") / "first")


@pytest.fixture(scope="module")
def page(run: MadeRun) -> Page:
    return run.write()


def test_the_header_says_what_was_trained_on_what(page: Page) -> None:
    assert "kkanji_b0 trained on Kuzushiji-Small" in page.text
    assert "24 character classes, 3,200 training images" in page.text
    assert "288 images of the split val" in page.text
    assert "Data: made by nobody, CC0" in page.text


def test_the_header_has_the_headline_figures(page: Page) -> None:
    assert re.search(r"Top-1 accuracy 94.10 % .* 95 % interval 90.8 % to 96.3 %", page.text)
    assert re.search(r"Balanced accuracy 93.00 % .* Weighted F1 93.00 %", page.text)


def test_known_lineage_is_said_and_no_warning(page: Page) -> None:
    assert "Lineage known." in page.text
    assert "Warning" not in page.text


@pytest.mark.usefixtures("page")
def test_the_pictures_are_png_files_large_enough_to_read(run: MadeRun) -> None:
    assert {path.name for path in (run.folder / "report").iterdir()} == {f"{name}.png" for name in PICTURES}
    for path in (run.folder / "report").iterdir():
        with Image.open(path) as image:
            image.load()
            assert image.format == "PNG" and image.width >= 800 and image.height >= 170


def test_every_picture_is_in_the_page(run: MadeRun, page: Page) -> None:
    embedded = {base64.b64decode(image["src"].split(",")[1]) for image in page.all("img")}
    for path in (run.folder / "report").iterdir():
        assert path.read_bytes() in embedded, path.name


def test_charts_have_a_version_for_dark_pages(page: Page) -> None:
    dark = page.all("source")
    assert len(dark) == len(PICTURES - {"misread"})
    assert all(source["media"] == "(prefers-color-scheme: dark)" for source in dark)
    assert all(decode(source["srcset"])[0, 0, :3].max() < 64 for source in dark)


def test_the_page_asks_for_nothing(run: MadeRun, page: Page) -> None:
    loaded = [value for _tag, attributes in page.tags for name, value in attributes.items() if name in LOADING]
    assert loaded
    assert all(value.startswith(("data:", "#")) for value in loaded)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _attributes in page.tags}
    text = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "http://" not in text and "https://" not in text and "@import" not in text
    assert all(target.startswith("data:") for target in re.findall(r"url\((.{5})", text))


def test_every_image_has_a_text_and_every_link_a_target(page: Page) -> None:
    assert all(image["alt"] for image in page.all("img"))
    ids = {attributes.get("id") for _tag, attributes in page.tags}
    assert all(link["href"].removeprefix("#") in ids for link in page.all("a"))
    assert len(page.all("figcaption")) == len(page.all("figure"))


def test_misreadings_come_by_frequency_then_confidence(page: Page) -> None:
    found = re.findall(r"written (?:\S )?(U\+\w+) → read (?:\S )?(U\+\w+) (\d+) image", page.text)
    expected = [
        (f"U+{ord(CHARACTERS[true]):04X}", f"U+{ord(CHARACTERS[rival]):04X}", str(count))
        for true, rival, count, _confidence in MISREADINGS
    ]
    assert found == expected


def test_a_card_has_share_probability_and_training_counts(page: Page) -> None:
    assert "50.0 % of the 12 images of 土; mean probability 60 % (right reading 5 %)." in page.text
    assert "Training originals: 土 64, 士 71" in page.text


def test_a_card_shows_the_most_confident_misread_images(run: MadeRun, page: Page) -> None:
    shown = [decode(image["src"]) for image in page.all("img") if "example" in image["alt"]]
    predictions = load(run)
    rows = ((predictions.label == 9) & predictions.wrong()).nonzero()[:, 0].flip(0)[:3]
    assert [position_of(image) for image in shown[:3]] == predictions.position[rows].tolist()
    assert len(shown) == 3 + 3 + 3 + 1
    assert (shown[0] == image_at(position_of(shown[0]))).all()
    assert sorted(run.asked[:10]) == sorted(position_of(image) for image in shown)


def test_a_character_without_a_glyph_is_named_by_its_code_point(page: Page) -> None:
    assert "of the 12 images of U+24FA3" in page.text
    assert CHARACTERS[0] not in page.text


def test_the_weakest_characters_are_listed(page: Page) -> None:
    assert re.search(r"土 U\+571F 6 of 12 50.0 % 64 士 U\+58EB 6×", page.text)


def test_a_bin_without_images_is_no_zero(page: Page) -> None:
    assert "2-5 0 0 – – –" in page.text


def test_published_figures_stay_out_of_another_task(page: Page) -> None:
    assert "shinkirou" not in page.text and "as published" not in page.text


def test_the_settings_are_listed(page: Page) -> None:
    assert "batch_size 32" in page.text and "commit 0123abc" in page.text and f"identity {'ab' * 32}" in page.text
    assert len(page.all("details")) == 4


def test_the_same_run_gives_the_same_bytes_and_leaves_nothing_else(run: MadeRun, page: Page) -> None:
    before = (run.folder / "report.html").read_bytes()
    for name in ("misread", "mine"):
        (run.folder / "report" / f"{name}.png").write_bytes(b"")
    assert run.write().text == page.text
    (run.folder / "report" / "mine.png").unlink()
    assert (run.folder / "report.html").read_bytes() == before
    assert {path.stem for path in (run.folder / "report").iterdir()} == PICTURES
    assert not list(run.folder.rglob("*.part*"))


def test_published_figures_are_shown_beside_a_run_over_the_whole_set(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    run.characters = [chr(0x4E00 + number) for number in range(3000)]
    run.change("config.json", lambda record: record["data"].update(classes=3000))
    text = run.write().text
    assert "For orientation, not for comparison." in text and "cgn-shinkirou/kkanji (2022)" in text
    assert "151+ 12 144 90.0 % 84.0–93.9 % 97.0 % 96.5 %" in text
    assert "94.28 %" in text and "0.9416" in text


def test_unknown_lineage_is_a_warning_and_hostile_words_stay_words(tmp_path: Path) -> None:
    run = make_run(tmp_path / "<i>run")
    hostile = '<script>alert(1)</script> & "$x^2$" 漢字\U00024fa3'
    run.change("config.json", lambda record: record["data"].update(name=hostile, licence=hostile, lineage="unknown"))
    run.change(
        "config.json", lambda record: record["config"].update({"model": hostile, "data": None, hostile: hostile})
    )
    run.change("config.json", lambda record: record["environment"].update(versions={"torch": hostile}))
    run.change("evaluation.json", lambda record: record.update(checkpoint=hostile, split=hostile))
    page = run.write()
    assert "Warning: the independence of this split cannot be proven." in page.text
    assert not page.all("script") and not page.all("i")
    assert f"{hostile} trained on {hostile}" in page.text
    assert f"versions.torch {hostile}" in page.text and "data –" in page.text


def test_unknown_lineage_of_the_evaluated_split_is_enough_for_the_warning(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    run.change("evaluation.json", lambda record: record.update(lineage="unknown"))
    assert "Warning: the independence of this split cannot be proven." in run.write().text


def test_a_run_without_mistakes_and_without_log(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", misreadings=())
    (run.folder / "log.jsonl").write_text("")
    text = run.write().text
    assert "No image of the evaluated split was misread." in text
    assert "was read without a mistake" in text
    assert "The log of this run holds no values." in text
    assert {path.stem for path in (run.folder / "report").iterdir()} == {"accuracy_by_training_images", "calibration"}


MAKERS = [
    ("config.json", "launch/train.py"),
    ("log.jsonl", "launch/train.py"),
    ("evaluation.json", "launch/evaluate.py"),
    ("predictions.npz", "launch/evaluate.py"),
]


@pytest.mark.parametrize(("name", "maker"), MAKERS)
def test_a_missing_file_is_named_with_the_command_that_makes_it(tmp_path: Path, name: str, maker: str) -> None:
    run = make_run(tmp_path / "run")
    (run.folder / name).unlink()
    with pytest.raises(InputError, match=rf"{re.escape(name)}: no such file; .*{maker}"):
        run.write()


@pytest.mark.parametrize(("name", "maker"), MAKERS)
def test_a_damaged_file_is_named_with_the_command_that_makes_it(tmp_path: Path, name: str, maker: str) -> None:
    run = make_run(tmp_path / "run")
    (run.folder / name).write_bytes(b"PK\x03\x04 no longer what it was\n")
    with pytest.raises(InputError, match=rf"{re.escape(name)}.*{maker}"):
        run.write()


@pytest.mark.parametrize(
    ("name", "key", "value", "found"),
    [
        ("config.json", "data", None, "data is None, expected dict"),
        ("evaluation.json", "top1", "high", "top1 is 'high', expected a number"),
        ("evaluation.json", "images", 7, "288 images, but 7 in evaluation.json"),
        ("evaluation.json", "bins", [1], "a bin is 1, expected an object"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, name: str, key: str, value: object, found: str) -> None:
    run = make_run(tmp_path / "run")
    run.change(name, lambda record: record.update({key: value}))
    with pytest.raises(InputError, match=re.escape(found)):
        run.write()


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    run.change("evaluation.json", lambda record: record.pop("f1_macro"))
    with pytest.raises(InputError, match=r"evaluation\.json: no field 'f1_macro'"):
        run.write()


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"label": np.full(288, 24, np.int32)}, "a class outside of 0 to 23"),
        ({"label": np.zeros(287, np.int32)}, "arrays of shapes"),
        ({"label_probability": np.full(288, np.nan, np.float32)}, "not a number"),
        ({"position": np.array([{}] * 288)}, "allow_pickle"),
    ],
)
def test_wrong_predictions_are_refused(tmp_path: Path, changes: dict[str, NDArray[Any]], found: str) -> None:
    run = make_run(tmp_path / "run")
    save_predictions(run.folder, make_predictions(MISREADINGS) | changes)
    with pytest.raises(InputError, match=rf"predictions\.npz: .*{found}"):
        run.write()


def test_a_class_map_of_another_data_set_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    run.characters = CHARACTERS[:-1]
    with pytest.raises(InputError, match="24 classes, but the class map has 23 characters"):
        run.write()


def test_images_of_a_wrong_shape_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    counts = np.ones(len(CHARACTERS), np.int64)
    with pytest.raises(ValueError, match=r"images_of gave float64 of shape \(1, 2\)"):
        write_report(
            run.folder,
            characters=CHARACTERS,
            training_counts=counts,
            images_of=lambda _positions: np.zeros((1, 2)),  # type: ignore[arg-type, return-value]
        )


def write_log(folder: Path, lines: Sequence[str], end: str = "\n") -> Path:
    path = folder / "log.jsonl"
    path.write_text("\n".join(lines) + end)
    return path


def test_after_a_resume_the_later_line_wins_and_the_lost_attempt_is_forgotten(tmp_path: Path) -> None:
    first = [step_line(10, loss=3), step_line(20, loss=2), evaluation_line(20, top1=0.2)]
    lost = [step_line(25, loss=9), step_line(30, loss=9), evaluation_line(30, top1=0.9), step_line(40, loss=9)]
    again = [json.dumps({"event": "resume", "step": 20}), step_line(30, loss=1), evaluation_line(30, top1=0.3)]
    log = read_log(write_log(tmp_path, first + lost + [step_line(25, loss=1.5)] + again))
    assert log.steps["step"].tolist() == [10, 20, 25, 30]
    assert log.steps["loss"].tolist() == [3, 2, 1.5, 1]
    assert log.evaluations["top1"].tolist() == [0.2, 0.3]


def test_an_evaluation_repeated_at_the_same_step_wins(tmp_path: Path) -> None:
    lines = [step_line(10), evaluation_line(10, top1=0.1), evaluation_line(10, top1=0.2)]
    assert read_log(write_log(tmp_path, lines)).evaluations["top1"].tolist() == [0.2]


def test_a_last_line_cut_by_a_crash_is_left_out(tmp_path: Path) -> None:
    log = read_log(write_log(tmp_path, [step_line(10), step_line(20)[:25]], end=""))
    assert log.steps["step"].tolist() == [10]


def test_a_whole_last_line_without_a_line_feed_counts(tmp_path: Path) -> None:
    log = read_log(write_log(tmp_path, [step_line(10), step_line(20)], end=""))
    assert log.steps["step"].tolist() == [10, 20]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (step_line(20)[:25], "not JSON"),
        ("[1, 2]", "found list, expected a JSON object"),
        ('{"event": "step", "step": 20}', "no field 'epoch'"),
        (step_line(20, loss="low"), "loss is 'low', expected a number"),
        (step_line(20).replace('"step": 20', '"step": NaN'), "step is nan"),
    ],
)
def test_any_other_malformed_line_is_an_error_with_its_number(tmp_path: Path, line: str, found: str) -> None:
    path = write_log(tmp_path, [step_line(10), line, step_line(30)])
    with pytest.raises(InputError, match=rf"log\.jsonl, line 2: {re.escape(found)}"):
        read_log(path)


def test_a_malformed_last_line_that_was_written_whole_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 2"):
        read_log(write_log(tmp_path, [step_line(10), "{"]))


def test_other_events_and_splits_are_ignored_and_null_is_not_zero(tmp_path: Path) -> None:
    lines = ['{"event": "new"}', "", step_line(10, top1=None), evaluation_line(10, split="test")]
    log = read_log(write_log(tmp_path, lines))
    assert np.isnan(log.steps["top1"]).tolist() == [True]
    assert log.evaluations["step"].tolist() == []
