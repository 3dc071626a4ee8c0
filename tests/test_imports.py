"""Who may import whom, and what no file may do: rules that are broken by one careless line, so each line is read."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "shards": {"shards"},
    "kkanji": {"shards", "kkanji"},
    "tools": {"shards", "kkanji", "tools"},
    "launch": {"shards", "kkanji", "launch"},
    "benchmarks": {"shards", "kkanji", "benchmarks"},
}
OURS = {*MAY_IMPORT, "tests"}
NOT_IN_SHARDS = {"torch", "torchvision", "nvidia", "timm", "accelerate"}
DALI = Path("kkanji/pipeline.py")
DALI_AS_A_PEER = Path("benchmarks/peers/dali.py")  # to compare with its own reader
PICKLES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
RUNS_CODE = {"torch.load", "torch.save", "os.system", "os.popen", "eval", "exec"}
FILES = sorted(path for room in MAY_IMPORT for path in (ROOT / room).rglob("*.py"))


def imports(tree: ast.AST, path: Path) -> Iterator[str]:
    """The modules that a file imports, wherever it does so."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = [*path.parts[: len(path.parts) - node.level], node.module or ""] if node.level else [node.module]
            yield from (".".join([*filter(None, package), alias.name]) for alias in node.names)


def wrong_imports(tree: ast.AST, path: Path) -> Iterator[str]:
    """Imports against the direction shards <- kkanji <- {tools, launch, benchmarks}, or of what a room does without."""
    room = path.parts[0]
    for module in imports(tree, path):
        top = module.split(".")[0]
        if top in OURS - MAY_IMPORT[room] or (room == "shards" and top in NOT_IN_SHARDS):
            yield f"{room} imports {module}"
        if module.startswith("nvidia.dali") and path not in (DALI, DALI_AS_A_PEER):
            yield f"imports {module}, which only {DALI} may"


def unsafe_code(tree: ast.AST, path: Path) -> Iterator[str]:
    """What could run code that came with data."""
    for module in imports(tree, path):
        if module.split(".")[0] in PICKLES or module in RUNS_CODE:
            yield f"imports {module}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from unsafe_call(node)


def unsafe_call(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    if name in RUNS_CODE:
        yield f"calls {name}"
    for keyword in node.keywords:
        if keyword.arg in ("shell", "allow_pickle") and ast.unparse(keyword.value) != "False":
            yield f"calls {name} with {keyword.arg}={ast.unparse(keyword.value)}"


Rule = Callable[[ast.AST, Path], Iterator[str]]


@pytest.mark.parametrize("rule", [wrong_imports, unsafe_code])
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_keeps_the_rules(path: Path, rule: Rule) -> None:
    assert list(rule(ast.parse(path.read_text(encoding="utf-8")), path.relative_to(ROOT))) == []


def test_files_were_found() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} >= {"shards", "kkanji", "tools", "launch"}
    assert ROOT / DALI in FILES


@pytest.mark.parametrize(
    ("rule", "path", "code"),
    [
        (wrong_imports, "shards/a.py", "import torch"),
        (wrong_imports, "shards/a.py", "def f():\n    from torch import nn"),
        (wrong_imports, "shards/a.py", "import nvidia.dali.fn as fn"),
        (wrong_imports, "shards/a.py", "from kkanji.classes import ClassMap"),
        (wrong_imports, "shards/a/b.py", "from ... import kkanji"),
        (wrong_imports, "kkanji/a.py", "if True:\n    import tools.pack"),
        (wrong_imports, "kkanji/a.py", "import numpy, tests"),
        (wrong_imports, "kkanji/a.py", "from nvidia.dali import fn"),
        (wrong_imports, "kkanji/a.py", "from nvidia import dali"),
        (wrong_imports, "tools/a.py", "from launch import train"),
        (wrong_imports, "launch/a.py", "from tools.pack import pack"),
        (wrong_imports, "benchmarks/a.py", "from ..tools import pack"),
        (unsafe_code, "kkanji/a.py", "import pickle"),
        (unsafe_code, "kkanji/a.py", "from pickle import loads"),
        (unsafe_code, "kkanji/a.py", "from torch import load as read"),
        (unsafe_code, "kkanji/a.py", "torch.save(model, path)"),
        (unsafe_code, "kkanji/a.py", "x = torch.load(path, weights_only=True)"),
        (unsafe_code, "kkanji/a.py", "subprocess.run(command, shell=True)"),
        (unsafe_code, "kkanji/a.py", "np.load(path, allow_pickle=trusted)"),
        (unsafe_code, "kkanji/a.py", "os.system(command)"),
    ],
)
def test_the_rules_find_what_they_forbid(rule: Rule, path: str, code: str) -> None:
    assert list(rule(ast.parse(code), Path(path)))


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("shards/a.py", "from . import layout\nimport numpy, shards.layout"),
        ("kkanji/pipeline.py", "from nvidia.dali import fn\nfrom shards import Plan\nmodel.eval()"),
        ("kkanji/report/a.py", "from ..classes import ClassMap\nfrom torch import nn"),
        ("tools/a.py", "from tools.b import c\nfrom kkanji import d\nnp.load(path, allow_pickle=False)"),
        ("launch/a.py", "import kkanji, shards, toolshed\nsafetensors.torch.save(weights)"),
    ],
)
def test_the_rules_let_the_rest_be(path: str, code: str) -> None:
    assert [*wrong_imports(ast.parse(code), Path(path)), *unsafe_code(ast.parse(code), Path(path))] == []
