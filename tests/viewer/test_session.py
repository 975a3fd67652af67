from __future__ import annotations

import pytest

from napari_ssldiff.diffusion.presets import PRESETS as ENGINE_PRESETS
from napari_ssldiff.viewer.session import (
    PRESETS,
    Eta,
    Parameters,
    Session,
    WorkProgress,
    duration,
)


def test_presets_are_those_of_the_engine() -> None:
    ours = {name: (preset.steps, preset.guidance) for name, preset in PRESETS.items()}
    theirs = {name: (preset.steps, preset.guidance) for name, preset in ENGINE_PRESETS.items()}
    assert ours == theirs


def test_views_hear_of_a_change_once_and_not_of_none() -> None:
    session, heard = Session(), []
    session.events.parameters.connect(heard.append)
    session.parameters = Parameters(seed=3)
    session.parameters = Parameters(seed=3)
    assert heard == [Parameters(seed=3)]


def test_the_time_left_follows_the_pace_of_the_stage() -> None:
    now = [0.0]
    eta = Eta(lambda: now[0])
    assert eta.update("sampling", 0.0) is None
    now[0] = 0.1
    assert eta.update("sampling", 0.1) is None, "a tenth of a second foretells nothing"
    now[0] = 5.0
    assert eta.update("sampling", 0.25) == pytest.approx(15)
    now[0] = 6.0
    assert eta.update("decoding", 0.5) is None, "a new stage has a pace of its own"
    now[0] = 8.0
    assert eta.update("decoding", 0.75) == pytest.approx(2)
    assert eta.update("exporting", None) is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (125, "2 min 05 s"), (4200, "1 h 10 min")]
)
def test_durations_read_like_a_clock(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_progress_is_told_in_one_line() -> None:
    assert WorkProgress("Sampling", 0.5, 8.2).text == "Sampling · 50% · 8 s left"
    assert WorkProgress("Loading the model").text == "Loading the model"
