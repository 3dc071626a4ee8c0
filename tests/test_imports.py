"""Which package and room may import which, and what no file may do. One careless line breaks these rules."""

import ast
from collections import defaultdict
from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from docs.rooms import COMPUTED, PACKAGES, full_name, full_names, imports, module_graph

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "shards": {"shards"},
    "kkanji": {"shards", "kkanji"},
    "tools": {"shards", "kkanji", "tools"},
    "launch": {"shards", "kkanji", "launch"},
    "benchmarks": {"shards", "kkanji", "benchmarks"},
    "docs": {"kkanji"},
}
# The rooms of each package from the ground up: a room imports those below it. `__init__` and `__main__` import any.
FLOORS: dict[str, tuple[set[str], ...]] = {
    "shards": (
        {"compiled"},
        {"errors", "order", "regular_files"},
        {"checksums"},
        {"json_reading"},
        {"array_reading", "output"},
        {"format", "store", "cache"},
        {"read", "verify"},
    ),
    "kkanji": (
        {"classes", "cli", "config", "environment", "glyphs", "launchers", "pixels", "pretrained", "threads"}
        | {"memory", "variants", "wording"},
        {"timm_models"},
        {"config_files", "model_folder", "models", "neighbours"},
        {"augment"},
        {"data"},
        {"checkpoint", "evaluation"},
        {"report", "inference", "tracking"},
        {"page", "training"},
    ),
    "tools": ({"brush", "ingest", "progress"}, {"build", "view"}, {"commands"}),
    "benchmarks": (
        {"peers", "bars", "rows"},
        {"subject"},
        {"measure"},
        {"loader", "stream", "prepare", "train", "accuracy", "models", "simulation", "size", "scans", "unknown"},
        {"gpu"},
        {"table", "chart", "everything"},
    ),
    "launch": (
        {"evaluation", "index_building"},
        {"average", "doctor", "evaluate", "export", "neighbours", "predict", "train"},
    ),
    "docs": ({"api", "predictions", "rooms", "variants"},),
}
DISJOINT = {("kkanji.training", "kkanji.inference")}  # a run never needs the reader of image files
FREE = {"", "__version__"}  # what a room may import from the `__init__` of its own package
MOST_FILES = 15  # in a folder
MOST_ATTRIBUTES = 10  # of a class that is no frozen value
LARGE_CLASSES = {"Prefetcher", "Download", "SharedFolder"}  # threads and locks of `shards`, each around one state
OURS = {*MAY_IMPORT, "tests"}
NOT_IN_SHARDS = {"torch", "torchvision", "nvidia", "timm", "accelerate"}
# The command `kkanji` imports the module of the command that it is given, the package the one of the name asked for.
FRONT_DOORS = (Path("launch/__main__.py"), Path("kkanji/__init__.py"))
DALI = Path("kkanji/data/dali.py")
DALI_AS_A_PEER = Path("benchmarks/peers/dali.py")  # to compare with its own reader
OWNERS = {  # what only one file does: locks and tar headers
    "fcntl": {Path("shards/output/lock.py"), Path("benchmarks/stream/latency.py")},  # which sizes a pipe
    "tarfile": {Path("shards/format/layout.py"), Path("benchmarks/peers/webdataset_bin.py")},  # a peer's way
}
PICKLES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "runpy"}
RUNS_CODE = {"torch.load", "torch.save", "os.system", "os.popen", "eval", "exec"}
FILES = sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))


def wrong_imports(tree: ast.AST, path: Path) -> Iterator[str]:
    """Imports against the direction shards <- kkanji <- {tools, launch, benchmarks}, or of what a package forgoes."""
    package = path.parts[0]
    for module in imports(tree, path):
        top = module.split(".")[0]
        if top in OURS - MAY_IMPORT[package] or (package == "shards" and top in NOT_IN_SHARDS):
            yield f"{package} imports {module}"
        if module == COMPUTED and path not in FRONT_DOORS:
            yield f"imports {module}, which only {' and '.join(map(str, FRONT_DOORS))} may"
        if module.startswith("nvidia.dali") and path not in (DALI, DALI_AS_A_PEER):
            yield f"imports {module}, which only {DALI} may"
        if path not in OWNERS.get(top, {path}):
            yield f"imports {module}, which only {' and '.join(map(str, sorted(OWNERS[top])))} may"


def floor(package: str, room: str) -> int | None:
    """The number of a room's floor, from 0; None for a name that the package's `__init__` exports."""
    return next((number for number, rooms in enumerate(FLOORS[package]) if room in rooms), None)


def room_of(path: Path) -> str:
    """`kkanji/data/dali.py` and `kkanji/data/__init__.py`: data; `kkanji/config.py`: config."""
    return path.parts[1].removesuffix(".py")


