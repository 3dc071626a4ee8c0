"""Model folders made by strangers, or damaged: refused in a sentence, nothing fetched, nothing believed."""

import hashlib
import json
import os
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from kkanji import checkpoint
from kkanji.checkpoint.export import export
from kkanji.checkpoint.lineage import overlaps
from kkanji.checkpoint.load import initial_weights
from kkanji.classes import ClassMap
from kkanji.data.training_set import open_set
from kkanji.inference.predict import Predictor
from kkanji.models import create_model
from shards import InputError

NETWORK = "kkanji_efficientnet_fused_s"
CLASSES = ClassMap.of([0x4E00, 0x4E8C, 0x4E09])
IMAGE = np.random.default_rng(0).integers(0, 256, (1, 64, 64), np.uint8)
Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    model = create_model(NETWORK, len(CLASSES))
    saved = checkpoint.save(
        folder / "checkpoints",
        1,
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        state={"config": {"model": NETWORK}, "training_originals": [1, 2, 3]},
        classes=CLASSES,
        best=True,
    )
    export(saved, folder / "exported", card="")
    return folder / "exported"


@pytest.fixture
def model(exported: Path, tmp_path: Path) -> Path:
    shutil.copytree(exported, tmp_path / "model")
    return tmp_path / "model"


def sign(folder: Path) -> None:
    """A manifest that fits, as a stranger makes one."""
    files = [path for path in folder.iterdir() if path.is_file() and path.name != "manifest.json"]
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (folder / "manifest.json").write_text(json.dumps(digests))


def raw(name: str, data: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(data)


def state(**fields: Any) -> Change:
    def change(folder: Path) -> None:
        record = json.loads((folder / "state.json").read_text())
        record["config"] |= fields.pop("config", {}) if isinstance(fields.get("config"), dict) else {}
        (folder / "state.json").write_text(json.dumps(record | fields))

    return change


def listed(**entries: Any) -> Change:
    def change(folder: Path) -> None:
        sign(folder)
        record = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(record | entries))

    return change


def classes(entries: dict[str, Any]) -> Change:
    return raw("index.json", json.dumps({"codepoint_to_id": entries}).encode())


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    def changed(folder: Path) -> None:
        tensors = safetensors.torch.load_file(folder / "model.safetensors")
        change(tensors)
        safetensors.torch.save_file(tensors, folder / "model.safetensors")

    return changed


def header(text: bytes) -> Change:
    return raw("model.safetensors", struct.pack("<Q", len(text)) + text)


def replaced(name: str, make: Change) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def fill(value: float) -> Change:
    return weights(lambda tensors: tensors["classifier.weight"].fill_(value))


def cut_rows(tensors: dict[str, torch.Tensor]) -> None:
    tensors["classifier.weight"] = tensors["classifier.weight"][:2].contiguous()


HUGE = b'{"classifier.weight":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'
CONTROL = (0x1B, 0x0A, 0x9B, 0x202E, 0x2028, 0x200B, 0xFEFF, 0xD800, 0xDFFF, 0x0)
# With a manifest that fits.
SIGNED: dict[str, Change] = {
    **{f"temperature {value}": state(temperature=value) for value in (0, -1, 1e-300, 1e300, "warm", None, True, [1])},
    "temperature NaN": state(temperature=float("nan")),
    "temperature infinite": state(temperature=float("inf")),
    "state is a list": raw("state.json", b"[]"),
    "state without config": raw("state.json", b"{}"),
    "state nested": raw("state.json", b'{"a":' * 100_000),
    "state not UTF-8": raw("state.json", b"\xff\xfe"),
    "config is a list": state(config=["a"]),
    **{f"model {value}": state(config={"model": value}) for value in ("hf-hub:a/b", "resnet18", "", 5, None, ["a"])},
    **{f"head {value}": state(config={"head": value}) for value in ("x", 5, None)},
    "data a number": state(config={"data": 5}),
    "init a number": state(config={"init": 5}),
    "teachers numbers": state(config={"teachers": [1]}),
    "averaged with NUL": state(config={"averaged": ["a\0b"]}),
    "counts are text": state(training_originals="abc"),
    "counts are negative": state(training_originals=[-1, 2, 3]),
    **{f"class U+{point:04X}": classes({f"x (U+{point:04X})": 0}) for point in CONTROL},
    "class number 1e400": raw("index.json", b'{"codepoint_to_id": {"x (U+4E00)": 1e400}}'),
    "class number of 5,000 digits": classes({"x (U+4E00)": "9" * 5000}),
    "class twice": classes({"x (U+4E00)": 0, "y (U+4E00)": 1}),
    "fewer classes": classes({"x (U+4E00)": 0}),
    "100,000 classes": classes({f"x (U+{0x20000 + number:05X})": number for number in range(100_000)}),
    "classes nested": raw("index.json", b"[" * 200_000),
    "classes not UTF-8": raw("index.json", b"\xff\xfe{}"),
    "tensors' header of 2**60": raw("model.safetensors", struct.pack("<Q", 1 << 60) + b"{}"),
    "no bytes of tensors": raw("model.safetensors", b""),
    "no tensors": header(b"{}"),
    "a huge tensor": header(HUGE),
    "weights NaN": fill(float("nan")),
    "weights infinite": fill(float("inf")),
    "weights of fewer classes": weights(cut_rows),
    "a tensor less": weights(lambda tensors: tensors.pop("conv_stem.weight")),
}
# With the manifest as it is, or one of its own.
UNSIGNED: dict[str, Change] = {
    "manifest a list": raw("manifest.json", b"[]"),
    "manifest empty": raw("manifest.json", b"{}"),
    "manifest nested": raw("manifest.json", b'{"a":' * 100_000),
    "manifest cut": raw("manifest.json", b'{"state.json": "00'),
    "manifest names a device": listed(**{"/dev/zero": "0" * 64}),
    "manifest leads outside": listed(**{"../../etc/hostname": "0" * 64}),
    "manifest with NUL": listed(**{"a\0b": "0" * 64}),
    "digest a number": listed(**{"state.json": 5}),
    "digest short": listed(**{"state.json": "0"}),
    "weights a folder": replaced("model.safetensors", lambda path: path.mkdir()),
    "weights a pipe": replaced("model.safetensors", os.mkfifo),
    "state a pipe": replaced("state.json", os.mkfifo),
    "manifest a pipe": replaced("manifest.json", os.mkfifo),
    "state a device": replaced("state.json", lambda path: path.symlink_to("/dev/zero")),
    "classes missing": replaced("index.json", lambda _: None),
}


