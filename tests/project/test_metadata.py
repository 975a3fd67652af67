"""What ``pip install`` sees: names, licence, dependencies, extras."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

import napari_ssldiff

# Import name → distribution, where they differ.
DISTRIBUTION = {
    "huggingface_hub": "huggingface-hub",
    "PIL": "pillow",
    "skimage": "scikit-image",
    "yaml": "pyyaml",
    "open_clip": "open-clip-torch",
    "openslide": "openslide-python",
    "sklearn": "scikit-learn",
    "torch_fidelity": "torch-fidelity",
    "umap": "umap-learn",
}
QT = {"pyqt5", "pyqt6", "pyside2", "pyside6"}


@pytest.fixture(scope="module")
def pyproject(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def names(requirements: list[str]) -> set[str]:
    return {Requirement(line).name.lower() for line in requirements}


def test_no_qt_binding_comes_uninvited(pyproject: dict[str, Any]) -> None:
    base = [Requirement(line) for line in pyproject["project"]["dependencies"]]
    assert not QT & {requirement.name.lower() for requirement in base}
    assert not any(requirement.extras & {"all", "qt", "pyqt5", "pyqt6"} for requirement in base)


def test_dependencies_have_floors_and_no_ceilings(pyproject: dict[str, Any]) -> None:
    for line in pyproject["project"]["dependencies"]:
        operators = {clause.operator for clause in Requirement(line).specifier}
        assert operators == {">="}, line


def test_the_end_of_pyqt5_in_napari_is_one_bound_in_one_extra(pyproject: dict[str, Any]) -> None:
    extras = pyproject["project"]["optional-dependencies"]
    bounds = {r.name: r.specifier for r in map(Requirement, extras["pyqt5"])}
    assert "0.9.2" in bounds["napari"]
    assert "0.10.0" not in bounds["napari"]
    assert names(extras["pyqt6"]) == {"pyqt6"}


def test_the_extra_all_leaves_pyqt5_out(pyproject: dict[str, Any]) -> None:
    (everything,) = map(Requirement, pyproject["project"]["optional-dependencies"]["all"])
    assert everything.name == "napari-ssldiff"
    assert everything.extras == {"pyqt6", "openslide", "geo"}


def test_all_that_the_source_imports_is_declared(
    pyproject: dict[str, Any], source: dict[str, ast.Module]
) -> None:
    project = pyproject["project"]
    declared = names(project["dependencies"])
    for extra in ("openslide", "geo", "umap"):
        declared |= names(project["optional-dependencies"][extra])
    undeclared = {}
    for module, tree in source.items():
        for node in ast.walk(tree):
            found: list[str] = []
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found = [node.module]
            for name in (dotted.split(".")[0] for dotted in found):
                own = name in sys.stdlib_module_names or name == "napari_ssldiff"
                if not own and DISTRIBUTION.get(name, name).lower() not in declared:
                    undeclared[name] = module
    assert not undeclared


def test_the_licence_is_stated_once_as_spdx(pyproject: dict[str, Any], root: Path) -> None:
    project = pyproject["project"]
    assert project["license"] == "BSD-3-Clause"
    assert not [entry for entry in project["classifiers"] if entry.startswith("License")]
    for name in project["license-files"]:
        assert (root / name).is_file()


def test_napari_and_type_checkers_recognise_the_package(
    pyproject: dict[str, Any], root: Path
) -> None:
    project = pyproject["project"]
    assert {"Framework :: napari", "Typing :: Typed"} <= set(project["classifiers"])
    assert (root / "src" / "napari_ssldiff" / "py.typed").is_file()
    assert project["entry-points"]["napari.manifest"] == {
        "napari-ssldiff": "napari_ssldiff:napari.yaml"
    }
    assert project["scripts"] == {"napari-ssldiff": "napari_ssldiff.cli:main"}


def test_the_citation_names_the_paper_and_this_version(root: Path) -> None:
    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == napari_ssldiff.__version__
    assert citation["license"] == "BSD-3-Clause"
    assert citation["preferred-citation"]["authors"][0]["family-names"] == "Graikos"
    assert citation["preferred-citation"]["year"] == 2024
