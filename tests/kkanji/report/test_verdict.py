"""What the page says about the independence of the evaluated split."""

from pathlib import Path

from tests.kkanji.report.made_run import Page, make_run


def test_known_lineage_is_stated_without_a_warning(page: Page) -> None:
    assert "Lineage known." in page.text
    assert "Warning" not in page.text


def test_unknown_lineage_is_a_warning_and_hostile_words_stay_words(tmp_path: Path) -> None:
    run = make_run(tmp_path / "<i>run")
    hostile = '<script>alert(1)</script> & "$x^2$" 漢字\U00024fa3'
    run.change("config.json", lambda record: record["data"].update(name=hostile, licence=hostile, lineage="unknown"))
    run.change(
        "config.json", lambda record: record["config"].update({"model": hostile, "data": None, hostile: hostile})
    )
    run.change("config.json", lambda record: record["environment"].update(versions={"torch": hostile}))
    run.change("evaluation.json", lambda record: record.update(checkpoint=hostile, split=hostile))
    page = run.write()
    assert "Warning: the independence of this split cannot be proven." in page.text
    assert not page.all("script") and not page.all("i")
    assert f"{hostile} trained on {hostile}" in page.text
    assert f"versions.torch {hostile}" in page.text and "data –" in page.text


def test_unknown_lineage_of_the_evaluated_split_is_enough_for_the_warning(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    run.change("evaluation.json", lambda record: record.update(lineage="unknown"))
    assert "Warning: the independence of this split cannot be proven." in run.write().text
