"""Boxes on pages: each form of their file gives the same boxes, and a box is read as the file of its crop."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kkanji.inference.boxes import Box, by_page, cut, in_pixels, page_size, read_boxes
from kkanji.inference.image_files import load_character, read_character
from shards import InputError

NUMBERS = [(10, 20, 30, 40), (50, 20, 16, 16)]


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A page of 200x100 pixels with a stroke."""
    pixels = np.full((100, 200, 3), (225, 210, 180), np.uint8)
    pixels[25:55, 15:22] = pixels[30:36, 15:35] = (50, 40, 30)
    Image.fromarray(pixels).save(tmp_path / "page1.png")
    return tmp_path / "page1.png"


def annotation(target: object, **more: object) -> dict[str, object]:
    return {"type": "Annotation", "target": target, **more}


CANVAS = "https://example.org/iiif/canvas/page1"
IIIF_3 = {
    "@context": "http://iiif.io/api/presentation/3/context.json",
    "type": "AnnotationPage",
    "items": [
        annotation(f"{CANVAS}#xywh=10,20,30,40", id="a"),
        annotation(
            {
                "type": "SpecificResource",
                "source": {"id": CANVAS, "type": "Canvas"},
                "selector": {"type": "FragmentSelector", "value": "xywh=pixel:50,20,16,16"},
            },
            id="b",
        ),
    ],
}
IIIF_2 = {
    "@type": "sc:AnnotationList",
    "resources": [
        {"@type": "oa:Annotation", "@id": "a", "on": f"{CANVAS}#xywh=10,20,30,40"},
        {
            "@type": "oa:Annotation",
            "@id": "b",
            "on": [{"full": CANVAS, "selector": {"default": {"value": "xywh=50,20,16,16"}, "item": {}}}],
        },
    ],
}
COCO = {
    "images": [{"id": 7, "file_name": "page1.png"}],
    "annotations": [
        {"id": number, "image_id": 7, "bbox": list(box)} for number, box in zip("ab", NUMBERS, strict=True)
    ],
}
FILES = {
    "plain.csv": "file,x,y,w,h,id\npage1.png,10,20,30,40,a\npage1.png,50,20,16,16,b\n",
    "excel.csv": "\ufeffImage,X,Y,Width,Height,Char ID\npage1,10,20,30,40,a\npage1,50,20,16,16,b\n",
    "codh.csv": "Unicode,Image,X,Y,Block ID,Char ID,Width,Height\n"
    "U+4E00,page1,10,20,B1,a,30,40\nU+4E01,page1,50,20,B1,b,16,16\n",
    "region.csv": 'page,region,id\npage1.png,"10,20,30,40",a\npage1.png,"50,20,16,16",b\n',
    "coco.json": json.dumps(COCO),
    "iiif3.json": json.dumps(IIIF_3),
    "iiif2.json": json.dumps(IIIF_2),
}


def box_on(page: Path, x: float = 0, y: float = 0, w: float = 5, h: float = 5) -> Box:
    return Box(file=page, x=x, y=y, w=w, h=h)


@pytest.mark.parametrize("name", FILES)
def test_every_form_gives_the_same_boxes(page: Path, name: str) -> None:
    path = page.with_name(name)
    path.write_text(FILES[name], encoding="utf-8")
    expected = [
        Box(file=page, x=x, y=y, w=w, h=h, id=number) for number, (x, y, w, h) in zip("ab", NUMBERS, strict=True)
    ]
    assert read_boxes(path, [page]) == expected
    if not name.startswith("iiif"):
        assert read_boxes(path) == expected  # pages lie beside the file


def test_a_box_is_read_as_the_file_of_its_crop(page: Path, tmp_path: Path) -> None:
    box = Box(file=page, x=10, y=20, w=30, h=40)
    Image.open(page).crop((10, 20, 40, 60)).save(tmp_path / "crop.png")
    assert np.array_equal(read_character(cut(box), str(box)), load_character(tmp_path / "crop.png"))
    percent = Box(file=page, x=5, y=20, w=15, h=40, percent=True)
    assert cut(percent) == cut(box) and in_pixels(percent) == box
    beyond = Box(file=page, x=190.5, y=-5, w=30, h=20)
    with Image.open(io.BytesIO(cut(beyond))) as crop:
        assert crop.size == (10, 15)


def test_a_page_turned_by_its_camera_is_cut_as_it_is_seen(page: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(page) as image:
        upright = image.rotate(-90, expand=True)
        image.save(page.with_name("turned.png"), exif=exif)
    turned = Box(file=page.with_name("turned.png"), x=10, y=20, w=30, h=40)
    assert page_size(turned.file) == (100, 200)
    upright.save(page.with_name("upright.png"))
    assert cut(turned) == cut(Box(file=page.with_name("upright.png"), x=10, y=20, w=30, h=40))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "I;16", "RGBA", "LA"])
