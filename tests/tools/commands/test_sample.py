"""The committed sample is what it claims to be, and its tool draws honestly: most of it without the brush fonts."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib.tables._g_l_y_f import Glyph
from PIL import Image

from shards.errors import InputError
from tools.brush import PAGE, Gray, Large, generator, render_character
from tools.commands import sample as sample_command
from tools.commands.sample import FONT_FILES, load_faces, outlines, pixel_hash, sample

COMMITTED = Path(__file__).parents[3] / "sample"
FONTS = Path("/usr/share/fonts/truetype")
needs_fonts = pytest.mark.skipif(
    not set(FONT_FILES) <= {path.name for path in FONTS.rglob("*.ttf")}, reason="the brush fonts are not installed"
)


def read(path: Path) -> Gray:
    """Pixels of an image, which must be 8-bit gray."""
    with Image.open(path) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "L", (64, 64)), path
        return np.asarray(image)


@pytest.fixture(scope="module")
def committed() -> dict[Path, Gray]:
    """Every image of the committed sample."""
    return {path: read(path) for path in sorted(COMMITTED.glob("kkanji2/*/*"))}


def test_committed_sample_has_classes_and_images_enough(committed: dict[Path, Gray]) -> None:
    images_of = Counter(path.parent.name for path in committed)
    assert len(images_of) >= 100
    assert min(images_of.values()) >= 20
    assert all(name == f"U+{int(name[2:], 16):04X}" for name in images_of)


def test_committed_sample_fits_the_repository(committed: dict[Path, Gray]) -> None:
    assert sum(path.stat().st_size for path in committed) <= 3_000_000


def test_committed_images_are_distinct_and_named_after_their_pixels(committed: dict[Path, Gray]) -> None:
    hashes = [pixel_hash(pixels) for pixels in committed.values()]
    assert hashes == [path.stem for path in committed]
    assert len(set(hashes)) == len(hashes)


def test_committed_images_are_white_on_black(committed: dict[Path, Gray]) -> None:
    images_nhw = np.stack(list(committed.values())) / 255
    assert images_nhw.mean(axis=(1, 2)).max() < 0.5
    assert images_nhw.max(axis=(1, 2)).min() > 0.7, "an image without ink"
    corners = images_nhw[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners < 0.5).mean() > 0.95


def test_committed_readme_says_what_the_images_are() -> None:
    text = (COMMITTED / "README.md").read_text(encoding="utf-8")
    assert "rendered, not historical" in text
    assert all(name in text and package in text for name, package in FONT_FILES.items())


@pytest.fixture
def cross() -> Large:
    """An outline made without a font: two strokes that cross."""
    page = np.zeros((PAGE, PAGE), dtype=np.float32)
    page[60:260, 150:170] = 1
    page[140:160, 60:260] = 1
    return page


def test_a_drawing_has_the_form_of_the_real_images(cross: Large) -> None:
    pixels = render_character(cross, generator(0, "十", 0))
    assert pixels.shape == (64, 64)
    assert pixels.dtype == np.uint8
    assert 0.05 < pixels.mean() / 255 < 0.5
    rows, columns = (np.flatnonzero((pixels > 127).any(axis=axis)) for axis in (1, 0))
    assert max(np.ptp(rows), np.ptp(columns)) > 50, "the glyph does not fill the box"


def test_drawings_repeat_by_seed_and_never_else(cross: Large) -> None:
    keys = [(seed, character, number) for seed in (0, 1) for character in "十木" for number in range(5)]
    first, again = ([pixel_hash(render_character(cross, generator(*key))) for key in keys] for _ in range(2))
    assert first == again
    assert len(set(first)) == len(keys)


def glyph(edges: tuple[int, int]) -> Glyph:
    """A square outline, or an empty one when both edges are the same."""
    low, high = edges
    pen = TTGlyphPen(None)
    if low != high:
        pen.moveTo((low, low))
        for corner in ((low, high), (high, high), (high, low)):
            pen.lineTo(corner)
        pen.closePath()
    return pen.glyph()


@pytest.fixture
def made_fonts(tmp_path: Path) -> Path:
    """A folder of five fonts under the right names that draw squares for 人 and 大, and list an empty 小."""
    shapes = {".notdef": (0, 0), "hito": (100, 800), "oo": (200, 900), "chiisai": (0, 0)}
    builder = FontBuilder(1024)
    builder.setupGlyphOrder(list(shapes))
    builder.setupCharacterMap({ord("人"): "hito", ord("大"): "oo", ord("小"): "chiisai"})
    builder.setupGlyf({name: glyph(edges) for name, edges in shapes.items()})
    builder.setupHorizontalMetrics(dict.fromkeys(shapes, (1024, 0)))
    builder.setupHorizontalHeader(ascent=1024, descent=0)
    builder.setupOS2()
    builder.setupPost()
    folder = tmp_path / "fonts"
    folder.mkdir()
    for name in FONT_FILES:
        builder.save(folder / name)
    return folder


@pytest.fixture
def two_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw 人 and 大 only: the rest of the command is the same."""
    monkeypatch.setattr(sample_command, "CHARACTERS", "人大")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("two_characters")
