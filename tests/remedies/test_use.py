"""Remedies of what comes after training: evaluate, average, export, neighbours, predict."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.remedies.following import (
    Fault,
    Told,
    Words,
    another_output,
    by_hand,
    each,
    follow,
    giving,
    run,
    with_option,
    without,
)
from tests.remedies.stock import Stock, draw, flip
from tests.remedies.test_training import SHORT

EMBEDDED = Path(__file__).parents[2] / "models/kuzushiji-kanji"


def done(place: Stock, *words: str | Path) -> None:
    ended = run(place, [str(word) for word in words])
    assert ended.code == 0, ended.text


def using(command: str, *more: str) -> Callable[[Stock], Words]:
    """A command for a run's checkpoint, with more options, in which {0} is the test's folder and {1} the stock's."""

    def make(place: Stock) -> Words:
        place.copy_run()
        return [command, "--checkpoint", str(place / "run/checkpoints/best"), *filled(place, more)]

    return make


def filled(place: Stock, words: tuple[str, ...]) -> list[str]:
    return [word.format(place.folder, place.made) for word in words]


def unevaluated(*more: str) -> Callable[[Stock], Words]:
    """`export` of a checkpoint that was not evaluated."""

    def make(place: Stock) -> Words:
        words = using("export", *more)(place)
        (place / "run/evaluation.json").unlink()
        return words

    return make


def evaluate_it(told: Told) -> None:
    """By the command in the message; what it leaves open is the set."""
    command = told.named(r"`kkanji ([^`]+)`").split()
    if "--checkpoint" not in command:
        command += ["--checkpoint", str(told.place / "run/checkpoints/best")]
    done(told.place, *command, "--data", told.place.made / "shards")


def of_other_weights(place: Stock) -> Words:
    """An evaluation of the last checkpoint, and the export of the one before."""
    place.copy_run()
    best = (place / "run/checkpoints/best").resolve()
    (other,) = (path for path in (place / "run/checkpoints").glob("step-*") if path != best)
    return ("export", "--checkpoint", other, "--output", place / "model")


def suspects(data: Callable[[Stock], Path], evaluation: str) -> Callable[[Stock], Words]:
    """`show --kind suspects` of a set by an evaluation in the folder."""

    def make(place: Stock) -> Words:
        place.copy_run()
        words = (
            "--kind",
            "suspects",
            "--split",
            "val",
            "--evaluation",
            place / evaluation,
            "--output",
            place / "s.png",
        )
        return ("show", data(place), *words)

    return make


def evaluate_there(told: Told) -> None:
    command = told.named(r"`kkanji ([^`]+)`").split()
    output = told.words[told.words.index("--evaluation") + 1]
    checkpoint, data = told.place / "run/checkpoints/best", told.place.made / "shards"
    done(told.place, *command, "--checkpoint", checkpoint, "--data", data, told.named(r"whose (--output)"), output)


def exported(place: Stock) -> Path:
    return Path(shutil.copytree(EMBEDDED, place / "model"))


def damaged(place: Stock) -> Words:
    words = using("evaluate", "--data", "{1}/shards")(place)
    path = sorted((place / "run/checkpoints").glob("step-*"))[0]
    flip(path / "model.safetensors")
    return with_option([str(word) for word in words], "--checkpoint", path)


def another_checkpoint(told: Told) -> Words:
    (_, other) = sorted((told.place / "run/checkpoints").glob("step-*"))
    return with_option(told.words, "--checkpoint", other)


def of_other_classes(place: Stock) -> Words:
    """Checkpoints of runs on two sets."""
    for word in ("U+4E00", "U+4E03"):
        draw(place / "raw", word, 16, seed=5)
    done(place, "combine", "raw", "--output", "o")
    done(place, "split", "o", "--val", "0")
    done(place, "pack", "o", "--output", "others", "--block-size", "125")
    done(place, "train", "--data", "others", "--output", "other-run", *SHORT)
    return (
        "average",
        "--checkpoints",
        place.run() / "checkpoints/last",
        place / "other-run/checkpoints/last",
        "--output",
        place / "mean",
    )


def of_the_same(told: Told) -> Words:
    own = sorted((told.place.run() / "checkpoints").glob("step-*"))
    return with_option(told.words, "--checkpoints", *own)


