"""What a page is made of: small weights, bytes in scripts, a runtime whose hash is checked."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from kkanji.page import embedded, runtime
from kkanji.page.small_weights import CLASSIFIER_LEVELS, with_small_weights
from shards import InputError

FILES = Path(runtime.__file__).parent / "files"


def test_weights_take_a_quarter_and_come_back_within_a_step() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    weights = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 256])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 64])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    whole = model.SerializeToString()
    small = with_small_weights(whole)
    assert len(small) < 0.3 * len(whole) and len(onnx.load_from_string(small).graph.node) == 3
    session = onnxruntime.InferenceSession(small, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.eye(256, dtype=np.float32)})
    step = np.abs(weights).max(axis=1) / CLASSIFIER_LEVELS
    assert (np.abs(found.T - weights) <= step[:, None] / 2 + 1e-6).all()


@given(st.binary(max_size=200) | st.integers(0, 9).map(lambda seed: np.random.default_rng(seed).bytes(2001)))
def test_a_script_of_bytes_is_utf16_without_what_ends_a_string(data: bytes) -> None:
    text = embedded.script("x", data).decode("utf-16")
    head, tail = f'embedded.put("x",{len(data)},"', '");\n'
    body = text.removeprefix(head).removesuffix(tail)
    assert text == head + body + tail and not set(body) & set('"\\\n\r\0')
    units, key = bytearray(), 0
    for at, unit in enumerate(body):  # as embedded.js takes them out
        if at % (embedded.BLOCK + 1) == 0:
            key = ord(unit)
        else:
            units += ((ord(unit) + 1) * key % 65536).to_bytes(2, "little")
    assert bytes(units[: len(data)]) == data and len(body) <= len(data) / 2 * (1 + 1 / embedded.BLOCK) + 2


def test_without_npm_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"--page needs onnxruntime-web@.*no npm here; install Node.js with npm"):
        runtime.runtime_files()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ('echo other > "$6/x.tgz"', r"npm brought a file of sha512 .*, expected .*; empty npm's cache"),
        ("echo no network >&2; exit 1", r"npm failed: no network; install Node.js"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str) -> None:
    (tmp_path / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(InputError, match=said):
        runtime.runtime_files()


def test_no_script_takes_another_ones_names() -> None:
    """They share one space of names: a function of the same name would replace the other in silence."""
    names = [
        line.replace("async ", "").split()[1].partition("(")[0]
        for script in FILES.glob("*.js")
        for line in script.read_text(encoding="utf-8").splitlines()
        if line.startswith(("function ", "async function ", "const "))
    ]
    assert len(names) > 50 and len(names) == len(set(names))
