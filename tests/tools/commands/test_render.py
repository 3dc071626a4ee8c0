"""render: rendered images join the originals of rare classes, for training only, and change nothing else."""

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kkanji.data.training_set import open_set
from kkanji.evaluation.predict_split import training_originals, training_rendered
from shards import InputError, ShardSet
from tests.making import make_font
from tools.commands.balance import balance
from tools.commands.combine import combine
from tools.commands.pack import pack
from tools.commands.render import render
from tools.commands.show import show
from tools.commands.split import split
from tools.commands.verify import verify
from tools.ingest.originals import NO_SPLIT, SPLITS, Origin, check_images, original_id, read_originals, read_split

COUNTS = {"U+4E00": 20, "U+4E01": 5, "U+4E02": 1, "U+4E03": 1}
FONT = Origin.FONT.number


@pytest.fixture
def folder(originals_folder: Callable[..., Path]) -> Path:
    return originals_folder(COUNTS)


@pytest.fixture
def fonts(tmp_path: Path) -> Path:
    """Two fonts: one has two of the rare classes, the other one of them; both list 丁, without an outline."""
    (tmp_path / "fonts" / "below").mkdir(parents=True)
    make_font(tmp_path / "fonts" / "one.ttf", "一丂七", "丁")
    make_font(tmp_path / "fonts" / "below" / "two.ttf", "丂", "丁")
    return tmp_path / "fonts"


def test_rare_classes_get_rendered_images_and_nothing_else_changes(folder: Path, fonts: Path, tmp_path: Path) -> None:
    render(folder, fonts=(fonts,), at_most=5, per_class=6, output=tmp_path / "more")
    before, after = read_originals(folder), read_originals(tmp_path / "more")
    check_images(after)
    rendered = after.origins == FONT
    assert Counter(after.labels[rendered].tolist()) == {2: 6, 3: 6}
    assert np.array_equal(after.images[~rendered], before.images) and np.array_equal(after.ids[~rendered], before.ids)
    assert after.classes == before.classes and after.facts["counts"]["font"] == 12
    order = np.lexsort((after.ids, np.array(after.classes.code_points)[after.labels]))
    assert np.array_equal(order, np.arange(len(order)))
    lines = [line.split(",") for line in (tmp_path / "more" / "originals.csv").read_text().splitlines()[1:]]
    members = Counter(line[3].rpartition("/")[0] for line in lines if line[2] == "font")
    assert members == {"one.ttf/U+4E02": 3, "two.ttf/U+4E02": 3, "one.ttf/U+4E03": 6}
    assert "from the fonts one.ttf (license not stated), two.ttf (license not stated)" in after.facts["licence"]


def test_ids_are_of_the_pixels(folder: Path, fonts: Path, tmp_path: Path) -> None:
    render(folder, fonts=(fonts,), per_class=2, output=tmp_path / "more")
    after = read_originals(tmp_path / "more")
    for pixels, number in zip(after.images, after.ids.tolist(), strict=True):
        assert original_id(hashlib.sha256(pixels.tobytes()).digest()) == number


@pytest.mark.parametrize("options", [{"val": 0.4, "test": 0.2}, {"folds": 2, "fold": 1}])
def test_rendered_images_are_for_training_and_the_others_fall_as_before(
    folder: Path, fonts: Path, tmp_path: Path, options: dict[str, float]
) -> None:
    render(folder, fonts=(fonts,), output=tmp_path / "more")
    for place in (folder, tmp_path / "more"):
        split(place, overwrite=True, **options)  # type: ignore[arg-type]
    before, after = read_originals(folder), read_originals(tmp_path / "more")
    numbers, rendered = read_split(after).numbers, after.origins == FONT
    assert set(numbers[rendered].tolist()) == {SPLITS.index("train")}
    assert np.array_equal(numbers[~rendered], read_split(before).numbers)


