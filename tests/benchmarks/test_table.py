import json
from pathlib import Path

import pytest

from benchmarks.rows import markdown, plain, written
from benchmarks.table import END, filled, table
from shards import InputError

ROOT = Path(__file__).parents[2]
LIMIT = {"name": "limit: copy", "order": "none", "n": 3, "median": 2e6, "lowest": 1e6, "highest": 3e6}
OURS = {**LIMIT, "name": "ours", "order": "single images", "median": 1.5e6}
SKIPPED = {"name": "theirs", "order": "blocks", "skipped": "not installed: No module named 'theirs'"}
STATE = {"cpu": "a CPU", "cores": 2, "gpu": None, "date": "2026-11-23", "commit": "0123456789"}


@pytest.fixture
def result(tmp_path: Path) -> Path:
    path = tmp_path / "result.json"
    content = {"options": {"batch": 2000}, "environment": STATE, "rows": [LIMIT, OURS], "more": [{"name": "x", "s": 2}]}
    path.write_text(json.dumps(content))
    return path


def test_rates_shares_and_what_was_skipped() -> None:
    lines = list(markdown([LIMIT, OURS, SKIPPED]))
    assert "| ours | single images | 1,500,000 | 1,000,000 | 3,000,000 | 6,144 | 75.0% |" in lines
    assert lines[-1].startswith("| theirs | blocks | skipped: not installed: No module named 'theirs' |")
    assert {line.count("|") for line in lines} == {8}


def test_shares_are_of_the_limit_at_the_same_latency() -> None:
    slow = [{**row, "latency_ms": 100, "median": median} for row, median in ((LIMIT, 2e5), (OURS, 1.5e5))]
    lines = list(markdown([{**LIMIT, "latency_ms": 0}, *slow]))
    assert "| 100 ms: ours | single images | 150,000 | 1,000,000 | 3,000,000 | 614 | 75.0% |" in lines


def test_without_a_limit_there_is_no_share_of_it() -> None:
    assert next(markdown([OURS])) == "|  | order | images/s | lowest | highest | MB/s |"


def test_other_rows_are_headed_by_their_names() -> None:
    rows = [{"name": "a|b", "wall_s": 1.25, "images": 12_345, "curve": [1]}, {"name": "c", "wall_s": 123.4}]
    assert list(plain(rows)) == [
        "|  | wall s | images |",
        "|---|---:|---:|",
        "| a\\|b | 1.25 | 12,345 |",
        "| c | 123 |  |",
    ]
    assert [written(value) for value in (0.98765, 99_999.4, None)] == ["0.988", "99,999", ""]


def test_made_from_a_result(result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table(result)
    printed = capsys.readouterr().out
    assert "| limit: copy | none | 2,000,000 |" in printed
    assert printed.endswith("\nMedians of 3; batch 2,000; a CPU, 2 cores, no GPU; 2026-11-23, commit 0123456.\n")


def test_a_document_is_updated_between_its_markers(result: Path, tmp_path: Path) -> None:
    document = tmp_path / "README.md"
    document.write_text(
        f"# Title\n<!-- table: {result} -->\nold\n\n{END}\nbetween\n<!-- table: {result} more -->\n{END}"
    )
    with pytest.raises(SystemExit, match=r"tables differ from the results: .*README.md"):
        table(check=(document,))
    table(update=(document,))
    lines = document.read_text().splitlines()
    assert lines[:3] == ["# Title", f"<!-- table: {result} -->", next(markdown([LIMIT]))]
    assert "old" not in lines and "between" in lines and "| x | 2 |" in lines
    assert lines.count(END) == 2 and lines[-1] == END
    table(check=(document,))
    result.write_text(result.read_text().replace("2000000.0", "2000001.0"))
    with pytest.raises(SystemExit):
        table(check=(document,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{begin}\n", r"doc:1: a table begins here; expected the line <!-- end -->"),
        ("{begin}\n{begin}\n", r"doc:2: found <!-- table: .*, expected <!-- end -->"),
        ("\n{end}\n", r"doc:2: found <!-- end -->, expected a table to begin before"),
        ("<!-- table: {result} others -->\n{end}\n", r"no table 'others'; it has: rows, more"),
        ("<!-- table: none.json -->\n{end}\n", r"none.json.*expected the JSON"),
    ],
)
def test_a_document_with_wrong_markers_is_refused(text: str, message: str, result: Path) -> None:
    with pytest.raises(InputError, match=message):
        filled(text.format(begin=f"<!-- table: {result} -->", end=END, result=result), "doc")


@pytest.mark.parametrize("content", ["", "[]", '{"rows": []}', '{"rows": [{"n": 1, "order": ""}]}', '{"rows": [1]}'])
def test_what_is_no_result_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"result.json"):
        table(path)


def test_one_thing_at_a_time() -> None:
    with pytest.raises(InputError, match="expected one of"):
        table()
    with pytest.raises(InputError, match="expected one of"):
        table(update=(Path("a"),), check=(Path("b"),))


def test_tables_in_documents_are_what_the_results_give() -> None:
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")):
        text = path.read_text(encoding="utf-8")
        assert filled(text, path.name) == text, f"run `python -m benchmarks table --update {path.relative_to(ROOT)}`"


def test_a_table_that_nobody_has_measured_yet_says_how(result: Path) -> None:
    def document(path: Path) -> str:
        return filled(f"<!-- table: {path} more, if measured -->\nold\n{END}\n", "page.md")

    assert "| x | 2 |" in document(result)
    missing = document(result.with_name("gpu.json"))
    assert "\nNone measured yet: `python -m benchmarks gpu` writes gpu.json.\n" in missing and "old" not in missing


def test_a_table_has_a_column_for_each_field_of_any_row() -> None:
    lines = list(plain([{"name": "one", "failed": "no memory"}, {"name": "two", "ms": 3.0, "kernels": [1]}]))
    assert lines == ["|  | failed | ms |", "|---|---:|---:|", "| one | no memory |  |", "| two |  | 3 |"]
