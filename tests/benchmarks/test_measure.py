from importlib.metadata import PackageNotFoundError

import pytest

from benchmarks import measure


@pytest.mark.parametrize(
    ("installed", "found"), [("nvidia-dali-cuda120", "2.4.0"), ("nvidia-dali-cuda130", "2.4.0"), ("", None)]
)
def test_dali_is_found_by_either_of_its_packages(
    installed: str, found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(package: str) -> str:
        if package != installed:
            raise PackageNotFoundError(package)
        return "2.4.0"

    monkeypatch.setattr(measure, "version", version)
    assert measure.environment()["dali"] == found
