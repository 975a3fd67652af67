"""What napari sees of the plugin."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from npe2 import PluginManifest

from napari_ssldiff.samples import SAMPLES


@pytest.fixture(scope="module")
def manifest(root: Path) -> PluginManifest:
    return PluginManifest.from_file(root / "napari.yaml")


def test_the_top_level_manifest_is_the_packages_manifest(root: Path) -> None:
    packaged = root / "src" / "napari_ssldiff" / "napari.yaml"
    assert (root / "napari.yaml").read_bytes() == packaged.read_bytes()


def test_the_installed_plugin_is_found_by_its_entry_point(manifest: PluginManifest) -> None:
    found = PluginManifest.from_distribution("napari-ssldiff")
    assert found.contributions == manifest.contributions
    assert found.display_name == "SSL Diffusion"


def test_the_manifest_bears_the_distributions_name(manifest: PluginManifest) -> None:
    assert manifest.name == metadata.metadata("napari-ssldiff")["Name"]
    assert all(c.id.startswith(f"{manifest.name}.") for c in manifest.contributions.commands)


def test_every_command_names_something_that_exists(manifest: PluginManifest) -> None:
    manifest.validate_imports()


def test_every_contribution_uses_a_declared_command_and_every_command_is_used(
    manifest: PluginManifest,
) -> None:
    given = manifest.contributions
    groups = (given.widgets, given.readers, given.writers, given.sample_data)
    used = {item.command for group in groups for item in group}
    assert used == {command.id for command in given.commands}


def test_menu_entries_lie_in_menus_that_napari_opens_to_plugins(manifest: PluginManifest) -> None:
    constants = pytest.importorskip("napari._app_model.constants._menus")
    assert manifest.contributions.menus
    for menu in manifest.contributions.menus:
        assert constants.is_menu_contributable(menu), menu


def test_the_menu_of_samples_offers_every_sample(manifest: PluginManifest) -> None:
    assert [item.key for item in manifest.contributions.sample_data] == list(SAMPLES)


@pytest.mark.parametrize(
    "name", ["a.svs", "b.TIF", "c.ome.tiff", "d.ndpi", "e.mrxs", "f.dcm", "g.ome.zarr", "h.zip"]
)
def test_the_reader_is_asked_for(name: str, manifest: PluginManifest) -> None:
    patterns = manifest.contributions.readers[0].filename_patterns
    assert any(Path(name.lower()).match(pattern) for pattern in patterns)


def test_importing_the_viewer_imports_no_torch() -> None:
    heavy = "{'torch', 'torchvision', 'diffusers', 'transformers', 'timm', 'open_clip'}"
    code = f"import sys, napari_ssldiff.viewer; print(sorted({heavy} & set(sys.modules)))"
    paths = [str(Path(__file__).resolve().parents[2] / "src"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
