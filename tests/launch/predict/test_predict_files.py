"""predict on many files: a stopped run goes on, nothing is left out, and each form says the same.

The network is a stand-in, as tests of networks are elsewhere: what it reads depends on the image alone.
"""

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from kkanji.inference import predict as inference
from kkanji.inference.output_file import ResultFile
from kkanji.neighbours.made import SEVERAL
from launch.predict import PredictConfig, predict
from shards import InputError
from shards.errors import printable

FILES = 600  # three batches
BAD = (7, 300, 599)
TEI = "{http://www.tei-c.org/ns/1.0}"
ALTO = "{http://www.loc.gov/standards/alto/ns-v4#}"
LINK = "{http://www.w3.org/1999/xlink}href"


class Reader:
    """A stand-in for a network: the character is the number of white pixels. Stops after some batches."""

    batches_left: int | None = None
    read = 0

    def __init__(self, path: Path, device: torch.device) -> None:
        self.path, self.device = path, device

    def judged(self, images: NDArray[np.uint8], top: int) -> list[inference.Judged]:
        if Reader.batches_left is not None:
            Reader.batches_left -= 1
            if Reader.batches_left < 0:
                raise KeyboardInterrupt
        Reader.read += len(images)
        counts = (images > 0).sum(axis=(1, 2)).tolist()
        return [inference.Judged(tuple(guess(count + rank, rank) for rank in range(top))) for count in counts]


def guess(number: int, rank: int) -> inference.Guess:
    point = 0x4E00 + number
    return inference.Guess(character=chr(point), label=f"U+{point:04X}", probability=0.5 / (1 + rank))


