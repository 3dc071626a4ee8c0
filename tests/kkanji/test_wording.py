"""Counted nouns; texts of others in Markdown."""

from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kkanji.wording import counted, licence_name, markdown, plain, slug, training_images


def test_one_is_singular() -> None:
    found = [counted(1, "image"), counted(2000, "image"), counted(3, "class", "classes"), counted(0, "image")]
    assert found == ["1 image", "2,000 images", "3 classes", "0 images"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("![x](http://host/track.png)", r"\!\[x\](http://host/track.png)"),
        ("a\n\n# Heading", r"a \# Heading"),
        ("a | b", r"a \| b"),
        (r"$\frac{$", r"\$\\frac{\$"),
        ("*b* _i_ `c<`", r"\*b\* \_i\_ \`c&lt;\`"),
        ("\x1b[31mred\u202e", r"\\x1b\[31mred\\u202e"),
        ("`KMNIST Dataset` (created by CODH), CC BY-SA 4.0", "`KMNIST Dataset` (created by CODH), CC BY-SA 4.0"),
        ("per_class 10", "per_class 10"),
        ("", ""),
    ],
)
def test_markup_is_shown_not_followed(text: str, shown: str) -> None:
    assert markdown(text) == shown


@pytest.mark.parametrize("text", ["`a` [b](c) *d* <e> & #f | $g$ !h ~i _j_ k_l", "深い & 字"])
def test_plain_text_comes_back(text: str) -> None:
    assert plain(markdown(text)) == text


@given(st.text())
def test_no_text_breaks_its_line_or_opens_a_tag(text: str) -> None:
    found = markdown(text)
    assert "\n" not in found and "<" not in found
    assert not {category(character) for character in found} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("created by CODH, doi:10.20676/00000341, CC BY-SA 4.0", "cc-by-sa-4.0"),
        ("CC BY 4.0", "cc-by-4.0"),
        ("x", "other"),
    ],
)
def test_licences_have_the_hubs_names(line: str, name: str) -> None:
    assert licence_name(line) == name


def test_a_name_as_an_identifier() -> None:
    assert (slug("Kuzushiji-Kanji (balanced)"), slug("!")) == ("kuzushiji-kanji-balanced", "unnamed")


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        ({"train_images": 128_728}, "128,728 images"),
        ({"train_images": 91_204, "train_originals": 91_204, "train_rendered": 0}, "91,204 images"),
        (
            {"train_images": 128_728, "train_originals": 91_204, "train_rendered": 37_524},
            "128,728 images (91,204 originals and 37,524 rendered from fonts)",
        ),
        (
            {"train_images": 40_000, "train_originals": 1_000, "train_rendered": 0},
            "40,000 images (of 1,000 originals)",
        ),
        (
            {"train_images": 40_000, "train_originals": 1_000, "train_rendered": 12},
            "40,000 images (of 1,000 originals and 12 rendered from fonts)",
        ),
    ],
)
def test_training_images_are_told_apart(recorded: dict[str, int], expected: str) -> None:
    assert training_images(recorded) == expected