def initial(folder: Path) -> None:
    """As `--init` does; what only predictions need is checked there."""
    checkpoint.read_state(folder)
    initial_weights(folder, create_model(NETWORK, len(CLASSES)), CLASSES)


@pytest.mark.parametrize("name", [*SIGNED, *UNSIGNED])
def test_every_kind_is_refused_in_a_sentence(model: Path, name: str) -> None:
    if name in SIGNED:
        SIGNED[name](model)
        sign(model)
    else:
        UNSIGNED[name](model)
    with pytest.raises(InputError) as told:
        Predictor(model, torch.device("cpu"))
    assert len(str(told.value)) < 500 + len(str(model)) and "\n" not in str(told.value)


@pytest.mark.parametrize("name", [name for name in SIGNED if name.startswith(("weights", "a tensor", "no ", "state"))])
def test_a_run_does_not_begin_with_it(model: Path, name: str) -> None:
    SIGNED[name](model)
    sign(model)
    with pytest.raises(InputError):
        initial(model)


NPY = b"\x93NUMPY\x01\x00"
LISTS = {
    "2**40 originals": b"{'descr':'<u8','fortran_order':False,'shape':(1099511627776,)}\n",
    "pickles": b"{'descr':'|O','fortran_order':False,'shape':(1,)}\n",
    "brackets": b"(" * 9000,
    "of another type": b"{'descr':'<f8','fortran_order':False,'shape':(0,)}\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_originals_that_is_none_proves_nothing(model: Path, name: str) -> None:
    (model / "originals.npy").write_bytes(NPY + struct.pack("<H", len(LISTS[name])) + LISTS[name])
    sign(model)
    assert overlaps(model, np.zeros(1, np.uint64)) is None


@pytest.fixture
def address() -> Iterator[tuple[str, list[str]]]:
    """A server of the stranger, and the requests that it got."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}", requests
        server.shutdown()


@pytest.mark.parametrize("scheme", ["http", "https", "s3", "gs", "az", "file", "set", "init"])
def test_no_address_that_it_names_is_called(
    model: Path, tiny_set: Path, address: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    host, requests = address
    for name, value in (
        ("ENDPOINT_URL", f"http://{host}"),
        ("ACCESS_KEY_ID", "AKIAVICTIM"),
        ("SECRET_ACCESS_KEY", "s"),
    ):
        monkeypatch.setenv(f"AWS_{name}", value)
    (model / "originals.npy").unlink(missing_ok=True)
    shutil.copytree(tiny_set, model / "set")
    record = json.loads((model / "set" / "dataset.json").read_text())
    (model / "set" / "dataset.json").write_text(json.dumps(record | {"base": f"http://{host}/x"}, ensure_ascii=False))
    places = {"set": {"data": str(model / "set")}, "init": {"data": str(tiny_set), "init": str(model)}}
    named = places.get(scheme, {"data": f"{scheme}://{host}/beacon"})
    state(config=named, data=open_set(tiny_set).manifest.identity())(model)
    assert overlaps(model, np.zeros(1, np.uint64)) is None
    assert requests == []


def test_200_random_damages_never_give_a_wrong_result(exported: Path, model: Path) -> None:
    """A flipped bit, a cut or a byte more in any file; half of them with a manifest made to fit."""
    chance, expected = random.Random(0), Predictor(exported, torch.device("cpu")).predict(IMAGE, 3)
    names = sorted(path.name for path in exported.iterdir() if path.name not in (".kkanji-output", "README.md"))
    small = [name for name in names if name in ("state.json", "index.json")]
    outcomes = {"refused": 0, "used": 0}
    for number in range(200):
        signed = bool(number % 2)
        name = chance.choice(small if signed else names)
        whole = (exported / name).read_bytes()
        (model / name).write_bytes(damaged(whole, chance))
        if signed:
            sign(model)
        try:
            found = Predictor(model, torch.device("cpu")).predict(IMAGE, 3)
        except InputError:
            outcomes["refused"] += 1
        else:
            outcomes["used"] += 1
            assert signed and sum(guess.probability for guess in found[0]) == pytest.approx(1)
        shutil.copy(exported / name, model / name)
        shutil.copy(exported / "manifest.json", model / "manifest.json")
    assert Predictor(model, torch.device("cpu")).predict(IMAGE, 3) == expected
    assert outcomes["refused"] > 150


def damaged(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data))
    kind = chance.randrange(3)
    if kind == 0:
        return data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]
    return data[:place] if kind == 1 else data[:place] + chance.randbytes(1) + data[place:]
