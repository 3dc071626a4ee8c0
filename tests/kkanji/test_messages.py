"""Messages as they leave a command: printable, bounded, in any encoding, without a traceback."""

import io
import sys
from collections.abc import Callable

import pytest

from kkanji import cli
from shards.errors import MOST_TEXT, InputError, printable, shortened


def ended(command: Callable[[], object]) -> int:
    with pytest.raises(SystemExit) as end:
        cli.run(command)
    return int(end.value.code or 0)


def fail(text: str) -> None:
    raise InputError(text)


@pytest.mark.parametrize(
    "text", ["x" * 110_000, "/a/place: " + "y" * 5_000 + "; do this", "\x1b]0;owned\x07 \ud800 \u202e\n"]
)
def test_a_message_is_printable_and_bounded(capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert ended(lambda: fail(text)) == 2
    said = capsys.readouterr().err
    assert len(said) <= MOST_TEXT + 1 and said.count("\n") == 1 and said.removesuffix("\n").isprintable()
    assert said.startswith("error: ") and text[:20].isprintable() == (text[:20] in said)
    assert "do this" in said or "do this" not in text


def test_a_short_message_is_not_changed() -> None:
    for text in ("error: data/shards: no such folder; make it", "鬱 (U+9B31): é"):
        assert shortened(text) == printable(text) == text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "euc_jp", "utf-8"])
def test_no_encoding_of_the_terminal_ends_in_a_traceback(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    raw = io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        assert ended(lambda: sys.stdout.write("鬱 \U0002000b é\n")) == 0
        sys.stdout.flush()
        said = raw.getvalue().decode(encoding)
    assert said.startswith(("鬱", r"\u9b31")) and ("\U0002000b" in said or r"\U0002000b" in said)