def test_the_result_is_packed_and_clean(
    folder: Path, fonts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    render(folder, fonts=(fonts,), per_class=2, output=tmp_path / "more")
    split(tmp_path / "more", val=0.2)
    pack(tmp_path / "more", output=tmp_path / "set", block_size=125)
    verify(tmp_path / "set")
    manifest = ShardSet(tmp_path / "set").manifest
    assert manifest.history["originals"]["lineage"] == {"known": 27, "font": 4} and manifest.lineage == "known"
    assert sum(manifest.splits["train"].rendered_per_class) == 4 and manifest.splits["val"].rendered_per_class == ()
    assert "originals (4 rendered from fonts)" in capsys.readouterr().out


def test_rendered_images_are_counted_in_a_balanced_set_and_are_no_training_originals(
    folder: Path, fonts: Path, tmp_path: Path
) -> None:
    render(folder, fonts=(fonts,), per_class=2, output=tmp_path / "more")
    split(tmp_path / "more", val=0.2)
    after = read_originals(tmp_path / "more")
    balance(tmp_path / "more", per_class=40, output=tmp_path / "many")
    balance(tmp_path / "more", per_class=1, output=tmp_path / "one")
    counts = after.counts(read_split(after).rows("train"))
    for name, most in (("many", 40), ("one", 1)):
        data = open_set(tmp_path / name)
        used = np.flatnonzero(np.isin(after.ids, data.split("train").sources()))
        assert training_rendered(data).tolist() == after.rendered(used).tolist()
        assert (training_originals(data) + training_rendered(data)).tolist() == np.minimum(counts, most).tolist()
    assert training_rendered(open_set(tmp_path / "many")).sum() == 4


def test_a_card_counts_rendered_images_separately(folder: Path, fonts: Path, tmp_path: Path) -> None:
    render(folder, fonts=(fonts,), per_class=2, output=tmp_path / "more")
    split(tmp_path / "more", val=0.2)
    balance(tmp_path / "more", per_class=40, output=tmp_path / "many")
    more = read_originals(tmp_path / "more")
    written = len(read_split(more).rows("train")) - 4
    for place, images in ((tmp_path / "more", written + 4), (tmp_path / "many", 4 * 40)):
        show(str(place), kind="card", output=tmp_path / "card.md", overwrite=True)
        assert f"| train | {images} | {written} | 4 | 4 |" in (tmp_path / "card.md").read_text()
    show(str(tmp_path / "more"), kind="card", label="U+4E00", output=tmp_path / "card.md", overwrite=True)
    assert " | 0 | 1 |" in (tmp_path / "card.md").read_text()


def test_the_half_protocol_excludes_rendered_images_with_their_class(folder: Path, fonts: Path, tmp_path: Path) -> None:
    render(folder, fonts=(fonts,), at_most=20, per_class=3, output=tmp_path / "more")
    for place in (folder, tmp_path / "more"):
        split(place, protocol="half", overwrite=True)
    before, after = read_originals(folder), read_originals(tmp_path / "more")
    numbers, rendered = read_split(after).numbers, after.origins == FONT
    assert np.array_equal(numbers[~rendered], read_split(before).numbers)
    single = before.counts(np.arange(len(before.ids)))[after.labels[rendered]] <= 1
    assert set(single.tolist()) == {False, True}
    assert np.array_equal(numbers[rendered], np.where(single, NO_SPLIT, SPLITS.index("train")))


def test_a_class_without_images_is_rendered(
    codh_tree: Callable[..., Path], png: Callable[..., bytes], fonts: Path, tmp_path: Path
) -> None:
    root = codh_tree({"U+4E00": 3})
    (root / "kkanji2" / "U+4E03").mkdir()
    (root / "kkanji2" / "U+4E03" / "0000000000000000.png").write_bytes(png(np.zeros((64, 64), np.uint8)))
    with pytest.warns(UserWarning, match="1 classes have no image left"):
        combine((root,), output=tmp_path / "originals")
    render(tmp_path / "originals", fonts=(fonts,), at_most=0, per_class=4, output=tmp_path / "more")
    after = read_originals(tmp_path / "more")
    assert after.counts(np.flatnonzero(after.origins == FONT)).tolist() == [0, 4]
    assert after.facts["classes_without_images"] == []


def test_same_seed_same_bytes(folder: Path, fonts: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        render(folder, fonts=(fonts,), per_class=2, output=tmp_path / name, seed=seed)
    a, b, c = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "abc")
    assert a == b and a["images.npy"] != c["images.npy"]


def test_what_cannot_be_rendered_is_refused(folder: Path, fonts: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    one = make_font(tmp_path / "other.ttf", "言")
    cases = (
        ((tmp_path / "none",), r"--fonts .*none: no such file or folder"),
        ((tmp_path / "empty",), r"--fonts .*empty: no .ttf or .otf file there"),
        ((tmp_path / "broken.ttf",), r"broken.ttf is not a readable font"),
        ((one,), r"no font has any of the 3 classes with at most 5 originals"),
    )
    for given, message in cases:
        with pytest.raises(InputError, match=message):
            render(folder, fonts=given, output=tmp_path / "more")
    render(folder, fonts=(fonts,), per_class=1, output=tmp_path / "more")
    with pytest.raises(InputError, match="has images rendered from fonts already"):
        render(tmp_path / "more", fonts=(fonts,), output=tmp_path / "twice")
    with pytest.raises(InputError, match="--per-class 0"):
        render(folder, fonts=(fonts,), per_class=0, output=tmp_path / "twice")
    assert not (tmp_path / "twice").exists()
