"""The rooms of the code, and which room imports which; renders docs/rooms.svg from the imports in the files.

Run `python docs/rooms.py` when rooms or imports change. A test compares the picture with the code.
"""

import ast
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "rooms.svg"
# Packages from the top of the picture to its foundation, and what each room is for.
PACKAGES: Mapping[str, Mapping[str, str]] = {
    "tools": {
        "tools.commands": "one command a file",
        "tools.build": "write shard sets",
        "tools.view": "tables, cards, sheets",
        "tools.ingest": "archives to originals",
    },
    "launch": {
        "launch.train": "one or many processes",
        "launch.evaluate": "exact, on any split",
        "launch.predict": "images to characters",
        "launch.export": "a model to keep",
        "launch.neighbours": "which vote, or are added",
        "launch.average": "mean of checkpoints",
        "launch.doctor": "what this machine has",
    },
    "benchmarks": {
        "benchmarks.loader": "host feed",
        "benchmarks.stream": "feed from a bucket",
        "benchmarks.gpu": "a GPU examined",
        "benchmarks.train": "which stage limits",
        "benchmarks.accuracy": "recipes at equal time",
        "benchmarks.prepare": "offline augmentation",
        "benchmarks.models": "size and speed",
        "benchmarks.simulation": "hosts we do not have",
        "benchmarks.size": "a billion images",
        "benchmarks.scans": "pictures as people have",
        "benchmarks.unknown": "what a model does not know",
        "benchmarks.peers": "ours and other loaders",
    },
    "kkanji": {
        "kkanji.training": "loop, optimizers",
        "kkanji.page": "characters in a browser",
        "kkanji.inference": "image files to characters",
        "kkanji.report": "one HTML file per run",
        "kkanji.tracking": "TensorBoard, wandb, mlflow",
        "kkanji.evaluation": "predictions, metrics",
        "kkanji.checkpoint": "save, load, export",
        "kkanji.data": "DALI graph, batches",
        "kkanji.augment": "policy and kernels",
        "kkanji.neighbours": "votes, what is unknown",
        "kkanji.pretrained": "the model for use",
    },
    "shards": {
        "shards.verify": "every byte checked",
        "shards.read": "samples by number",
        "shards.cache": "remote shards on disk",
        "shards.store": "folder or bucket",
        "shards.format": "tar, blocks, manifest",
        "shards.output": "whole files or none",
        "shards.order": "which sample when",
    },
}
PURPOSES = {
    "tools": "raw archives to shard sets",
    "launch": "what a person starts",
    "benchmarks": "measure, tabulate, draw",
    "kkanji": "characters and networks",
    "shards": "bytes and order: no torch, no DALI",
}
LISTS = ("launch", "benchmarks")  # their rooms stand beside each other: a list says as much as boxes
WIDTH, GAP = 1000, 34
BOX_WIDTH, BOX_HEIGHT, COLUMN, FLOOR = 158, 38, 170, 60
HEAD, FOOT, LINE = 34, 14, 18
ROWS = (("tools", "launch", "benchmarks"), ("kkanji", "shards"))
WIDTHS = {"tools": 376, "launch": 254, "benchmarks": 300, "kkanji": 376, "shards": 588}
STYLE = (
    "text{font-family:system-ui,sans-serif;fill:#1f2933}.panel{fill:#f5f7fa;stroke:#9aa5b1}.room{fill:#fff;stroke:#52606d}"
    ".name{font-size:13px;font-weight:600}.word{font-size:11.5px;fill:#3e4c59}.head{font-size:15px;font-weight:700}"
    ".thin{stroke:#7b8794;fill:none}.thick{stroke:#1f2933;stroke-width:2.5;fill:none}"
)

COMPUTED = "a computed name"

