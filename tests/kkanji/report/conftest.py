"""One made-up run and its report, for all tests of a file that only look at them."""

import pytest

from tests.kkanji.report.made_run import MadeRun, Page, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    return make_run(tmp_path_factory.mktemp("report") / "first")


@pytest.fixture(scope="module")
def page(run: MadeRun) -> Page:
    return run.write()