def test_pages_of_every_kind_of_colour(tmp_path: Path, mode: str) -> None:
    pixels = np.full((40, 40), 220, np.uint8)
    pixels[8:30, 10:15] = pixels[12:16, 10:28] = 40
    image = Image.fromarray(pixels.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(pixels).convert(mode)
    image.save(tmp_path / "page.tif")
    read = read_character(cut(Box(file=tmp_path / "page.tif", x=0, y=0, w=40, h=40)), "box")
    assert np.array_equal(read, load_character(tmp_path / "page.tif"))


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((300, 0, 5, 5), r"#xywh=300,0,5,5: outside of the page of 200x100 pixels"),
        ((-9, 0, 9, 5), "outside of the page"),
    ],
)
def test_a_box_outside_of_its_page_is_told(page: Path, box: tuple[float, float, float, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        cut(box_on(page, *box))


def test_pages_that_cannot_be_read_are_told(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"gone\.png: no such page"):
        cut(box_on(page.with_name("gone.png")))
    page.with_name("text.png").write_text("no image")
    with pytest.raises(InputError, match=r"text\.png: not a readable page"):
        cut(box_on(page.with_name("text.png")))
    assert page_size(page.with_name("text.png")) is None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9_999)
    with pytest.raises(InputError, match=r"page1\.png: expected a page of at most 178,956,970 pixels: scale it"):
        cut(box_on(page))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    assert cut(box_on(page))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "columns ''; expected CSV with file,x,y,w,h"),
        ("a.csv", "file,x,y\np,1,2\n", "columns 'file,x,y'; expected CSV with file,x,y,w,h"),
        ("a.csv", "file,x,y,w,h\n", "no box in it"),
        ("a.csv", "file,x,y,w,h\npage1.png,1,2,3,four\n", "line 2: found ['1', '2', '3', 'four']; expected"),
        ("a.csv", "file,x,y,w,h\npage1.png,1,2,0,4\n", "line 2: x y w h are 1 2 0 4; expected a width"),
        ("a.csv", "file,x,y,w,h\npage1.png,1,2,nan,4\n", "expected a width"),
        ("a.csv", "file,x,y,w,h\npage1.png,1,2,3\n", "expected four numbers"),
        ("a.csv", 'file,region\npage1.png,"1,2,3"\n', "expected four numbers"),
        ("a.csv", "file,region\npage1.png,square:x:y\n", "region 'square:x:y'; expected x,y,w,h"),
        ("a.csv", "file,x,y,w,h\nother.png,1,2,3,4\n", "page 'other.png' is not among the images given"),
        ("a.json", "{", "not JSON"),
        ("a.json", "[]", "expected a JSON object"),
        ("a.json", '{"images": [], "annotations": [{"image_id": 1}]}', "an image or annotation without 1"),
        ("a.json", '{"images": [{"id": 1, "file_name": "page1.png"}], "annotations": [{"image_id": 1, "bbox": 3}]}',
         "annotation 0: found [3]; expected four numbers"),
        ("a.json", '{"items": [{"target": "https://x/y"}, {"target": 3}, {"on": []}]}', "no box in it"),
    ],
)  # fmt: skip
def test_files_of_boxes_that_cannot_be_used(page: Path, name: str, text: str, message: str) -> None:
    path = page.with_name(name)
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_boxes(path, [page, page.with_name("page2.png")])
    assert str(caught.value).startswith(str(path)) and message in str(caught.value)


def test_two_pages_of_one_name(page: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("file,x,y,w,h\npage1.png,1,2,3,4\n")
    with pytest.raises(InputError, match=r"page 'page1\.png' is one of 2 files; give one file of that name"):
        read_boxes(tmp_path / "a.csv", [page, tmp_path / "more" / "page1.png"])
    assert read_boxes(tmp_path / "a.csv", [page])[0].file == page  # as it says


def test_a_canvas_of_another_name_is_the_only_page(page: Path) -> None:
    path = page.with_name("a.json")
    path.write_text(json.dumps({"items": [annotation("https://x/canvas/f12#xywh=percent:5,20,15,40")]}))
    assert cut(read_boxes(path, [page])[0]) == cut(Box(file=page, x=10, y=20, w=30, h=40))
    with pytest.raises(InputError, match="page 'https://x/canvas/f12' is not among"):
        read_boxes(path, [page, page.with_name("page2.png")])


def test_a_deep_file_costs_no_recursion(page: Path) -> None:
    path, depth = page.with_name("a.json"), 900
    inner = '{"target": "https://x/page1#xywh=1,2,3,4"}'
    path.write_text('{"items": ' + "[" * depth + inner + "]" * depth + "}")
    assert len(read_boxes(path, [page])) == 1


def test_boxes_by_page_keep_their_order() -> None:
    mixed = [Box(file=Path(name), x=number, y=0, w=1, h=1) for number, name in enumerate("abab")]
    assert [(box.file.name, box.x) for box in by_page(mixed)] == [("a", 0), ("a", 2), ("b", 1), ("b", 3)]