Graph = Mapping[str, frozenset[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """A rectangle of the picture, in pixels from its upper left corner."""

    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


def imports(tree: ast.AST, path: Path) -> Iterator[str]:
    """The modules that a file imports, anywhere in it. path: of the file, relative to the repository."""
    aliases = full_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = [*path.parts[: len(path.parts) - node.level], node.module or ""] if node.level else [node.module]
            yield from (".".join([*filter(None, package), alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and full_name(node.func, aliases).endswith(("import_module", "__import__")):
            yield leading_text(node.args[0]) if node.args else COMPUTED


def full_names(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for: `import torch as t` gives t: torch."""
    return {
        alias.asname or alias.name.split(".")[0]: ".".join(
            filter(None, [getattr(node, "module", None), alias.name if alias.asname else alias.name.split(".")[0]])
        )
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }


def full_name(name: ast.expr, aliases: Mapping[str, str]) -> str:
    """A dotted name with its alias resolved: `t.load` gives torch.load."""
    first, dot, rest = ast.unparse(name).partition(".")
    return aliases.get(first, first) + dot + rest


def leading_text(name: ast.expr) -> str:
    """The start of a literal or an f-string; COMPUTED for any other expression."""
    first = name.values[0] if isinstance(name, ast.JoinedStr) else name
    return str(first.value) if isinstance(first, ast.Constant) else COMPUTED


def module_graph(root: Path = ROOT) -> dict[str, set[str]]:
    """For each module of the packages, the modules of the packages that it imports when it is imported or used.

    What a front door such as `kkanji/__init__.py` imports for its types only, under TYPE_CHECKING, is left out.
    """
    paths = (path for package in PACKAGES for path in sorted((root / package).rglob("*.py")))
    names = {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}
    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        found = imports(_without_types(ast.parse(path.read_text(encoding="utf-8"))), path.relative_to(root))
        graph[name] = {module if module in names else module.rpartition(".")[0] for module in found} & set(names)
    return graph


def _without_types(tree: ast.Module) -> ast.Module:
    kept = [node for node in tree.body if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")]
    return ast.Module(kept, tree.type_ignores)


def import_graph(root: Path = ROOT) -> Graph:
    """For each room, the rooms of its package that its files import; for each package, the other packages."""
    graph: dict[str, set[str]] = {name: set() for package, rooms in PACKAGES.items() for name in (package, *rooms)}
    for module, others in module_graph(root).items():
        package = module.split(".")[0]
        rooms = PACKAGES[package]
        here = room_of(module, rooms)
        graph[package] |= {other.split(".")[0] for other in others} - {package}
        if here in rooms:
            graph[here] |= {room_of(other, rooms) for other in others} & set(rooms) - {here}
    return {name: frozenset(others) for name, others in graph.items()}


def room_of(module: str, rooms: Collection[str]) -> str:
    """The room that a module lies in, or its package where it lies in none."""
    room = ".".join(module.split(".")[:2])
    return room if room in rooms else module.split(".")[0]


def reduced(graph: Graph) -> Graph:
    """Without the imports that follow from others: a imports c is left out where a imports b, and b imports c."""
    reach: dict[str, frozenset[str]] = {}
    for name in TopologicalSorter(graph).static_order():
        direct = graph[name]
        reach[name] = direct.union(*(reach[other] for other in direct))
    return {
        name: frozenset(other for other in direct if not any(other in reach[between] for between in direct - {other}))
        for name, direct in graph.items()
    }


def floors(graph: Graph, rooms: Collection[str]) -> list[list[str]]:
    """The rooms from the ground up: each lies above those of its package that it imports."""
    inside = {room: graph[room] & set(rooms) for room in rooms}
    height: dict[str, int] = {}
    for room in TopologicalSorter(inside).static_order():
        height[room] = 1 + max((height[other] for other in inside[room]), default=-1)
    return [[room for room in inside if height[room] == floor] for floor in sorted(set(height.values()))]


def panels(graph: Graph) -> dict[str, Box]:
    """Where each package stands."""
    found: dict[str, Box] = {}
    y = 1.0
    for row in ROWS:
        height, x = max(_height(graph, package) for package in row), 1.0
        for package in row:
            found[package] = Box(x=x, y=y, width=WIDTHS[package], height=height)
            x += WIDTHS[package] + GAP
        y += height + GAP
    return found


def _height(graph: Graph, package: str) -> float:
    rooms = PACKAGES[package]
    body = len(rooms) * LINE if package in LISTS else len(floors(graph, rooms)) * FLOOR - (FLOOR - BOX_HEIGHT)
    return HEAD + body + FOOT


def boxes(graph: Graph, package: str, panel: Box) -> dict[str, Box]:
    """Where the rooms of a package stand: the ground floor at the bottom, each floor centred."""
    found: dict[str, Box] = {}
    storeys = floors(graph, PACKAGES[package])
    rise = (panel.height - HEAD - FOOT - BOX_HEIGHT) / max(len(storeys) - 1, 1)
    for floor, rooms in enumerate(storeys):
        y = panel.y + panel.height - FOOT - BOX_HEIGHT - floor * rise
        left = panel.middle - (len(rooms) * COLUMN - (COLUMN - BOX_WIDTH)) / 2
        for column, room in enumerate(rooms):
            found[room] = Box(x=left + column * COLUMN, y=round(y, 1), width=BOX_WIDTH, height=BOX_HEIGHT)
    return found


def draw(graph: Graph) -> str:
    """The picture as SVG."""
    stand, thin = panels(graph), reduced(graph)
    height = max(panel.y + panel.height for panel in stand.values()) + 1
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img">',
        "<title>The rooms of kkanji; an arrow points from a room to one that it imports</title>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"'
        ' markerUnits="userSpaceOnUse"><path d="M0,0 L8,4 L0,8 z" fill="#52606d"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height:g}" fill="#fff"/>',
    ]
    for package, panel in stand.items():
        lines += _panel(package, panel)
        lines += _list(package, panel) if package in LISTS else _rooms(package, boxes(graph, package, panel), thin)
    return "\n".join([*lines, *_between(stand, thin), "</svg>", ""])


def _panel(package: str, box: Box) -> list[str]:
    return [
        f'<rect class="panel" x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{box.height:g}" rx="6"/>',
        f'<text x="{box.x + 12:g}" y="{box.y + 22:g}"><tspan class="head">{package}/</tspan>'
        f'<tspan class="word" dx="8">{PURPOSES[package]}</tspan></text>',
    ]


def _list(package: str, panel: Box) -> list[str]:
    return [
        f'<text x="{panel.x + 12:g}" y="{panel.y + HEAD + (number + 1) * LINE - 4:g}">'
        f'<tspan class="name">{room.split(".")[1]}</tspan><tspan class="word" dx="8">{words}</tspan></text>'
        for number, (room, words) in enumerate(PACKAGES[package].items())
    ]


def _rooms(package: str, rooms: Mapping[str, Box], graph: Graph) -> list[str]:
    lines = []
    for room, box in rooms.items():
        for other in sorted(graph[room] & set(rooms)):
            below = rooms[other]
            lines.append(
                f'<path class="thin" marker-end="url(#tip)" d="M{box.middle:g},{box.y + box.height:g}'
                f' L{below.middle:g},{below.y:g}"/>'
            )
    for room, box in rooms.items():
        lines += [
            f'<rect class="room" x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{box.height:g}" rx="4"/>',
            f'<text class="name" x="{box.middle:g}" y="{box.y + 16:g}" text-anchor="middle">'
            f"{room.split('.')[1]}</text>",
            f'<text class="word" x="{box.middle:g}" y="{box.y + 31:g}" text-anchor="middle">'
            f"{PACKAGES[package][room]}</text>",
        ]
    return lines


def _between(stand: Mapping[str, Box], graph: Graph) -> list[str]:
    """Arrows between packages: down from one row to the next, or to the right within a row."""
    lines = []
    for package, box in stand.items():
        for other in sorted(graph[package] & set(stand)):
            there = stand[other]
            if there.y == box.y:
                middle = box.y + box.height / 2
                path = f"M{box.x + box.width:g},{middle:g} H{there.x:g}"
            else:
                path = f"M{box.middle:g},{box.y + box.height:g} V{there.y - GAP / 2:g} H{there.middle:g} V{there.y:g}"
            lines.append(f'<path class="thick" marker-end="url(#tip)" d="{path}"/>')
    return lines


def main() -> None:
    """Write the picture."""
    PICTURE.write_text(draw(import_graph()), encoding="utf-8")


if __name__ == "__main__":
    main()
