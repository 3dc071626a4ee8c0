"""The cards of confused characters."""

import re

from tests.kkanji.report.made_run import CHARACTERS, CONFUSIONS, MadeRun, Page, decode, image_at, load, position_of


def test_confusions_are_sorted_by_frequency_then_confidence(page: Page) -> None:
    found = re.findall(r"written (?:\S )?(U\+\w+) → predicted (?:\S )?(U\+\w+) (\d+) image", page.text)
    expected = [
        (f"U+{ord(CHARACTERS[true]):04X}", f"U+{ord(CHARACTERS[rival]):04X}", str(count))
        for true, rival, count, _confidence in CONFUSIONS
    ]
    assert found == expected


def test_forms_of_one_character_have_a_section_of_their_own(page: Page) -> None:
    assert "Another form of the written character was predicted for 1 image;" in page.text
    before, _, after = page.text.partition("Forms of one character")
    assert "Different characters" in before and "written 土" in before and "written 来 U+6765 → predicted 來" in after


def test_a_card_has_fraction_probability_and_training_counts(page: Page) -> None:
    assert "50.0 % of the 12 images of 土; mean probability 60 % (of the true character 5 %)." in page.text
    assert "Training originals: 土 64, 士 71" in page.text


def test_a_card_shows_the_most_confident_mistakes(run: MadeRun, page: Page) -> None:
    shown = [decode(image["src"]) for image in page.all("img") if "example" in image["alt"]]
    predictions = load(run)
    rows = ((predictions.label == 9) & predictions.wrong()).nonzero()[:, 0].flip(0)[:3]
    assert [position_of(image) for image in shown[:3]] == predictions.position[rows].tolist()
    assert len(shown) == 3 + 3 + 3 + 1 + 1
    assert (shown[0] == image_at(position_of(shown[0]))).all()
    assert sorted(run.asked[:11]) == sorted(position_of(image) for image in shown)


def test_a_character_without_a_glyph_is_named_by_its_code_point(page: Page) -> None:
    assert "of the 12 images of U+24FA3" in page.text
    assert CHARACTERS[0] not in page.text
