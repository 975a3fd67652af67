"""The command line: what it writes, what it says, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from napari_ssldiff.cli import EXIT_CANCELLED, main
from napari_ssldiff.embeddings import EmbeddingField
from napari_ssldiff.errors import Cancelled
from napari_ssldiff.scenes import open_scene
from napari_ssldiff.synthesis import SynthesisRequest


@pytest.fixture
def slide(write_scene: Callable[..., Path], textured: Callable[..., Any]) -> Path:
    """A made slide of 200 × 160 px at 0.5 µm."""
    return write_scene(textured(160, 200), name="slide.tif")


@pytest.fixture
def vary(slide: Path, tiny_folder: Path) -> Callable[..., list[str]]:
    """Arguments of ``vary`` with the tiny model, options replaced or added."""

    def make(output: Path, path: Path | None = None, **options: Any) -> list[str]:
        given = {
            "region": "20,30,100,80", "model": tiny_folder, "steps": 2, "device": "cpu", **options
        }  # fmt: skip
        arguments = ["vary", str(path or slide), "-o", str(output)]
        return arguments + [f"--{k}={v}" for k, v in given.items() if v is not None]

    return make


def names(folder: Path) -> set[str]:
    """Everything in a folder, hidden things included, but for the cache."""
    return {p.name for p in folder.iterdir()} - {"cache"}


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_vary_writes_a_valid_ome_zarr_and_a_picture(
    version: str,
    slide: Path,
    vary: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from ome_zarr_models import open_ome_zarr

    out, png = tmp_path / "out.ome.zarr", tmp_path / "out.png"
    assert main(vary(out, format=version, png=png)) == 0
    said = capsys.readouterr()
    assert said.out.split() == [str(out), str(png)]
    assert "network evaluations" in said.err
    assert (out / ("zarr.json" if version == "0.5" else ".zattrs")).exists()
    assert open_ome_zarr(str(out), version=version).ome_zarr_version == version
    assert Image.open(png).width >= 200
    with open_scene(out) as made, open_scene(slide) as scene:
        assert made.shape == (80, 100)
        assert made.pixel_size.unit == "micrometer"
        assert made.pixel_size.x == pytest.approx(0.5)
        assert made.origin == pytest.approx((15.0, 10.0))
        assert not np.array_equal(
            made.read_rgb(made.box), scene.read_rgb(scene.box)[30:110, 20:120]
        )
    assert names(tmp_path) == {"slide.tif", "out.ome.zarr", "out.png"}


def test_refining_draws_the_source_anew_from_a_timestep_on(
    vary: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.ome.zarr"
    assert main([*vary(out, steps=20), "--refine"]) == 0
    strength = provenance(out)["request"]["sampler"]["strength"]
    assert 0.3 < strength < 0.6
    assert main([*vary(tmp_path / "b.ome.zarr", strength=0.5), "--refine"]) == 2
    assert "give one of them" in capsys.readouterr().err
    assert main([*vary(tmp_path / "b.ome.zarr"), "--refine=5000"]) == 2
    assert "timesteps are 0 to" in capsys.readouterr().err


def test_what_is_finished_when_the_user_stops_is_written(
    write_scene: Callable[..., Path], textured: Callable[..., Any], tiny_folder: Path,
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from napari_ssldiff import export

    source, out = write_scene(textured(500, 600), name="large.tif"), tmp_path / "out.ome.zarr"
    write, count = export.OverlayStore.write, [0]

    def stopping(self: Any, *args: Any) -> None:
        write(self, *args)
        count[0] += 1
        if count[0] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(export.OverlayStore, "write", stopping)
    words = ["vary", str(source), "--region=0,0,600,500", f"--model={tiny_folder}", "--steps=1",
             "--device=cpu", "-o", str(out)]  # fmt: skip
    assert main(words) == EXIT_CANCELLED
    said = capsys.readouterr().err
    assert "of 6 tiles were finished, and are in" in said
    left = provenance(out)["unfinished"]
    assert left["of"] == 6
    assert 1 <= left["tiles"] < 6
    with open_scene(out) as made, open_scene(source) as scene:
        same = (made.read_rgb(made.box) == scene.read_rgb(scene.box)).all(-1)
    # Finished tiles are synthetic, the others the source's own.
    assert 0.1 < same.mean() < 0.9


def provenance(out: Path) -> dict[str, Any]:
    attributes = json.loads((out / "zarr.json").read_text())["attributes"]
    return dict(attributes["napari_ssldiff"])


def test_the_export_holds_the_whole_request(vary: Callable[..., list[str]], tmp_path: Path) -> None:
    out = tmp_path / "out.ome.zarr"
    assert main(vary(out, seed=12, strength=0.5, guidance=2, feather=3)) == 0
    facts = provenance(out)
    assert facts["synthetic"] is True
    request = SynthesisRequest.from_dict(facts["request"])
    assert request.digest == facts["request_digest"]
    sampler = request.sampler
    assert (sampler.seed, sampler.strength, sampler.guidance, sampler.steps) == (12, 0.5, 2, 2)
    assert (request.feather, request.model) == (3, "tiny")


def test_the_models_grid_and_the_paper_preset_work_with_a_model_from_a_folder(
    vary: Callable[..., list[str]],
    write_scene: Callable[..., Path],
    textured: Callable[..., Any],
    tmp_path: Path,
) -> None:
    fine = write_scene(textured(160, 200), 0.25, "fine.tif")
    out = tmp_path / "out.ome.zarr"
    assert main(vary(out, fine, grid="model", preset="paper", png=tmp_path / "a.png")) == 0
    with open_scene(out) as made:
        assert made.shape == (40, 50)
        assert made.pixel_size.x == pytest.approx(0.5)
        assert made.origin == pytest.approx((7.5, 5.0))


def test_the_same_command_twice_gives_the_same_pixels(
    vary: Callable[..., list[str]], tmp_path: Path
) -> None:
    images = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert main(vary(tmp_path / f"{name}.ome.zarr", seed=seed)) == 0
        with open_scene(tmp_path / f"{name}.ome.zarr") as made:
            images.append(made.read_rgb(made.box))
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The one line that a refused command says."""
    capsys.readouterr()
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    lines = said.err.splitlines()
    assert len(lines) == 1, said.err
    assert lines[0].startswith(f"napari-ssldiff {arguments[0]}: ")
    return lines[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"region": "150,30,100,80"}, "leaves the image, which is 200 × 160"),
        ({"region": "-1,0,10,10"}, "leaves the image"),
        ({"region": "0,0,0,10"}, "above 0"),
        ({"region": "0,0,10,-10"}, "above 0"),
        ({"region": "a,b,c,d"}, "four whole numbers"),
        ({"region": "1,2,3"}, "four whole numbers"),
        ({"model": "no-such-model"}, "unknown model 'no-such-model'"),
        ({"device": "toaster"}, "unknown device 'toaster'"),
        ({"preset": "best"}, "unknown preset 'best'"),
        ({"strength": 1.5}, "strength must be between 0 and 1, got 1.5"),
        ({"strength": "nan"}, "strength"),
        ({"steps": 0}, "steps must be between 1 and 1000, got 0"),
        ({"guidance": -2}, "guidance"),
        ({"seed": -1}, "seed"),
        ({"format": "0.6"}, "0.5 or 0.4, got '0.6'"),
        ({"grid": "level"}, "source or model, got 'level'"),
        ({"feather": -1}, "--feather is a length of at least 0"),
        ({"context": -8}, "--context is a length of at least 0"),
        ({"bands": "0,1"}, "three indices"),
        ({"bands": "0,1,9"}, "band"),
        ({"png": "picture.jpg"}, "ends in .png"),
        ({"png": "missing-folder/picture.png"}, "does not exist"),
    ],
)
def test_bad_options_are_refused_in_one_line(
    options: dict[str, Any],
    words: str,
    vary: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = refused(capsys, vary(tmp_path / "out.ome.zarr", **options))
    assert words in line
    assert names(tmp_path) == {"slide.tif"}


@pytest.mark.parametrize("command", ["vary", "embed", "inspect"])
@pytest.mark.parametrize("kind", ["missing", "text", "empty", "cut", "folder", "noise"])
def test_files_that_are_no_image_are_refused_in_one_line(
    command: str,
    kind: str,
    slide: Path,
    vary: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad = tmp_path / f"{kind}.svs"
    if kind == "text":
        bad.write_text("this is no slide\n" * 100)
    elif kind == "empty":
        bad.touch()
    elif kind == "cut":
        bad.write_bytes(slide.read_bytes()[:100])
    elif kind == "folder":
        bad.mkdir()
    elif kind == "noise":
        bad.write_bytes(b"II*\0" + bytes(range(256)) * 8)
    arguments = {
        "vary": vary(tmp_path / "out.ome.zarr", bad),
        "embed": ["embed", str(bad), "--region=0,0,9,9", "-o", str(tmp_path / "field.json")],
        "inspect": ["inspect", str(bad)],
    }[command]
    before = names(tmp_path)
    assert bad.name in refused(capsys, arguments)
    assert names(tmp_path) == before


def test_a_tiff_cut_in_its_pixels_never_passes_for_whole(
    slide: Path,
    vary: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad = tmp_path / "cut.tif"
    bad.write_bytes(slide.read_bytes()[: slide.stat().st_size * 2 // 3])
    code = main(vary(tmp_path / "out.ome.zarr", bad, region="0,0,200,160"))
    said = capsys.readouterr().err
    assert "Traceback" not in said
    if code == 0:  # the header may be whole: then the holes are told
        assert "warning" in said
    else:
        assert code == 2
        assert names(tmp_path) == {"slide.tif", "cut.tif"}


def test_an_output_that_exists_is_left_as_it_is(
    vary: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.ome.zarr"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    assert "exists already" in refused(capsys, vary(out))
    assert [p.name for p in out.iterdir()] == ["mine.txt"]
    picture = tmp_path / "a.png"
    picture.write_bytes(b"mine")
    assert "exists already" in refused(capsys, vary(tmp_path / "b.ome.zarr", png=picture))
    assert picture.read_bytes() == b"mine"
    assert not (tmp_path / "b.ome.zarr").exists()


def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    vary: Callable[..., list[str]],
    slide: Path,
    tmp_path: Path,
    tiny_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "does not exist" in refused(capsys, vary(tmp_path / "no" / "out.ome.zarr"))
    assert "ends in .ome.zarr" in refused(capsys, vary(tmp_path / "out.tif"))
    (tmp_path / "file").touch()
    assert refused(capsys, vary(tmp_path / "file" / "out.ome.zarr"))
    arguments = ["embed", str(slide), "--region=0,0,64,64", f"--model={tiny_folder}"]
    assert "does not exist" in refused(capsys, [*arguments, "-o", str(tmp_path / "no" / "f.json")])
    if os.geteuid() != 0:  # root may write anywhere
        locked = tmp_path / "locked"
        locked.mkdir(mode=0o500)
        assert refused(capsys, vary(locked / "out.ome.zarr"))
    assert names(tmp_path) <= {"slide.tif", "file", "locked"}


def test_a_disk_that_fills_up_leaves_nothing_that_looks_finished(
    vary: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import errno

    from zarr.storage import LocalStore

    async def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LocalStore, "set", full)
    assert main(vary(tmp_path / "out.ome.zarr")) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "disk is full" in said.splitlines()[-1]
    assert names(tmp_path) == {"slide.tif"}


def test_damaged_weights_are_refused_in_one_line(
    make_tiny_model: Callable[..., Path],
    vary: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = make_tiny_model(tmp_path / "model")
    (model / "unet.safetensors").write_bytes(b"no weights")
    line = refused(capsys, vary(tmp_path / "out.ome.zarr", model=model))
    assert "unet.safetensors is damaged" in line
    (model / "card.yaml").write_text("a: [\nb: }")
    assert "cannot read the model card" in refused(
        capsys, vary(tmp_path / "out.ome.zarr", model=model)
    )


def test_a_slide_is_not_varied_by_a_satellite_model(
    make_tiny_model: Callable[..., Path],
    vary: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = make_tiny_model(tmp_path / "model", unit="meter")
    assert "same domain" in refused(capsys, vary(tmp_path / "out.ome.zarr", model=model))


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["paint"], ["vary"], ["vary", "a.svs"], ["vary", "a.svs", "--region", "0,0,9,9"],
        ["vary", "a", "--region=0,0,9,9", "-o", "b", "--steps=many"],
        ["vary", "a", "--region=0,0,9,9", "-o", "b", "--seed=1.5"],
        ["inspect", "a", "--colour"], ["evaluate", "demo"],
    ],
)  # fmt: skip
def test_a_command_that_cannot_be_parsed_ends_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "usage: napari-ssldiff" in capsys.readouterr().err


def test_ctrl_c_ends_with_130_and_writes_nothing(
    vary: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from napari_ssldiff.synthesis import ways

    for error in (KeyboardInterrupt(), Cancelled("stop")):

        def stop(*_: Any, error: BaseException = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr(ways, "Decoder", stop)
        assert main(vary(tmp_path / "out.ome.zarr")) == 130
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.splitlines()[-1].startswith("cancelled")
        assert names(tmp_path) == {"slide.tif"}


def test_inspect_tells_the_facts(slide: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(slide), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["shape"] == [160, 200]
    assert facts["dtype"] == "uint8"
    assert facts["unit"] == "micrometer"
    assert facts["crs"] is None
    assert facts["ground_pixel_size"] is None
    assert facts["pixel_size"] == {
        "y": pytest.approx(0.5), "x": pytest.approx(0.5), "unit": "micrometer"
    }  # fmt: skip
    assert main(["inspect", str(slide)]) == 0
    assert "shape: [160, 200]" in capsys.readouterr().out


@pytest.mark.slow
def test_info_is_json_where_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert isinstance(facts["models"], list)
    assert facts["cache"].endswith("cache")


def test_embed_writes_a_field_that_loads(
    slide: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "field.json"
    arguments = ["embed", str(slide), "--region=0,0,200,160", f"--model={tiny_folder}"]
    assert main([*arguments, "--device=cpu", "-o", str(out)]) == 0
    field = EmbeddingField.load(out)
    assert (field.shape, field.width, field.cell) == ((5, 7), 12, (32, 32))
    assert field.encoder.startswith("tiny-encoder@")
    assert "5 × 7 cells of 12" in capsys.readouterr().out
    assert "exists already" in refused(capsys, [*arguments, "-o", str(out)])


def test_without_model_the_nearest_one_is_named(
    make_tiny_model: Callable[..., Path],
    own_cache: Path,
    vary: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from napari_ssldiff.models import registry

    monkeypatch.setattr(registry, "BUNDLED", tmp_path / "none")
    assert "no installed model" in refused(capsys, vary(tmp_path / "out.ome.zarr", model=None))
    make_tiny_model(own_cache / "models" / "tiny")
    assert main(vary(tmp_path / "out.ome.zarr", model=None)) == 0
    assert "model: tiny" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["paint", "DATA", "-o", "OUT"], "unknown training stage 'paint'"),
        (["autoencoder", "DATA/none", "-o", "OUT"], "no folder of images"),
        (["autoencoder", "DATA", "-o", "OUT", "--config=demo"], "no image matches"),
        (["autoencoder", "DATA", "-o", "OUT", "--config=DATA/none.yaml"], "cannot read"),
        (["autoencoder", "DATA", "-o", "OUT", "--config=DATA/slide.tif"], "configuration"),
    ],
)
def test_train_refuses_in_one_line(
    arguments: list[str],
    words: str,
    slide: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"DATA": str(tmp_path), "OUT": str(tmp_path / "out")}
    for name, place in places.items():
        arguments = [a.replace(name, place) for a in arguments]
    assert words in refused(capsys, ["train", *arguments])


def test_evaluate_refuses_in_one_line(
    tiny_folder: Path, slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["evaluate", str(tiny_folder)]
    assert "no image or folder" in refused(capsys, [*base, str(tmp_path / "none")])
    assert "unknown model" in refused(capsys, ["evaluate", "none", str(slide)])
    assert "strength 1" in refused(capsys, [*base, str(slide), "--strength=0.5"])
    table = tmp_path / "folds.csv"
    table.write_text("a,b\n1,2\n")
    assert "folds" in refused(capsys, [*base, str(slide), f"--folds={table}"])


def test_a_slide_grows_past_its_edge_and_the_edge_is_given_in_micrometres(
    slide: Path, vary: Callable[..., list[str]], tmp_path: Path
) -> None:
    out, png = tmp_path / "out.ome.zarr", tmp_path / "out.png"
    words = vary(out, region="-60,-40,150,120", png=png, grow="5um", feather="2.5um", context="8")
    assert main(words) == 2
    assert main([*words, "--extend=40um"]) == 0
    with open_scene(out) as made, open_scene(slide) as scene:
        assert made.shape == (140, 170)  # ten pixels wider on every side
        assert made.origin == pytest.approx((-25.0, -35.0))
        pixels, real = made.read_rgb(made.box), scene.read_rgb(scene.box)
        # The corner of a grown rectangle is round, and the background shows there.
        assert pixels[0, 0].tolist() == list(scene.background)
    assert pixels[60:120, 80:150].std() > 1
    assert not np.array_equal(pixels[60:120, 80:150], real[10:70, 10:80])
    request = SynthesisRequest.from_dict(provenance(out)["request"])
    assert (request.grow, request.feather, request.context) == (10, 5, 8)
    assert request.source.path.endswith("extended by 256 px")
    assert Image.open(png).width > 300
    assert main(vary(tmp_path / "no.ome.zarr", match="3m")) == 2


def test_a_reader_that_has_read_enough_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "from napari_ssldiff.cli import main; import sys; "
         "sys.exit(main(['models', 'show', '--template']))"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read()
    assert (process.returncode, said) == (0, b"")