def arrows_up(tree: ast.AST, path: Path) -> Iterator[str]:
    """Imports inside a package that do not come from a room below, or that bypass the rooms through `__init__`."""
    package, room = path.parts[0], room_of(path)
    if room.startswith("__"):
        return
    own = floor(package, room)
    if own is None:
        yield f"{room} has no floor in FLOORS"
        return
    for module in imports(tree, path):
        top, _, rest = module.partition(".")
        if top != package:
            continue
        other = rest.split(".")[0]
        there = floor(package, other)
        upward = there is not None and other != room and there >= own
        if upward or (there is None and other not in FREE) or (f"{package}.{room}", f"{package}.{other}") in DISJOINT:
            yield f"{package}.{room} imports {module}"
        if path.parts[:2] == ("tools", "commands") and module.startswith("tools.commands"):
            yield f"a command imports {module}"


def unsafe_code(tree: ast.AST, path: Path) -> Iterator[str]:
    """Imports and calls that could run code which came with data."""
    aliases = full_names(tree)
    for module in imports(tree, path):
        if module.split(".")[0] in PICKLES or module in RUNS_CODE:
            yield f"imports {module}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from unsafe_call(node, full_name(node.func, aliases))


def unsafe_call(node: ast.Call, name: str) -> Iterator[str]:
    if name in RUNS_CODE:
        yield f"calls {name}"
    for keyword in node.keywords:
        if keyword.arg in ("shell", "allow_pickle") and ast.unparse(keyword.value) != "False":
            yield f"calls {name} with {keyword.arg}={ast.unparse(keyword.value)}"


Rule = Callable[[ast.AST, Path], Iterator[str]]


@pytest.mark.parametrize("rule", [wrong_imports, arrows_up, unsafe_code])
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_keeps_the_rules(path: Path, rule: Rule) -> None:
    assert list(rule(ast.parse(path.read_text(encoding="utf-8")), path.relative_to(ROOT))) == []


def test_files_were_found() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(MAY_IMPORT)
    assert ROOT / DALI in FILES


def test_every_room_of_the_plan_is_there() -> None:
    there = {(path.relative_to(ROOT).parts[0], room_of(path.relative_to(ROOT))) for path in FILES}
    assert {(package, room) for package, floors in FLOORS.items() for rooms in floors for room in rooms} <= there


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_every_room_of_the_picture_has_a_floor(package: str) -> None:
    assert {room.split(".")[1] for room in PACKAGES[package]} <= set().union(*FLOORS[package])


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = module_graph()
    assert len(graph) > 150
    TopologicalSorter(graph).prepare()


def test_a_circle_is_noticed() -> None:
    with pytest.raises(CycleError):
        TopologicalSorter({"a": {"b"}, "b": {"c"}, "c": {"a"}}).prepare()


def test_no_folder_is_a_corridor() -> None:
    files: dict[Path, int] = defaultdict(int)
    for path in (*FILES, *(ROOT / "tests").rglob("*.py")):
        files[path.parent.relative_to(ROOT)] += path.name != "__init__.py"
    assert {folder: count for folder, count in files.items() if count > MOST_FILES} == {}


def attributes(node: ast.ClassDef) -> set[str]:
    """Fields of a dataclass that is not frozen, and what methods assign to self. Frozen values may have any number."""
    frozen = any("frozen=True" in ast.unparse(decorator) for decorator in node.decorator_list)
    fields = {
        each.target.id for each in node.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    }
    assigned = {
        each.attr
        for each in ast.walk(node)
        if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store) and ast.unparse(each.value) == "self"
    }
    return assigned if frozen else fields | assigned


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_class_holds_everything(path: Path) -> None:
    """The trainer was one class with 21 attributes: to change one safely, you had to know them all."""
    classes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
    found = {node.name: len(attributes(node)) for node in classes if node.name not in LARGE_CLASSES}
    assert {name: count for name, count in found.items() if count > MOST_ATTRIBUTES} == {}


def test_attributes_are_counted() -> None:
    code = "class A:\n    x: int\n    def f(self):\n        self.y, self.z = self.w.v = 1, 2"
    (node,) = ast.parse(code).body
    assert isinstance(node, ast.ClassDef) and attributes(node) == {"x", "y", "z"}


