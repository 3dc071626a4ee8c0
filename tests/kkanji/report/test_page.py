"""What the page shows of a run, and that it stands alone."""

import re
from pathlib import Path

from tests.kkanji.report.made_run import LOADING, MadeRun, Page, make_run


def test_the_header_names_the_model_and_its_data(page: Page) -> None:
    assert "kkanji_b0 trained on Kuzushiji-Small" in page.text
    assert "24 character classes, 3,200 images to train on" in page.text
    assert "288 images of the split val" in page.text
    assert "Data: made by nobody, CC0" in page.text


def test_the_header_has_the_headline_figures(page: Page) -> None:
    assert re.search(r"Top-1 accuracy 93.75 % .* 95 % interval 90.3 % to 96.0 %", page.text)
    assert re.search(r"Balanced accuracy 93.00 % .* Weighted F1 93.00 %", page.text)


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


def test_the_settings_are_listed(page: Page) -> None:
    assert "batch_size 32" in page.text and "commit 0123abc" in page.text and f"identity {'ab' * 32}" in page.text
    assert len(page.all("details")) == 4


def test_the_weakest_characters_are_listed(page: Page) -> None:
    assert re.search(r"土 U\+571F 6 of 12 50.0 % 64 士 U\+58EB 6×", page.text)


def test_a_bin_without_images_is_no_zero(page: Page) -> None:
    assert "2-5 0 0 – – –" in page.text


def test_published_figures_stay_out_of_another_task(page: Page) -> None:
    assert "shinkirou" not in page.text and "as published" not in page.text


def test_published_figures_are_shown_beside_a_run_over_the_whole_set(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    run.characters = [chr(0x4E00 + number) for number in range(3000)]
    run.change("config.json", lambda record: record["data"].update(classes=3000))
    text = run.write().text
    assert "For orientation, not for comparison." in text and "cgn-shinkirou/kkanji (2022)" in text
    assert "151+ 12 144 90.0 % 84.0–93.9 % 97.0 % 96.5 %" in text
    assert "94.28 %" in text and "0.9416" in text


def test_text_between_backticks_is_code(run: MadeRun, page: Page) -> None:
    """In the licence and in the settings, whose texts come with the data."""
    text = (run.folder / "report.html").read_text(encoding="utf-8")
    assert text.count("made by <code>nobody</code>, CC0") == 3
    assert "`" not in page.text
