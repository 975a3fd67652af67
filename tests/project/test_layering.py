"""The floors of the house: a room imports only from floors below its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "napari_ssldiff"
FLOORS = (
    ("errors", "geometry", "cache", "processor"),
    ("scenes", "diffusion", "samples"),
    ("embeddings",),
    ("text",),
    ("models",),
    ("synthesis", "training"),
    ("export", "evaluation"),
    ("runs", "diagnostics"),
    ("viewer",),
    ("cli",),
    ("__main__",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
WINDOWS = {"napari", "qtpy", "magicgui", "superqt", "vispy", "PyQt5", "PyQt6", "PySide2", "PySide6"}
BINDINGS = {"PyQt5", "PyQt6", "PySide2", "PySide6"}


def imports(tree: ast.Module, module: str) -> Iterator[str]:
    """Dotted names that a module imports, at any depth of its code, relative ones resolved.

    ``from a import b`` gives ``a.b``: the module ``b`` or something that ``a`` holds.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{name}.{alias.name}" for alias in node.names)


def room_of(module: str) -> str:
    """``napari_ssldiff.scenes.tiff`` → ``scenes``; the package itself → the empty string."""
    return module.split(".")[1] if "." in module else ""


def edges(source: dict[str, ast.Module]) -> Iterator[tuple[str, str, str]]:
    """``(module, its room, the room it imports)`` within the package."""
    rooms = {room_of(module) for module in source} - {""}
    for module, tree in source.items():
        for name in imports(tree, module):
            if name.split(".")[0] == PACKAGE and room_of(name) in rooms:
                yield module, room_of(module), room_of(name)


def test_every_room_has_a_floor(source: dict[str, ast.Module]) -> None:
    homeless = {room_of(module) for module in source} - set(FLOOR_OF) - {""}
    assert not homeless, f"give {homeless} a floor here and in docs/architecture.md"


def test_no_room_imports_from_its_own_floor_or_from_above(source: dict[str, ast.Module]) -> None:
    wrong = [
        f"{module} imports {other}"
        for module, room, other in edges(source)
        if room and other != room and FLOOR_OF.get(other, 99) >= FLOOR_OF.get(room, -1)
    ]
    assert not wrong


def test_modules_do_not_import_each_other_in_a_circle(source: dict[str, ast.Module]) -> None:
    def target(name: str) -> str:
        return name if name in source else name.rpartition(".")[0]

    graph = {
        module: {target(name) for name in imports(tree, module)} - {module, PACKAGE}
        for module, tree in source.items()
    }
    while leaves := {module for module, others in graph.items() if not others & set(graph)}:
        graph = {module: others for module, others in graph.items() if module not in leaves}
    assert not graph, f"a circle runs through {sorted(graph)}"


def test_only_the_viewer_knows_qt_and_napari(source: dict[str, ast.Module]) -> None:
    wrong = [
        f"{module} imports {name}"
        for module, tree in source.items()
        for name in imports(tree, module)
        if name.split(".")[0] in WINDOWS and room_of(module) != "viewer"
    ]
    assert not wrong


def test_the_viewer_reaches_qt_through_qtpy_only(source: dict[str, ast.Module]) -> None:
    wrong = [
        f"{module} imports {name}"
        for module, tree in source.items()
        for name in imports(tree, module)
        if name.split(".")[0] in BINDINGS
    ]
    assert not wrong


def test_nothing_unpickles(source: dict[str, ast.Module]) -> None:
    wrong = []
    for module, tree in source.items():
        banned = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve"}
        wrong += [
            f"{module} imports {name}"
            for name in imports(tree, module)
            if name.split(".")[0] in banned
        ]
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                allowed = any(
                    word.arg == "allow_pickle" and ast.unparse(word.value) != "False"
                    for word in node.keywords
                )
                if called == "torch.load" or allowed:
                    wrong.append(f"{module}:{node.lineno} {called}")
    assert not wrong


def test_no_module_is_two_rooms_long(root: Path) -> None:
    lengths = {
        str(path.relative_to(root)): len(path.read_text(encoding="utf-8").splitlines())
        for path in (root / "src").rglob("*.py")
    }
    assert not {name: length for name, length in lengths.items() if length > 400}
