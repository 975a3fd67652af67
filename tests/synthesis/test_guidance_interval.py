"""Which steps are guided is part of a request: the preset's choice, or the user's."""

from __future__ import annotations

from typing import Any

import pytest

from napari_ssldiff.cli import main
from napari_ssldiff.diffusion.presets import PRESETS
from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.scenes import PixelSize
from napari_ssldiff.scenes.blank import blank_scene
from napari_ssldiff.synthesis import Sampler, SynthesisRequest, make_request
from napari_ssldiff.synthesis.prepare import resolve
from napari_ssldiff.synthesis.request import EVERYWHERE


def request(bundle: Any, sampler: Sampler) -> SynthesisRequest:
    spec = bundle.encoder.spec
    with blank_scene((64, 64), PixelSize(spec.resolution, spec.resolution, spec.unit)) as scene:
        return make_request(scene, Region.from_box(Box(0, 0, 64, 64)), bundle, sampler)


def test_a_request_says_which_steps_are_guided(bundle: Any) -> None:
    assert PRESETS["bulk"].guidance_interval is not None
    assert resolve(Sampler("bulk"), bundle).guidance_interval == PRESETS["bulk"].guidance_interval
    assert resolve(Sampler("paper"), bundle).guidance_interval == EVERYWHERE
    own = Sampler("bulk", guidance_interval=(-1.0, 2.0))
    assert resolve(own, bundle).guidance_interval == (-1.0, 2.0)


def test_it_comes_back_from_json_and_a_request_of_before_was_guided_everywhere(bundle: Any) -> None:
    made = request(bundle, Sampler(guidance_interval=(-1.0, 2.0)))
    data = made.to_dict()
    assert SynthesisRequest.from_dict(data) == made
    before = {**data, "sampler": {k: v for k, v in data["sampler"].items() if "interval" not in k}}
    assert SynthesisRequest.from_dict(before).sampler.guidance_interval == EVERYWHERE


@pytest.mark.parametrize("interval", [(2.0, 1.0), (1.0, 1.0), (-2000.0, 0.0), (float("nan"), 1.0)])
def test_an_interval_that_holds_nothing_is_refused(interval: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="from a low to a high"):
        Sampler(guidance_interval=interval)


def test_the_command_line_takes_two_numbers_or_all(
    capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    words = ["text", "few cells", "--guidance-interval=0", "-o", str(tmp_path / "o.ome.zarr")]
    assert main(words) == 2
    assert "two numbers with a comma between, or all" in capsys.readouterr().err
