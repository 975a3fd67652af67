"""The preset ``draft``: the model's student where it has one, else a few plain steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.scenes import Scene
from napari_ssldiff.synthesis import (
    Finished,
    Preview,
    Sampler,
    Started,
    SynthesisRequest,
    TileDone,
    make_request,
    synthesize,
)

Open = Callable[..., Scene]
Texture = Callable[[int, int], NDArray[np.uint8]]
DRAFT = Sampler(preset="draft", seed=3)


def run(
    scene: Scene, model: Any, sampler: Sampler, box: Box | None = None, **more: Any
) -> tuple[NDArray[np.uint8], list[Any], SynthesisRequest]:
    """RGBA of the whole scene, events and the request."""
    region = Region.from_box(box or scene.box)
    request = make_request(scene, region, model, sampler, **more)
    events = list(synthesize(request, bundle=model, scene=scene))
    image = np.zeros((*scene.shape, 4), np.uint8)
    for event in events:
        if isinstance(event, TileDone):
            image[event.box.slices] = event.pixels
    return image, events, request


def test_a_draft_is_the_students_work(
    scene_of: Open, textured: Texture, taught_painter: Any
) -> None:
    scene = scene_of(textured(128, 192))
    image, events, request = run(scene, taught_painter, DRAFT)
    assert (image[..., 3] == 255).all()
    assert (request.sampler.steps, request.sampler.guidance) == (4, 1.0)
    # 64 × 96 latents, windows of 32 at a stride of 24: 3 × 4 windows, four calls each.
    student = taught_painter.denoiser.student.network
    assert events[0].evaluations == events[-1].evaluations == student.windows == 3 * 4 * 4
    assert [e.step for e in events if isinstance(e, Preview)] == [1, 2, 3, 4]
    back = SynthesisRequest.from_dict(json.loads(json.dumps(request.to_dict())))
    assert back.digest == request.digest


def test_without_a_student_a_draft_is_a_few_plain_steps(
    scene_of: Open, textured: Texture, bundle: Any
) -> None:
    scene = scene_of(textured(128, 128))
    image, events, request = run(scene, bundle, DRAFT)
    assert (request.sampler.steps, request.sampler.guidance) == (4, 1.0)
    assert isinstance(events[-1], Finished)
    assert events[-1].evaluations == 9 * 4
    assert np.array_equal(run(scene, bundle, DRAFT)[0], image)
    assert not np.array_equal(run(scene, bundle, replace(DRAFT, seed=4))[0], image)
    own = run(scene, bundle, replace(DRAFT, steps=2, guidance=2.0))
    assert own[1][-1].evaluations == 9 * 2 * 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"guidance": 2.0}, r"guidance 2 cannot .*fixed at 1\.5.*preset bulk"),
        ({"guidance": 1.5}, r"guidance 1\.5 cannot .*fixed at 1\.5"),
        ({"steps": 8}, "8 steps cannot .*takes 4.*preset bulk"),
    ],
)
def test_what_the_student_was_not_taught_is_refused_in_one_line(
    changes: dict[str, Any], words: str, scene_of: Open, textured: Texture, taught_painter: Any
) -> None:
    scene = scene_of(textured(128, 128))
    region = Region.from_box(scene.box)
    with pytest.raises(InputError, match=words) as error:
        make_request(scene, region, taught_painter, replace(DRAFT, **changes))
    assert "\n" not in str(error.value)
    good = make_request(scene, region, taught_painter, replace(DRAFT, steps=4, guidance=1.0))
    changed = good.with_(sampler=replace(good.sampler, **changes))
    with pytest.raises(InputError, match=words):
        next(synthesize(changed, bundle=taught_painter, scene=scene))


def test_bulk_takes_no_notice_of_a_student(
    scene_of: Open, textured: Texture, painter: Any, taught_painter: Any
) -> None:
    scene = scene_of(textured(128, 128))
    sampler = Sampler(steps=3, guidance=2.0)
    images = [run(scene, model, sampler)[0] for model in (painter, taught_painter)]
    assert np.array_equal(*images)
    assert taught_painter.denoiser.student.network.windows == 0


def test_a_draft_at_strength_zero_is_the_source(
    scene_of: Open, textured: Texture, taught_painter: Any
) -> None:
    scene = scene_of(textured(160, 130))
    image, events, _ = run(scene, taught_painter, replace(DRAFT, strength=0))
    assert np.array_equal(image[..., :3], textured(160, 130))
    assert isinstance(events[0], Started)
    assert events[0].evaluations == 0


def test_a_weak_draft_costs_fewer_calls(
    scene_of: Open, textured: Texture, taught_painter: Any
) -> None:
    scene = scene_of(textured(64, 64))
    costs = [
        run(scene, taught_painter, replace(DRAFT, strength=s))[1][-1].evaluations
        for s in (1.0, 0.5, 0.1)
    ]
    assert costs == [4, 2, 1]


def test_a_draft_in_a_context_keeps_what_lies_around(
    scene_of: Open, textured: Texture, taught_painter: Any
) -> None:
    scene, box = scene_of(textured(192, 192)), Box(64, 64, 64, 64)
    image, events, _ = run(scene, taught_painter, DRAFT, box, context=32)
    assert (image[box.slices][..., 3] == 255).all()
    assert (np.delete(image[..., 3], slice(64, 128), axis=0) == 0).all()
    previews = [e for e in events if isinstance(e, Preview)]
    assert len(previews) == 4


def test_a_draft_does_not_depend_on_how_far_its_canvas_reaches(
    scene_of: Open, textured: Texture, taught_painter: Any
) -> None:
    scene = scene_of(textured(64, 400))
    wide, _, request = run(scene, taught_painter, DRAFT, Box(0, 0, 64, 400))
    less, _, _ = run(scene, taught_painter, DRAFT, Box(0, 0, 64, 304), field=request.field)
    # Beyond the last windows' reach, up to rounding.
    difference = wide[:, :190, :3].astype(int) - less[:, :190, :3]
    assert np.abs(difference).max() <= 1