def pictures(place: Stock, *, bad: int = 1, good: int = 3) -> Path:
    draw(place / "images", "U+4E00", good)
    for number in range(bad):
        place.write(f"images/bad{number}.png", "no picture")
    return place / "images"


def predicting(*more: str) -> Callable[[Stock], Words]:
    def make(place: Stock) -> Words:
        return ["predict", str(pictures(place)), *filled(place, more)]

    return make


def one_image(name: str, make_it: Callable[[Path], object]) -> Callable[[Stock], Words]:
    """`predict` of one file, which is no picture of a character."""

    def make(place: Stock) -> Words:
        path = place / name
        make_it(path)
        return ("predict", path)

    return make


def good_picture(told: Told) -> Words:
    """What is asked for is another picture: converted, scaled, scanned or made again."""
    draw(told.place / "new", "U+4E00", 1)
    return ("predict", next((told.place / "new/U+4E00").iterdir()))


def linked(place: Stock) -> Words:
    draw(place / "elsewhere", "U+4E00", 2)
    pictures(place, bad=0)
    (place / "images/link").symlink_to(place / "elsewhere")
    return ("predict", place / "images")


def folder_itself(told: Told) -> Words:
    (told.place / "images/link").unlink()
    return (*told.words, told.place / "elsewhere")


def boxes(place: Stock, row: str, *pages: str) -> Words:
    for number, name in enumerate(("page.png", "more/page.png")):
        (place / name).parent.mkdir(exist_ok=True)
        draw(place / "pages", "U+4E00", 2)
        Image.open(sorted((place / "pages/U+4E00").iterdir())[number]).save(place / name)
    path = place.write("boxes.csv", f"file,x,y,w,h\n{row}\n")
    return ("predict", *(place / page for page in pages), "--boxes", path)


def box_mended(told: Told) -> None:
    told.place.write("boxes.csv", "file,x,y,w,h\npage.png,0,0,64,64\n")


def neighbours_of(*more: str, checkpoint: str = "model") -> Callable[[Stock], Words]:
    def make(place: Stock) -> Words:
        exported(place)
        given = filled(place, more)
        return ["neighbours", "--checkpoint", str(place / checkpoint), "--output", str(place / "larger"), *given]

    return make


def many_pages(path: Path) -> None:
    """A TIFF of 10,001 pages, all of the same pixel."""
    size, first = 78, 12
    tags = ((256, 1), (257, 1), (258, 8), (262, 1), (273, 8), (279, 1))  # width, height, bits, white ink, where, bytes
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    links = [*range(first + size, first + 10_001 * size, size), 0]
    pages = (struct.pack("<H", len(tags)) + entries + struct.pack("<I", link) for link in links)
    path.write_bytes(b"II*\0" + struct.pack("<II", first, 0) + b"".join(pages))


def evaluating(damage: Callable[[Stock], object]) -> Callable[[Stock], Words]:
    """`evaluate`, whose report is of a run's files with damage."""

    def make(place: Stock) -> Words:
        words = using("evaluate", "--data", "{1}/shards")(place)
        damage(place)
        return words

    return make


def spoil_log(place: Stock) -> None:
    path = place / "run/log.jsonl"
    path.write_text("no step\n" + path.read_text())


def remove_line(told: Told) -> None:
    """The line that the message names."""
    path, number = told.place / "run/log.jsonl", int(told.named(r"log\.jsonl, line (\d+): "))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[: number - 1], *lines[number:], ""]))


def train_again(told: Told) -> Words:
    """By the command that the message names, into a new run, which is evaluated instead."""
    command = told.named(r"`kkanji (train)`")
    done(told.place, command, "--data", told.place.made / "shards", "--output", "new", *SHORT)
    words = without(told.words, "--output") if "--output" in told.words else told.words
    return with_option(words, "--checkpoint", told.place / "new/checkpoints/last")


def without_card(place: Stock) -> Words:
    """Its manifest lists no card, so that none is missed until it is needed."""
    model = exported(place)
    (model / "README.md").unlink()
    listed = json.loads((model / "manifest.json").read_text())
    del listed["README.md"]
    (model / "manifest.json").write_text(json.dumps(listed))
    return ("export", "--checkpoint", place / "model", "--output", place / "again")