@pytest.mark.parametrize(
    ("rule", "path", "code"),
    [
        (wrong_imports, "shards/a.py", "import torch"),
        (wrong_imports, "shards/a.py", "def f():\n    from torch import nn"),
        (wrong_imports, "shards/a.py", "import nvidia.dali.fn as fn"),
        (wrong_imports, "shards/a.py", "from kkanji.classes import ClassMap"),
        (wrong_imports, "shards/a/b.py", "from ... import kkanji"),
        (wrong_imports, "shards/cache/a.py", "import fcntl"),
        (wrong_imports, "tools/ingest/a.py", "from tarfile import open"),
        (wrong_imports, "kkanji/a.py", "if True:\n    import tools.commands.pack"),
        (wrong_imports, "kkanji/a.py", "import numpy, tests"),
        (wrong_imports, "kkanji/a.py", "from nvidia.dali import fn"),
        (wrong_imports, "kkanji/a.py", "from nvidia import dali"),
        (wrong_imports, "tools/a.py", "from launch import train"),
        (wrong_imports, "launch/a.py", "from tools.commands.pack import pack"),
        (wrong_imports, "benchmarks/a.py", "from ..tools import pack"),
        (wrong_imports, "launch/a.py", "import_module('tools.commands.pack')"),
        (wrong_imports, "kkanji/a.py", "importlib.import_module(f'launch.{name}')"),
        (wrong_imports, "launch/a.py", "import_module(f'{package}.{name}')"),
        (arrows_up, "shards/order/a.py", "from shards.output import write_file"),
        (arrows_up, "shards/format/a.py", "from shards import store"),
        (arrows_up, "shards/cache/a.py", "def f():\n    from shards.read.reader import SplitReader"),
        (arrows_up, "shards/read/a.py", "from shards import Plan"),
        (arrows_up, "shards/read/a.py", "from .. import Plan"),
        (arrows_up, "kkanji/config.py", "from kkanji.models import create"),
        (arrows_up, "benchmarks/subject.py", "from benchmarks.measure import environment"),
        (arrows_up, "kkanji/config.py", "from kkanji.augment.policy import Policy"),
        (arrows_up, "kkanji/data/a.py", "import kkanji.training.trainer"),
        (arrows_up, "kkanji/training/a.py", "from kkanji.inference.predict import Predictor"),
        (arrows_up, "kkanji/hall.py", "import numpy"),
        (arrows_up, "tools/view/a.py", "from tools.build import packing"),
        (arrows_up, "tools/commands/a.py", "from tools.commands.pack import pack"),
        (arrows_up, "benchmarks/rows.py", "from benchmarks.accuracy import accuracy"),
        (unsafe_code, "kkanji/a.py", "import pickle"),
        (unsafe_code, "kkanji/a.py", "from pickle import loads"),
        (unsafe_code, "kkanji/a.py", "from torch import load as read"),
        (unsafe_code, "kkanji/a.py", "torch.save(model, path)"),
        (unsafe_code, "kkanji/a.py", "x = torch.load(path, weights_only=True)"),
        (unsafe_code, "kkanji/a.py", "subprocess.run(command, shell=True)"),
        (unsafe_code, "kkanji/a.py", "np.load(path, allow_pickle=trusted)"),
        (unsafe_code, "kkanji/a.py", "os.system(command)"),
        (unsafe_code, "kkanji/a.py", "import torch as t\nt.load(path)"),
        (unsafe_code, "kkanji/a.py", "from os import system as run"),
        (unsafe_code, "kkanji/a.py", "import runpy"),
        (unsafe_code, "kkanji/a.py", "__import__('pickle').loads(text)"),
        (unsafe_code, "docs/a.py", "import importlib as i\ni.import_module('pickle')"),
        (wrong_imports, "kkanji/a.py", "from importlib import import_module as load\nload(name)"),
        (wrong_imports, "docs/a.py", "from tools import view"),
    ],
)
def test_the_rules_find_what_they_forbid(rule: Rule, path: str, code: str) -> None:
    assert list(rule(ast.parse(code), Path(path)))


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("shards/format/a.py", "from . import layout\nimport numpy, shards.format.layout"),
        ("shards/read/a.py", "from shards.order import Plan\nfrom shards.cache.cache import Cache"),
        ("kkanji/data/dali.py", "from nvidia.dali import fn\nfrom shards import Plan\nmodel.eval()"),
        ("kkanji/models.py", "from kkanji.config import Head"),
        ("kkanji/report/a.py", "from ..classes import ClassMap\nfrom torch import nn"),
        ("tools/build/a.py", "from tools.build.b import c\nfrom kkanji import d\nnp.load(path, allow_pickle=False)"),
        ("tools/__main__.py", "from tools.commands.pack import pack"),
        ("launch/__main__.py", "import_module(f'{package}.{name}')"),
        ("kkanji/checkpoint/a.py", "import_module('onnxruntime')"),
        ("launch/train.py", "import kkanji, shards, toolshed\nsafetensors.torch.save(weights)"),
    ],
)
def test_the_rules_let_the_rest_be(path: str, code: str) -> None:
    tree = ast.parse(code)
    assert [*wrong_imports(tree, Path(path)), *arrows_up(tree, Path(path)), *unsafe_code(tree, Path(path))] == []
