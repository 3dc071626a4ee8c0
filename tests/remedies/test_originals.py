"""Remedies of what leads to originals: sources, combine, split, render, fetch."""

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.faults.servers.webserver import WebServer
from tests.making import make_font
from tests.remedies.following import (
    OPTION,
    Fault,
    Told,
    Words,
    another_output,
    by_hand,
    each,
    follow,
    options_in,
    run,
    with_option,
    without,
)
from tests.remedies.stock import Stock, cut, draw, flip
from tests.tools.conftest import encode
from tools.commands.fetch import Published
from tools.commands.sample import CHARACTERS

COMBINED = "combined"


def combining(place: Stock, *more: str | Path) -> Words:
    return ("combine", place / "raw", "--output", place / COMBINED, *more)


def raw_with(place: Stock, name: str, content: bytes) -> Path:
    place.copy("raw")
    return place.write(f"raw/{name}", content)


def picture(size: int = 64, *, form: str = "PNG", paper: int = 0) -> bytes:
    pixels = np.full((size, size), paper, np.uint8)
    pixels[size // 4 : size // 2, size // 4 : size // 2] = 255 - paper
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def named_file(told: Told) -> Path:
    """The file that the message is about, below the stock's raw images."""
    name = told.named(r"(?:error: |/)?((?:U\+\w+/)?[\w.-]+\.\w+)(?:: )")
    return next(path for path in (told.place / "raw").rglob(Path(name).name))


def remove_it(told: Told) -> None:
    named_file(told).unlink()


def archive(place: Stock, *, form: str = "gz") -> Path:
    place.copy("raw")
    path = place / ("raw.tar.gz" if form else "raw.tar")
    with tarfile.open(path, f"w:{form}") as tar:  # type: ignore[call-overload]
        tar.add(place / "raw", "raw")
    return path


def cut_archive(place: Stock) -> Words:
    path = archive(place, form="")
    cut(path, path.stat().st_size // 2)
    return ("combine", path, "--output", place / COMBINED)


def damaged_archive(place: Stock) -> Words:
    path = archive(place)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    return ("combine", path, "--output", place / COMBINED)


def make_archive(place: Stock) -> None:
    shutil.rmtree(place / "raw")
    archive(place, form="gz" if (place / "raw.tar.gz").exists() else "")


def loose(place: Stock) -> Words:
    path = archive(place, form="")
    with tarfile.open(path, "a") as tar:
        tar.add(place.write("odd.png", picture()), "odd.png")
    return ("combine", path, "--output", place / COMBINED)


def legacy_arrays(place: Stock, *, labels: object = None) -> Words:
    folder = place / "arrays"
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    np.save(folder / "images.npy", random.integers(0, 99, (4, 64, 64), np.uint8))
    np.save(folder / "labels.npy", np.array([0, 0, 1, 1] if labels is None else labels))
    (folder / "index.json").write_text(json.dumps({"codepoint_to_id": {"一 (U+4E00)": 0, "二 (U+4E8C)": 1}}))
    return ("combine", folder, "--output", place / COMBINED)


def legacy_damaged(place: Stock) -> Words:
    legacy_arrays(place, labels=[0.5, 0, 1, 1])
    return ("combine", "--legacy", place / "arrays", "--output", place / COMBINED)


def damaged_originals(name: str) -> Callable[[Stock], Words]:
    """Originals of which a file was damaged, to be packed."""

    def make(place: Stock) -> Words:
        place.copy("raw")
        place.copy("originals")
        path = place / "originals" / name
        if path.suffix == ".json":
            path.write_text(path.read_text().replace('"version": ', '"version": 9'))
        else:
            flip(path)
        return ("pack", place / "originals", "--output", place / "packed", "--block-size", "125")

    return make


def combine_again(told: Told) -> None:
    """After the folder that the message names was moved away; the split goes with the originals."""
    folder = told.named(r"move (\S+) elsewhere and combine again")
    Path(folder).rename(told.place / "elsewhere")
    for command in (["combine", "raw", "--output", folder], ["split", folder]):
        ended = run(told.place, command)
        assert ended.code == 0, ended.text


def split_again(told: Told) -> None:
    ended = run(told.place, told.named(r"`kkanji ([^`]+)`").split())
    assert ended.code == 0, ended.text


def run_it_first(told: Told) -> None:
    split_again(told)


def unsplit(place: Stock) -> Words:
    place.copy("originals")
    for name in ("split.csv", "split.json"):
        (place / "originals" / name).unlink()
    return ("pack", place / "originals", "--output", place / "packed", "--block-size", "125")


def split_of_others(place: Stock) -> Words:
    unsplit(place)
    draw(place / "other", "U+4E00", 9, seed=7)
    for words in (["combine", "other", "--output", "others"], ["split", "others"]):
        assert run(place, words).code == 0
    for name in ("split.csv", "split.json"):
        shutil.copy(place / "others" / name, place / "originals" / name)
    return ("pack", place / "originals", "--output", place / "packed", "--block-size", "125")


def adopting(place: Stock) -> Words:
    split_of_others(place)
    return ("split", place / "originals", "--from", place / "others/split.csv", "--overwrite")


def combine_the_same(told: Told) -> Words:
    """The split belongs to originals of other sources: with those it fits."""
    return [*with_option(["split", str(told.place / "others")], "--from", *told.words[3:4]), "--overwrite"]


def few(place: Stock) -> Words:
    draw(place / "raw", "U+4E00", 3)
    assert run(place, ["combine", "raw", "--output", "originals"]).code == 0
    return ("split", place / "originals", "--val", "0.05")


def more_images(told: Told) -> None:
    draw(told.place / "raw", "U+4E8C", 60, seed=3)
    ended = run(told.place, ["combine", "raw", "--output", "originals", "--overwrite"])
    assert ended.code == 0, ended.text


def rendered_twice(place: Stock) -> Words:
    place.copy("originals")
    font = make_font(place / "brush.ttf", "一二三")
    words = ["render", "originals", "--fonts", str(font), "--at-most", "20", "--per-class", "2", "--output", "more"]
    assert run(place, words).code == 0
    return with_option([*words[:1], "more", *words[2:]], "--output", "twice")


def fresh(place: Stock, path: str, content: bytes) -> Path:
    return place.write(path, content)


def link_to_folder(place: Stock) -> Words:
    place.copy("raw")
    draw(place / "elsewhere", "U+4E03", 4, seed=9)
    (place / "raw/U+4E03").symlink_to(place / "elsewhere/U+4E03")
    return combining(place)


def give_the_target(told: Told) -> Words:
    (told.place / "raw/U+4E03").unlink()
    return ("combine", told.place / "raw", told.place / "elsewhere", "--output", told.place / COMBINED)


def pipe(place: Stock) -> Words:
    place.copy("raw")
    os.mkfifo(place / "raw/U+4E00/pipe.png")
    return combining(place)


def not_utf8(place: Stock) -> Words:
    place.copy("raw")
    os.rename(place / "raw/U+4E00/00000000.png", os.fsencode(place / "raw/U+4E00") + b"/\xff.png")
    return combining(place)


def rename_it(place: Stock) -> None:
    os.rename(os.fsencode(place / "raw/U+4E00") + b"/\xff.png", place / "raw/U+4E00/x.png")


def strange_class(place: Stock) -> Words:
    place.copy("raw")
    (place / "raw/U+4E00").rename(place / "raw/ichi")
    return combining(place)


def classes_file(told: Told) -> Words:
    columns = told.named(r"CSV file of (\S+) with")
    path = told.place.write("classes.csv", f"{columns}\nichi,一\n")
    return (*told.words, "--classes", path)


def overwritten(place: Stock) -> Words:
    place.copy("raw")
    assert run(place, [str(word) for word in combining(place)]).code == 0
    return combining(place)


def stranger(place: Stock) -> Words:
    place.copy("raw")
    place.write(f"{COMBINED}/mine.txt", "mine")
    return combining(place)


def added(place: Stock) -> Words:
    overwritten(place)
    place.write(f"{COMBINED}/mine.txt", "mine")
    return combining(place, "--overwrite")


def move_it(told: Told) -> None:
    (told.place / COMBINED / "mine.txt").rename(told.place / "mine.txt")


def kuzushiji_arrays(place: Stock, *, labels: int = 4) -> Path:
    random = np.random.default_rng(0)
    np.savez(place / "k49-train-imgs.npz", random.integers(0, 256, (4, 28, 28), np.uint8))
    np.savez(place / "k49-train-labels.npz", np.zeros(labels, np.uint8))
    (place / "k49_classmap.csv").write_text("index,codepoint,char\n0,U+4E00,一\n")
    return place / "k49-train-imgs.npz"


def without_images(place: Stock) -> Words:
    kuzushiji_arrays(place).unlink()
    return ("combine", place.folder, "--output", place / COMBINED)


def give_the_images(told: Told) -> Words:
    """The file whose name the message gives, which stands elsewhere."""
    name = told.named(r"no (\S+) beside it")
    kuzushiji_arrays(told.place).rename(told.place / name)
    return ("combine", told.place / name, "--output", told.place / COMBINED)


def idx(place: Stock, *, labels: int = 4) -> Path:
    header = b"\x00\x00\x08\x03" + np.array([4, 28, 28], ">u4").tobytes()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 28, 28), np.uint8).tobytes()
    place.write("train-images-idx3-ubyte", header + pixels)
    numbers = b"\x00\x00\x08\x01" + np.array([labels], ">u4").tobytes() + bytes(labels)
    place.write("train-labels-idx1-ubyte", numbers)
    place.write("kmnist_classmap.csv", "index,codepoint,char\n0,U+4E00,一\n")
    return place / "train-images-idx3-ubyte"


