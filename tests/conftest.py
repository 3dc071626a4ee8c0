"""What all tests share: when a test may be skipped, and a tiny shard set made by the project's own tools."""

import os
import shutil
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.faults.servers.seaweed import PUBLIC_BUCKET, SeaweedFS
from tests.making import SAMPLE, make_set
from tools.commands.combine import combine

# A job that a shell started in the background ignores Ctrl-C, and so would the commands that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests may share two busy cores with a training run: slowness is no failure.
settings.register_profile("kkanji", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kkanji")

TINY_CLASSES = 6


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip GPU tests without a GPU, unless KKANJI_REQUIRE_GPU=1 promises one: a skip must not pass for a pass."""
    if torch.cuda.is_available() or os.environ.get("KKANJI_REQUIRE_GPU") == "1":
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA GPU (KKANJI_REQUIRE_GPU=1 makes this a failure)"))


@pytest.fixture(autouse=True)
def _signals_mean_what_they_did() -> Iterator[None]:
    """A training that a signal ends leaves it ignored, and processes that later tests start would inherit that."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def real_archive() -> Path:
    """The real training archive, in the folder that KKANJI_DATA names."""
    folder = os.environ.get("KKANJI_DATA")
    if folder is None:
        pytest.skip("KKANJI_DATA does not name a folder with kkanji-train.tar.gz")
    return Path(folder) / "kkanji-train.tar.gz"


@pytest.fixture(scope="session")
def combined_archive(real_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The originals of the real archive, to be linked and not written to."""
    folder = tmp_path_factory.mktemp("real") / "originals"
    with pytest.warns(UserWarning, match=r"1 classes have no image left: U\+55DF"):
        combine((real_archive,), output=folder)
    return folder


@pytest.fixture
def real_originals(combined_archive: Path, tmp_path: Path) -> Path:
    """The originals of the real archive, to be divided."""
    return Path(shutil.copytree(combined_archive, tmp_path / "originals", copy_function=os.link))


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six characters of the sample: 6 x 24 images, a quarter of them for validation."""
    folder = tmp_path_factory.mktemp("tiny")
    for source in sorted(SAMPLE.iterdir())[:TINY_CLASSES]:
        shutil.copytree(source, folder / "kkanji2" / source.name)
    return make_set(folder, "tiny")


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """A real S3 server for the whole session."""
    with SeaweedFS(tmp_path_factory.mktemp("seaweed")) as server:
        server.make_bucket("tests")
        server.make_bucket(PUBLIC_BUCKET)
        yield server


@pytest.fixture
def bucket(seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A new `s3://` location with nothing in it, and the environment by which S3 clients find its server."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_", "AZURE_"))]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "no-profiles"))
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://tests/{uuid.uuid4().hex}"