def changed_after_evaluation(name: str, key: str) -> Callable[[Stock], Words]:
    """`export` of a run of which somebody changed a file."""

    def make(place: Stock) -> Words:
        words = using("export", "--output", "{0}/model")(place)
        path = place / "run" / name
        content = json.loads(path.read_text())
        del content[key]
        path.write_text(json.dumps(content))
        return words

    return make


def large_page(place: Stock) -> Words:
    words = boxes(place, "page.png,0,0,64,64")
    Image.new("1", (21_000, 20_000)).save(place / "page.png")
    return words


def scale_the_page(place: Stock) -> None:
    Image.open(sorted((place / "pages/U+4E00").iterdir())[0]).save(place / "page.png")


def run_without_config(place: Stock) -> Words:
    words = using("evaluate", "--data", "{1}/shards")(place)
    (place / "run/config.json").unlink()
    return words


FAULTS = [
    Fault("a model without a run", run_without_config, {"give a folder for them as --output": giving("results")}),
    Fault(
        "a file for results",
        lambda place: with_option(
            [str(word) for word in using("evaluate", "--data", "{1}/shards")(place)], "--output", place.write("file")
        ),
        {"give a folder for the results as --output": giving("results")},
    ),
    Fault("a damaged checkpoint", damaged, {"use another checkpoint": another_checkpoint}),
    Fault(
        "checkpoints of other classes", of_other_classes, {"average checkpoints with the same characters": of_the_same}
    ),
    Fault(
        "nothing to export",
        using("export"),
        {"give --output FOLDER for a model": lambda told: with_option(told.words, "--output", told.place / "model")},
    ),
    Fault(
        "ONNX without a folder",
        using("export", "--onnx", "--page", "{0}/page"),
        {
            "give --output FOLDER too": lambda told: with_option(
                without(told.words, "--page"), "--output", told.place / "model"
            )
        },
    ),
    Fault(
        "no evaluation",
        unevaluated("--output", "{0}/model"),
        {"run `kkanji evaluate` on the checkpoint first": evaluate_it},
    ),
    Fault(
        "suspects of originals",
        suspects(lambda place: place.copy("originals"), "run"),
        {
            "give the shard set that was evaluated": lambda told: [
                *told.words[:1],
                told.place.made / "shards",
                *told.words[2:],
            ]
        },
    ),
    Fault(
        "suspects without an evaluation",
        suspects(lambda place: place.made / "shards", "evaluation"),
        {"write it with `kkanji evaluate`": evaluate_there},
    ),
    Fault(
        "an evaluation of other weights", of_other_weights, {"run `kkanji evaluate --checkpoint *` first": evaluate_it}
    ),
    Fault(
        "figures for an exported model",
        lambda place: (
            "export",
            "--checkpoint",
            exported(place),
            "--output",
            place / "again",
            "--figures-of",
            place.run(),
        ),
        {
            "leave out --figures-of": lambda told: without(told.words, told.remedy.split()[-1]),
            "give the run's own checkpoint": lambda told: with_option(
                told.words, "--checkpoint", told.place.run() / "checkpoints/best"
            ),
        },
    ),
    Fault(
        "a checkpoint in no run",
        lambda place: (
            "export",
            "--output",
            place / "model",
            "--checkpoint",
            shutil.copytree(place.run() / "checkpoints/last", place / "a/b/c"),
        ),
        {
            "give a checkpoint in a run's folder": lambda told: (
                told.place.copy_run(),
                with_option(
                    told.words, "--checkpoint", told.place / told.named(r"such as RUN/(\S+)").join(("run/", ""))
                ),
            )[1]
        },
    ),
    Fault(
        "bad files among many",
        predicting(),
        {
            "leave them out": by_hand(lambda place: (place / "images/bad0.png").unlink()),
            "convert them": by_hand(lambda place: (place / "images/bad0.png").unlink()),
            "allow more": lambda told: with_option(told.words, told.named(r"(--max-unreadable) is"), "1"),
        },
    ),
    Fault(
        "results that are there",
        lambda place: (
            "predict",
            pictures(place, bad=0),
            "--output",
            place.write("all.csv", "mine"),
        ),
        {"remove it": by_hand(lambda place: (place / "all.csv").unlink()), "choose another --output": another_output},
    ),
    Fault(
        "a folder that is not there",
        lambda place: (
            "predict",
            pictures(place, bad=0),
            "--output",
            place / "none/all.csv",
        ),
        {"make it": by_hand(lambda place: (place / "none").mkdir()), "choose another --output": another_output},
    ),
    Fault(
        "a file that is no picture",
        one_image("a.png", lambda path: path.write_text("no picture")),
        {
            "convert it": good_picture,
        },
    ),
    Fault(
        "a cut picture",
        one_image(
            "a.png",
            lambda path: path.write_bytes(
                next((EMBEDDED.parents[1] / "sample/kkanji2/U+4E09").iterdir()).read_bytes()[:120]
            ),
        ),
        {"make it again": good_picture},
    ),
    Fault(
        "too few pixels",
        one_image("a.png", lambda path: Image.fromarray(np.arange(9, dtype=np.uint8).reshape(3, 3) * 28).save(path)),
        {
            "scan it again": good_picture,
        },
    ),
    Fault(
        "a whole page",
        one_image("a.png", lambda path: Image.new("L", (6000, 6000), 9).save(path)),
        {
            "cut it out": good_picture,
            "make it smaller": good_picture,
        },
    ),
    Fault("a link to a folder", linked, {"give the folder itself": folder_itself}),
    Fault("a box beside its page", lambda place: boxes(place, "page.png,900,0,9,9"), {"mend the box": box_mended}),
    Fault(
        "a page that is not given",
        lambda place: boxes(place, "more/other.png,0,0,64,64", "page.png"),
        {
            "give its file or folder": lambda told: (
                shutil.copy(told.place / "page.png", told.place / "more/other.png"),
                ["predict", str(told.place / "more/other.png"), *told.words[2:]],
            )[1],
        },
    ),
    Fault(
        "two pages of a name",
        lambda place: boxes(place, "page.png,0,0,64,64", "page.png", "more/page.png"),
        {
            "give one file of that name": lambda told: [*told.words[:2], *told.words[3:]],
        },
    ),
    Fault("a page of too many pixels", large_page, {"scale it": by_hand(scale_the_page)}),
    Fault("too many pages", one_image("a.tif", many_pages), {"divide the file": good_picture}),
    Fault(
        "a damaged log",
        evaluating(spoil_log),
        {"mend that line": remove_line, "train again with `kkanji train`": train_again},
    ),
    Fault(
        "a log without its options",
        lambda place: [
            *evaluating(lambda place: (place / "run/config.json").unlink())(place),
            "--output",
            place / "run",
        ],
        {"make it with `*`": train_again},
    ),
    Fault(
        "a model without its card",
        without_card,
        {"put a copy of it back": by_hand(lambda place: shutil.copy(EMBEDDED / "README.md", place / "model"))},
    ),
    Fault(
        "a changed evaluation",
        changed_after_evaluation("evaluation.json", "top1"),
        {"run `kkanji evaluate` again": evaluate_it},
    ),
    Fault(
        "changed options",
        changed_after_evaluation("config.json", "config"),
        {
            "put back a copy of config.json": by_hand(
                lambda place: shutil.copy(place.run() / "config.json", place / "run")
            )
        },
    ),
    Fault(
        "an index of odd parts",
        neighbours_of("--data", "{1}/shards", "--bytes-per-vector", "7"),
        {"give 32 or 64": lambda told: with_option(told.words, told.option, told.named(r"give (\d+) or"))},
    ),
]


def test_a_set_with_other_characters_is_evaluated_without_a_report(place: Stock) -> None:
    """It once ended with exit code 2 after all results were written, as the report is of the run's own characters."""
    draw(place / "raw", "U+4E03", 9)
    done(place, "combine", "raw", "--output", "o")
    done(place, "split", "o", "--val", "0.4")
    done(place, "pack", "o", "--output", "others", "--block-size", "125")
    ended = run(place, [str(word) for word in using("evaluate", "--data", "{0}/others", "--output", "{0}/run")(place)])
    assert ended.code == 0, ended.text
    assert "report: none, as 1 of the set's characters are not the model's" in ended.text


@each(FAULTS)
def test_a_remedy_works(fault: Fault, remedy: str, place: Stock) -> None:
    assert follow(place, fault, remedy).code == 0