def webdataset(place: Stock) -> Words:
    with tarfile.open(place / "train.tar", "w") as tar:
        for number, names in enumerate([("png", "cls"), ("png",)]):
            for suffix in names:
                content = encode(np.full((64, 64), number, np.uint8)) if suffix == "png" else b"0"
                member = tarfile.TarInfo(f"{number}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    place.write("classes.csv", "name,class\n0,一\n")
    return ("combine", place / "train.tar", "--classes", place / "classes.csv", "--output", place / COMBINED)


def damaged_split(place: Stock) -> Words:
    """A division that was made elsewhere, and did not arrive whole."""
    place.copy("originals")
    path = place.write("theirs.csv", "id,part\n")
    return ("split", place / "originals", "--from", path, "--overwrite")


def made_by_split(told: Told) -> None:
    place = told.place
    place.copy("originals", "theirs")
    ended = run(place, [told.named(r"by `kkanji (split)`"), "theirs", "--overwrite"])
    assert ended.code == 0, ended.text
    shutil.copy(place / "theirs/split.csv", place / "theirs.csv")


def convert_it(told: Told) -> None:
    named_file(told).write_bytes(picture())


def cut_array(place: Stock) -> Words:
    cut(kuzushiji_arrays(place), 999)
    return ("combine", place.folder, "--output", place / COMBINED)


def without_labels(place: Stock) -> Words:
    path = idx(place)
    (place / "train-labels-idx1-ubyte").unlink()
    return ("combine", path, "--output", place / COMBINED)


def split_of_somebody(place: Stock) -> Words:
    place.copy("originals")
    (place / "originals/split.json").unlink()
    (place / "originals/.kkanji-output").unlink(missing_ok=True)
    place.write("originals/split.csv", "mine")
    return ("split", place / "originals")


def move_elsewhere(told: Told) -> None:
    """The file that the message names."""
    name = told.named(r"beside (\S+), which")
    (told.place / "originals" / name).rename(told.place / name)


def without_training(place: Stock) -> Words:
    unsplit(place)
    lines = [f"{line.split(',')[0]},test" for line in (place.made / "originals/split.csv").read_text().splitlines()[1:]]
    place.write("all.csv", "\n".join(["id,split", *lines, ""]))
    assert run(place, ["split", "originals", "--from", "all.csv"]).code == 0
    return ("balance", "originals", "--per-class", "9", "--output", "balanced", "--workers", "1", "--block-size", "125")


def split_anew(told: Told) -> None:
    assert run(told.place, ["split", "originals", "--overwrite"]).code == 0


def light(place: Stock, *, paper: int = 255) -> Words:
    words = legacy_arrays(place)
    random = np.random.default_rng(0)
    np.save(place / "arrays/images.npy", abs(paper - random.integers(0, 99, (4, 64, 64))).astype(np.uint8))
    return (words[0], "--legacy", *words[1:])


def official(place: Stock) -> Words:
    words = ("combine", kuzushiji_arrays(place), place.copy("raw"), "--output", place / "both")
    assert run(place, [str(word) for word in words]).code == 0
    return ("split", place / "both", "--protocol", "half")


def kanji_alone(told: Told) -> Words:
    assert run(told.place, ["combine", "raw", "--output", "alone"]).code == 0
    return with_option(["split", "alone"], "--protocol", "half")


def odd_class_text(place: Stock) -> Words:
    strange_class(place)
    return combining(place, "--classes", place.write("classes.csv", "name,class\nichi,an\u200bo\n"))


def change_the_text(told: Told) -> None:
    told.place.write("classes.csv", "name,class\nichi,ano\n")


def home(place: Stock) -> Words:
    place.copy("raw")
    place.write("x", "")
    return ("combine", place / "raw", "--output", place.folder)


def inside(told: Told) -> Words:
    return with_option(told.words, told.remedy.split()[-1], told.place / "inside")


def unmarked(place: Stock) -> Words:
    overwritten(place)
    (place / COMBINED / ".kkanji-output").unlink()
    return combining(place, "--overwrite")


def mirror(place: Stock, **files: bytes) -> tuple[WebServer, str]:
    """A web server with the arrays of Kuzushiji-49, some of them otherwise, and its address; and their checksums."""
    kuzushiji_arrays(place)
    paths = [path for path in sorted(place.folder.iterdir()) if path.name.startswith("k49")]
    good = {f"k49/{path.name}": path.read_bytes() for path in paths}
    place.limits["tools.commands.fetch.FILES"] = tuple(
        Published("k49", name.removeprefix("k49/"), hashlib.md5(data, usedforsecurity=False).hexdigest())
        for name, data in good.items()
    )
    server = place.ending.enter_context(WebServer(good | {f"k49/{name}": data for name, data in files.items()}))
    return server, f"http://127.0.0.1:{server.port}/"


def fetching(place: Stock, address: str) -> Words:
    return ("fetch", "k49", "--output", place / "data", "--url", address)


def fetching_damaged(place: Stock) -> Words:
    """From a server that has one file otherwise, for now."""
    server, address = mirror(place, **{"k49_classmap.csv": b"other"})
    place.held = server
    return fetching(place, address)


def damage_mended(told: Told) -> None:
    assert isinstance(told.place.held, WebServer)
    told.place.held.files["k49/k49_classmap.csv"] = (told.place / "k49_classmap.csv").read_bytes()


def from_a_mirror(told: Told) -> Words:
    (option,) = OPTION.findall(told.remedy)
    return with_option(told.words, option, mirror(told.place)[1])


def fetching_over_another(place: Stock) -> Words:
    place.write("data/k49/k49_classmap.csv", "other")
    return fetching(place, mirror(place)[1])


def removed(told: Told) -> None:
    Path(told.named(r"error: (\S+): md5")).unlink()


def empty_archive(place: Stock) -> Words:
    """A server that has nothing under the name of the archive, which has no published checksum."""
    server = place.ending.enter_context(WebServer({"kkanji/kkanji.tar": b""}))
    return ("fetch", "kkanji", "--output", place / "data", "--url", f"http://127.0.0.1:{server.port}/")


def from_a_mirror_with_the_archive(told: Told) -> Words:
    (option,) = OPTION.findall(told.remedy)
    data = archive(told.place, form="").read_bytes()
    server = told.place.ending.enter_context(WebServer({"kkanji/kkanji.tar": data}))
    return with_option(told.words, option, f"http://127.0.0.1:{server.port}/")


def without_class_map(place: Stock) -> Words:
    kuzushiji_arrays(place)
    (place / "k49_classmap.csv").unlink()
    return ("combine", place.folder, "--output", place / COMBINED)


def fetch_it(told: Told) -> Words:
    """By the command in the message; what stands for CODH is a server of this test."""
    command = told.named(r"run `kkanji ([^`]+)`").split()
    ended = run(told.place, [*command, "--url", mirror(told.place)[1]])
    assert ended.code == 0, ended.text
    return with_option(["combine", str(told.place / "data" / command[-1])], "--output", told.place / COMBINED)


def without_fonts(place: Stock) -> Words:
    (place / "fonts").mkdir()
    place.limits["tools.commands.sample.CHARACTERS"] = CHARACTERS[:4]
    return ("sample", "--fonts", place / "fonts", "--output", place / "sample", "--per-class", "1")


def folder_of_fonts(told: Told) -> Words:
    """With the files that the message names; here they are drawn."""
    for name in re.findall(r"[\w-]+\.ttf", told.text.partition(" or below")[0]):
        make_font(told.place / name, CHARACTERS[:4])
    (option,) = OPTION.findall(told.remedy)
    return with_option(told.words, option, told.place.folder)


FAULTS = [
    Fault(
        "a server without the file",
        lambda place: fetching(place, f"{mirror(place)[1]}wrong/"),
        {"name a mirror by --url": from_a_mirror},
    ),
    Fault(
        "a server with nothing in the file",
        empty_archive,
        {"name a mirror by --url": from_a_mirror_with_the_archive},
    ),
    Fault(
        "a file that is damaged on the way",
        fetching_damaged,
        {"run again": damage_mended, "name another mirror by --url": from_a_mirror},
    ),
    Fault("another file of that name", fetching_over_another, {"run again": removed}),
    Fault(
        "arrays without their class map",
        without_class_map,
        {"run `kkanji fetch *`": fetch_it},
    ),
    Fault("labels alone", without_images, {"run `kkanji fetch *`": fetch_it}),
    Fault("no brush fonts", without_fonts, {"give --fonts a folder that holds the files": folder_of_fonts}),
    Fault(
        "an image of another size",
        lambda place: (raw_with(place, "U+4E00/odd.png", picture(32)), combining(place, "--as-is"))[1],
        {
            "leave it out": remove_it,
            "convert it": convert_it,
        },
    ),
    Fault(
        "dark ink, as it is",
        lambda place: (raw_with(place, "U+4E00/dark.png", picture(paper=255)), combining(place, "--as-is"))[1],
        {"leave out --as-is": lambda told: without(told.words, told.remedy.split()[-1])},
    ),
    Fault("an image file in no folder", loose, {"remove it": by_hand(make_archive)}),
    Fault("a pipe", pipe, {"remove it": by_hand(lambda place: (place / "raw/U+4E00/pipe.png").unlink())}),
    Fault("a link to a folder", link_to_folder, {"give its target as a source": give_the_target}),
    Fault("a name that is not UTF-8", not_utf8, {"rename it": by_hand(rename_it)}),
    Fault("an unknown class", strange_class, {"give a CSV file of * with its line": classes_file}),
    Fault(
        "a cut archive",
        cut_archive,
        {"copy it again": by_hand(make_archive)},
    ),
    Fault("a damaged archive", damaged_archive, {"make the archive again": by_hand(make_archive)}),
    Fault(
        "an empty archive",
        lambda place: ("combine", place.write("raw.tar"), "--output", place / COMBINED),
        {"copy it again": by_hand(lambda place: archive(place, form=""))},
    ),
    Fault(
        "arrays as images",
        legacy_arrays,
        {
            "give them by --legacy *": lambda told: [
                "combine",
                *[word for pair in options_in(told.named(r"(give them by .*)")) for word in (pair[0], *pair[1])],
                "--output",
                told.place / COMBINED,
            ]
        },
    ),
    Fault(
        "labels that are no numbers",
        legacy_damaged,
        {"copy it again": by_hand(legacy_arrays), "write it with numpy.save": by_hand(legacy_arrays)},
    ),
    Fault(
        "labels of other arrays",
        lambda place: ("combine", kuzushiji_arrays(place, labels=3), "--output", place / COMBINED),
        {"fetch both files again": by_hand(kuzushiji_arrays)},
    ),
    Fault("labels without images", without_images, {"give the *-imgs.npz files as sources": give_the_images}),
    Fault(
        "a cut array",
        cut_array,
        {"fetch it again": by_hand(kuzushiji_arrays)},
    ),
    Fault(
        "labels of other idx arrays",
        lambda place: ("combine", idx(place, labels=3), "--output", place / COMBINED),
        {"fetch both again": by_hand(idx)},
    ),
    Fault(
        "idx arrays without labels",
        without_labels,
        {"fetch both": by_hand(idx)},
    ),
    Fault("originals of another version", damaged_originals("originals.json"), {"move * elsewhere": combine_again}),
    Fault("damaged pixels of originals", damaged_originals("images.npy"), {"combine again": combine_again}),
    Fault("a damaged table of originals", damaged_originals("originals.csv"), {"combine again": combine_again}),
    Fault("a split of another version", damaged_originals("split.json"), {"run `* --overwrite`": split_again}),
    Fault("no split", unsplit, {"run that first": run_it_first}),
    Fault("a split of other originals", split_of_others, {"run `* --overwrite`": split_again}),
    Fault(
        "a split from other originals",
        adopting,
        {"combine the same sources with the same release": combine_the_same},
    ),
    Fault(
        "no image for validation",
        few,
        {
            "request a larger fraction": lambda told: with_option(told.words, "--val", "0.4"),
            "combine more images": more_images,
        },
    ),
    Fault(
        "rendered twice",
        rendered_twice,
        {"render the originals without them": lambda told: [told.words[0], "originals", *told.words[2:]]},
    ),
    Fault(
        "an output that the command made",
        overwritten,
        {"choose another --output": another_output},
    ),
    Fault("an output of somebody else", stranger, {"choose another --output": another_output}),
    Fault("an output to which something was added", added, {"move that to another place": move_it}),
    Fault("a damaged split.csv", damaged_split, {"make it again by `kkanji split`": made_by_split}),
    Fault("originals without training images", without_training, {"split again": split_anew}),
    Fault("light images", light, {"invert them": by_hand(lambda place: light(place, paper=0))}),
    Fault("official images and halves", official, {"combine Kuzushiji-Kanji alone for it": kanji_alone}),
    Fault("a name of a class that cannot be shown", odd_class_text, {"change it": change_the_text}),
    Fault("the current folder", home, {"choose a folder inside as --output": inside}),
    Fault(
        "an output without its marker",
        unmarked,
        {"remove it by hand if nobody needs it": by_hand(lambda place: shutil.rmtree(place / COMBINED))},
    ),
    Fault("a split of somebody else", split_of_somebody, {"move that elsewhere": move_elsewhere}),
]


@each(FAULTS)
def test_a_remedy_works(fault: Fault, remedy: str, place: Stock) -> None:
    assert follow(place, fault, remedy).code == 0