def test_sample_writes_the_same_files_again(made_fonts: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        sample(output=tmp_path / name, fonts=made_fonts, per_class=3)
    files = contents(tmp_path / "a")
    assert files == contents(tmp_path / "b")
    assert Counter(Path(name).parent.name for name in files) == {"U+4EBA": 3, "U+5927": 3, "": 2}


@pytest.mark.usefixtures("two_characters")
def test_a_character_is_rendered_the_same_without_the_others(
    made_fonts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample(output=tmp_path / "both", fonts=made_fonts, per_class=2)
    monkeypatch.setattr(sample_command, "CHARACTERS", "大")
    sample(output=tmp_path / "one", fonts=made_fonts, per_class=2)
    assert contents(tmp_path / "both/kkanji2/U+5927") == contents(tmp_path / "one/kkanji2/U+5927")


@pytest.mark.usefixtures("two_characters")
def test_sample_replaces_only_what_it_made_and_only_with_overwrite(made_fonts: Path, tmp_path: Path) -> None:
    output = tmp_path / "sample"
    sample(output=output, fonts=made_fonts, per_class=2)
    with pytest.raises(InputError, match="--overwrite"):
        sample(output=output, fonts=made_fonts, per_class=1)
    sample(output=output, fonts=made_fonts, per_class=1, overwrite=True)
    assert len(contents(output / "kkanji2")) == 2
    (output / "README.md").write_text("# Real data\n", encoding="utf-8")
    before = contents(output)
    with pytest.raises(
        InputError, match=r"README\.md in it was changed since sample made it; move that to another place, or choose"
    ):
        sample(output=output, fonts=made_fonts, overwrite=True)
    assert contents(output) == before


def test_sample_refuses_a_character_that_no_font_has(
    made_fonts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for character in "小無":  # listed with an empty outline, and not listed
        monkeypatch.setattr(sample_command, "CHARACTERS", "人" + character)
        with pytest.raises(InputError, match=rf"no font has {character} \(U\+.*aoyagi-soseki\.ttf.*CHARACTERS"):
            sample(output=tmp_path / "sample", fonts=made_fonts, per_class=1)
    assert contents(tmp_path / "sample") == {}, "an unfinished drawing was left behind"


def test_missing_fonts_are_named_with_their_packages(made_fonts: Path, tmp_path: Path) -> None:
    (made_fonts / "aoyagi-soseki.ttf").unlink()
    with pytest.raises(InputError) as caught:
        sample(output=tmp_path / "sample", fonts=made_fonts)
    message = str(caught.value)
    assert message.startswith(f"no aoyagi-soseki.ttf in {made_fonts}")
    assert "fonts-aoyagi-soseki" in message and "kouzan" not in message
    with pytest.raises(InputError, match="fonts-aoyagi-kouzan-t fonts-aoyagi-soseki fonts-kouzan-mouhitsu"):
        sample(output=tmp_path / "sample", fonts=tmp_path / "nowhere")
    assert not (tmp_path / "sample").exists()


def test_a_damaged_font_is_named(made_fonts: Path) -> None:
    (made_fonts / "AoyagiKouzanT.ttf").write_bytes(b"not a font")
    with pytest.raises(InputError, match=r"AoyagiKouzanT\.ttf is not a readable font"):
        load_faces(made_fonts)


@pytest.mark.parametrize("wrong", [{"per_class": 0}, {"seed": -1}, {"seed": 2**64}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected per_class >= 1 and a seed"):
        sample(output=tmp_path / "sample", **wrong)  # type: ignore[arg-type]


@needs_fonts
def test_every_character_is_in_several_fonts() -> None:
    faces = load_faces(FONTS)
    assert all(len(outlines(faces, character)) >= 3 for character in sample_command.CHARACTERS)


@needs_fonts
def test_committed_images_come_from_the_installed_fonts(committed: dict[Path, Gray]) -> None:
    """All but equal: another release of OpenCV or FreeType may round a few pixels to the next level."""
    drawn = render_character(outlines(load_faces(FONTS), "人")[0], generator(0, "人", 0)).astype(int)
    nearest = min(np.abs(drawn - pixels).mean() for path, pixels in committed.items() if path.parent.name == "U+4EBA")
    assert nearest < 2
