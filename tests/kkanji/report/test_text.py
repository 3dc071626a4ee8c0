"""Numbers and words for people."""

import pytest

from kkanji.report.text import code_spans, first_of, percent


def test_of_many_words_the_first_are_named() -> None:
    assert first_of(["a", "b"], "all in c.json", most=2) == "a b"
    assert first_of(["a", "b", "c"] * 1000, "all in c.json", most=2) == "a b and 2,998 more (all in c.json)"


def test_numbers() -> None:
    assert percent(0.94286) == "94.3\u00a0%"


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("`a.py` and `<b>`", "<code>a.py</code> and <code>&lt;b&gt;</code>"),
        ("one ` alone & <i>", "one ` alone &amp; &lt;i&gt;"),
        ("``", "``"),
        ("", ""),
    ],
)
def test_text_between_backticks_is_code_and_all_of_it_is_escaped(text: str, html: str) -> None:
    assert code_spans(text) == html