@pytest.fixture(autouse=True)
def reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "Predictor", Reader)
    Reader.batches_left, Reader.read = None, 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Links to eight images, three bad files, and a note."""
    root = tmp_path_factory.mktemp("crops")
    for number in range(8):
        pixels = np.zeros((64, 64), np.uint8)
        pixels[10 : 20 + number, 10:20] = 255
        Image.fromarray(pixels).save(root / f"image{number}.png")
    crops = root / "many"
    crops.mkdir()
    for number in range(FILES):
        path = crops / f"{number:04d}.png"
        path.write_bytes(b"x") if number in BAD else path.symlink_to(root / f"image{number % 8}.png")
    (crops / "notes.txt").write_text("")
    return crops


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "manifest.json").write_text("{}")
    return tmp_path / "model"


def run(folder: Path, checkpoint: Path, output: Path, top: int = 2) -> int:
    """Returns the exit code."""
    with pytest.raises(SystemExit) as end:
        predict(PredictConfig(images=(folder,), checkpoint=checkpoint, output=output, top=top))
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".txt", ".xml", ".alto.xml"])
@pytest.mark.parametrize("batches", [0, 1, 2])
def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(
    folder: Path, checkpoint: Path, tmp_path: Path, suffix: str, batches: int, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, output = tmp_path / f"whole{suffix}", tmp_path / f"out{suffix}"
    assert run(folder, checkpoint, whole) == 1
    Reader.batches_left = batches
    with pytest.raises(KeyboardInterrupt) as stop:
        predict(PredictConfig(images=(folder,), checkpoint=checkpoint, output=output, top=2))
    assert not output.exists() and "go" in "".join(getattr(stop.value, "__notes__", ["go"]))
    with (tmp_path / f".out{suffix}.partial").open("ab") as file:
        file.write(b"half a row, whose run was killed")
    Reader.batches_left, Reader.read = None, 0
    capsys.readouterr()
    assert run(folder, checkpoint, output) == 1
    assert output.read_bytes() == whole.read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    captured = capsys.readouterr()
    done = {0: 0, 1: 256, 2: 512}[batches]
    assert Reader.read == FILES - done - sum(number >= done for number in BAD)
    assert captured.out == "" and ("goes on after" in captured.err) == (batches > 0)
    assert (
        "3 unreadable, 1 other files left out" in captured.err and "3 unreadable, --max-unreadable is 0" in captured.err
    )


def test_a_part_of_another_model_or_options_is_not_continued(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    expected = {}
    for top in (1, 2):
        run(folder, checkpoint, tmp_path / f"{top}.csv", top)
        expected[top] = (tmp_path / f"{top}.csv").read_bytes()

    def stop_then_run(output: Path, change: Callable[[], object]) -> bytes:
        Reader.batches_left = 1
        with pytest.raises(KeyboardInterrupt):
            predict(PredictConfig(images=(folder,), checkpoint=checkpoint, output=output, top=2))
        change()
        Reader.batches_left, Reader.read = None, 0
        run(folder, checkpoint, output, 1)
        assert Reader.read == FILES - len(BAD)
        return output.read_bytes()

    assert stop_then_run(tmp_path / "a.csv", lambda: None) == expected[1]
    (tmp_path / "a.csv").unlink()
    new_model = checkpoint / "manifest.json"
    assert stop_then_run(tmp_path / "b.csv", lambda: new_model.write_text('{"model.safetensors": "1"}')) == expected[1]


def test_a_changed_image_begins_it_anew(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    Reader.batches_left = 1
    with pytest.raises(KeyboardInterrupt):
        predict(PredictConfig(images=(folder,), checkpoint=checkpoint, output=tmp_path / "a.csv"))
    os.utime(folder.parent / "image0.png", ns=(1, 1))
    Reader.batches_left, Reader.read = None, 0
    run(folder, checkpoint, tmp_path / "a.csv", 5)
    assert Reader.read == FILES - len(BAD)


def test_nothing_is_replaced_and_one_writes_at_a_time(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    output.write_text("mine")
    with pytest.raises(InputError, match=r"out\.csv: already exists; remove it, or choose another --output"):
        predict(PredictConfig(images=(folder,), checkpoint=checkpoint, output=output))
    assert output.read_text() == "mine" and Reader.read == 0
    with pytest.raises(InputError, match=r"no folder .*/gone; make it"):
        predict(PredictConfig(images=(folder,), checkpoint=checkpoint, output=tmp_path / "gone" / "out.csv"))
    other = tmp_path / "other.csv"
    with ResultFile(other, "somebody's"), pytest.raises(InputError, match=r"other\.csv: .* is writing it; wait for it"):
        predict(PredictConfig(images=(folder,), checkpoint=checkpoint, output=other))


def test_each_form_has_every_file(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    for name in ("a.csv", "a.jsonl", "a.txt"):
        run(folder, checkpoint, tmp_path / name)
    files = [str(folder / f"{number:04d}.png") for number in range(FILES)]
    data = (tmp_path / "a.csv").read_bytes()
    assert data.startswith(b"\xef\xbb\xbffile,rank,")
    rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"))))
    assert [row["file"] for row in rows if row["rank"] in "01"] == files
    assert [Path(row["file"]).stem for row in rows if row["error"]] == [f"{number:04d}" for number in BAD]
    entries = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [entry["file"] for entry in entries] == files
    assert [number for number, entry in enumerate(entries) if "error" in entry] == list(BAD)
    lines = (tmp_path / "a.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split("  ")[0] for line in lines] == files
    assert [number for number, line in enumerate(lines) if "[error: " in line] == list(BAD)
    best = [(row["file"], row["character"]) for row in rows if row["rank"] == "1"]
    assert best == [(entry["file"], entry["guesses"][0]["character"]) for entry in entries if entry["guesses"]]


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """Two pages with three boxes, one of them outside; their file lies beside them."""
    for name, count in (("p1", 300), ("p2", 200)):
        pixels = np.zeros((100, 200), np.uint8)
        pixels.flat[: count * 7 : 7] = 255
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    rows = ["p2.png,10,0,40,20,b", "p1.png,0,0,60,30,a&b", "p2.png,500,0,4,4,c", "p1.png,5,5,50,20,d"]
    (tmp_path / "boxes.csv").write_text("\n".join(["file,x,y,w,h,id", *rows]))
    return tmp_path / "boxes.csv"


def test_boxes_are_carried_into_the_output(pages: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = [
        ("p2.png", 10, 0, 40, 20, "b"),
        ("p1.png", 0, 0, 60, 30, "a&b"),
        ("p2.png", 500, 0, 4, 4, "c"),
        ("p1.png", 5, 5, 50, 20, "d"),
    ]
    outputs = {}
    for form in ("csv", "json", "text"):
        with pytest.raises(SystemExit):
            predict(PredictConfig(boxes=pages, checkpoint=checkpoint, top=1, format=form))
        outputs[form] = capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO(outputs["csv"])))
    found = [(Path(row["file"]).name, *(float(row[name]) for name in "xywh"), row["id"]) for row in rows]
    assert found == expected and "outside of the page" in rows[2]["error"]
    entries = [json.loads(line) for line in outputs["json"].splitlines()]
    assert [(Path(entry["file"]).name, *entry["box"], entry["id"]) for entry in entries] == expected
    assert [row["character"] for row in rows if row["character"]] == [
        entry["guesses"][0]["character"] for entry in entries if entry["guesses"]
    ]
    assert outputs["text"].splitlines()[0].startswith(printable(f"{pages.with_name('p2.png')}#xywh=10,0,40,20  "))


def test_tei_has_a_surface_for_each_page_and_a_zone_for_each_box(pages: Path, checkpoint: Path, tmp_path: Path) -> None:
    predict(PredictConfig(boxes=pages, checkpoint=checkpoint, top=2, output=tmp_path / "o.xml", max_unreadable=1))
    surfaces = ElementTree.parse(tmp_path / "o.xml").getroot().findall(f"{TEI}sourceDoc/{TEI}surface")  # noqa: S314
    graphics = [surface.find(f"{TEI}graphic") for surface in surfaces]
    assert [Path(graphic.get("url", "")).name for graphic in graphics if graphic is not None] == ["p2.png", "p1.png"]
    assert {surface.get("lrx") for surface in surfaces} == {"200"}
    zones = [zone for surface in surfaces for zone in surface.findall(f"{TEI}zone")]
    assert [(zone.get("n"), zone.get("ulx"), zone.get("lrx")) for zone in zones] == [
        ("b", "10", "50"), ("c", "500", "504"), ("a&b", "0", "60"), ("d", "5", "55"),
    ]  # fmt: skip
    assert zones[1].find(f"{TEI}gap") is not None and "outside" in "".join(zones[1].itertext())
    readings = zones[0].findall(f"{TEI}choice/{TEI}unclear")
    assert [reading.get("cert") for reading in readings] == ["0.5000", "0.2500"] and readings[0].text


def alto(path: Path) -> ElementTree.Element:
    """The Layout of an ALTO file, whose names are all different."""
    root = ElementTree.parse(path).getroot()  # noqa: S314
    names = [each.get("ID") for each in root.iter() if each.get("ID")]
    assert root.tag == f"{ALTO}alto" and len(names) == len(set(names))
    assert {each.get("TAGREFS") for each in root.iter(f"{ALTO}String")} - {None} <= set(names)
    layout = root.find(f"{ALTO}Layout")
    assert layout is not None
    return layout


def place(element: ElementTree.Element) -> tuple[float, ...]:
    return tuple(float(element.get(name, "nan")) for name in ("HPOS", "VPOS", "WIDTH", "HEIGHT"))


def test_alto_has_a_page_for_each_page_and_a_string_in_each_box(pages: Path, checkpoint: Path, tmp_path: Path) -> None:
    config = {"boxes": pages, "checkpoint": checkpoint, "max_unreadable": 1}
    predict(PredictConfig(**config, top=3, output=tmp_path / "o.alto.xml"))  # type: ignore[arg-type]
    predict(PredictConfig(**config, top=3, output=tmp_path / "o.jsonl"))  # type: ignore[arg-type]
    found = list(alto(tmp_path / "o.alto.xml"))
    assert [(page.get("PHYSICAL_IMG_NR"), page.get("WIDTH"), page.get("HEIGHT")) for page in found] == [
        ("1", "200", "100"), ("2", "200", "100"),
    ]  # fmt: skip
    blocks = [page.find(f"{ALTO}PrintSpace/{ALTO}TextBlock") for page in found]
    assert [Path(block.get(LINK, "")).name for block in blocks if block is not None] == ["p2.png", "p1.png"]
    assert [place(block) for block in blocks if block is not None] == [(0, 0, 200, 100)] * 2
    entries = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text(encoding="utf-8").splitlines()]
    expected = sorted(entries, key=lambda entry: Path(entry["file"]).name, reverse=True)  # by page, as they come first
    lines = [line for page in found for line in page.iter(f"{ALTO}TextLine")]
    strings = [line.find(f"{ALTO}String") for line in lines]
    for line, string, entry in zip(lines, strings, expected, strict=True):
        assert string is not None and place(line) == place(string) == tuple(entry["box"])
        assert (string.get("TAGREFS") == "unreadable") == ("error" in entry)
        variants = [(each.get("CONTENT"), each.get("VC")) for each in string.iter(f"{ALTO}Variant")]
        readings = [(string.get("CONTENT"), string.get("WC")), *variants]
        guesses = [(each["character"], f"{each['probability']:.4f}") for each in entry["guesses"]]
        assert (readings == guesses) if guesses else (readings == [("", None)])


def test_alto_of_one_page_names_its_image_and_tells_forms_and_doubts(
    pages: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = inference.Guess(character="来", label="U+6765", probability=0.7, forms="來来", forms_probability=0.9)
    named = inference.Guess(character="<より & more>", label="U+E000", probability=0.2)
    judged = inference.Judged((best, named), unknown=0.9, doubt=SEVERAL)
    monkeypatch.setattr(Reader, "judged", lambda _, images, __: [judged] * len(images))
    image = pages.with_name("a&b\ufffe.png")
    pages.with_name("p1.png").rename(image)
    predict(PredictConfig(images=(image,), checkpoint=checkpoint, output=tmp_path / "o.alto.xml"))
    layout = alto(tmp_path / "o.alto.xml")
    (string,) = layout.iter(f"{ALTO}String")
    assert place(string) == (0, 0, 200, 100)  # the whole image
    assert [each.text for each in string.findall(f"{ALTO}ALTERNATIVE")] == ["來"]
    assert [each.get("CONTENT") for each in string.iter(f"{ALTO}Variant")] == ["\ue000"]
    root = ElementTree.parse(tmp_path / "o.alto.xml").getroot()  # noqa: S314
    labels = {each.get("ID"): each.get("LABEL") for each in root.iter(f"{ALTO}OtherTag")}
    assert labels[string.get("TAGREFS")] == SEVERAL
    names = [each.text for each in root.iter(f"{ALTO}fileName")]
    assert names == [str(image).replace("\ufffe", "\\ufffe")]
    judged = inference.Judged((named, best))
    predict(PredictConfig(images=(image,), checkpoint=checkpoint, output=tmp_path / "2.alto.xml"))
    (string,) = alto(tmp_path / "2.alto.xml").iter(f"{ALTO}String")
    assert string.get("CONTENT") == named.character and string.get("TAGREFS") is None


def test_pages_without_a_box_are_told(pages: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("L", (9, 9)).save(pages.with_name("p3.png"))
    config = PredictConfig(images=(pages.parent,), boxes=pages, checkpoint=checkpoint, max_unreadable=1)
    predict(config)
    assert "1 page without a box, such as" in capsys.readouterr().err


def test_each_page_of_a_tiff_is_read(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A page of a book, say, in a file for each chapter: a blank one is told, and the next is read."""
    pages = []
    for side in (20, 0, 30):
        pixels = np.zeros((64, 64), np.uint8)
        pixels[2 : 2 + side, 2 : 2 + side] = 255
        pages.append(Image.fromarray(pixels))
    scans = tmp_path / "scans"
    scans.mkdir()
    pages[0].save(scans / "a.tif", save_all=True, append_images=pages[1:])
    pages[0].save(scans / "b.tif")
    outputs = {}
    for form in ("csv", "json", "text"):
        config = {"images": (scans,), "checkpoint": checkpoint, "top": 1, "format": form, "max_unreadable": 1}
        predict(PredictConfig(**config))  # type: ignore[arg-type]
        outputs[form] = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(outputs["csv"].out)))
    assert [(Path(row["file"]).name, row["page"], bool(row["error"])) for row in rows] == [
        ("a.tif", "1", False), ("a.tif", "2", True), ("a.tif", "3", False), ("b.tif", "", False),
    ]  # fmt: skip
    entries = [json.loads(line) for line in outputs["json"].out.splitlines()]
    assert [entry.get("page") for entry in entries] == [1, 2, 3, None]
    assert [line.partition("  ")[0] for line in outputs["text"].out.splitlines()] == [
        f"{scans / 'a.tif'}, page 1", f"{scans / 'a.tif'}, page 3", str(scans / "b.tif"),
    ]  # fmt: skip
    assert "a.tif, page 2: every pixel is 0" in outputs["text"].err


@pytest.mark.parametrize(("name", "tag"), [("o.xml", f"{TEI}surface"), ("o.alto.xml", f"{ALTO}Page")])
def test_each_page_of_a_tiff_is_a_page_of_its_own_in_xml(checkpoint: Path, tmp_path: Path, name: str, tag: str) -> None:
    pages = [Image.fromarray(np.eye(side, dtype=np.uint8) * 255) for side in (40, 50)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    predict(PredictConfig(images=(tmp_path / "a.tif",), checkpoint=checkpoint, output=tmp_path / name))
    found = list(ElementTree.parse(tmp_path / name).getroot().iter(tag))  # noqa: S314
    assert [page.get("lrx") or page.get("WIDTH") for page in found] == ["40", "50"]
