from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from napari_ssldiff.errors import InputError, ModelError
from napari_ssldiff.export import OverlayStore
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.scenes.scene import PixelSize, Scene
from napari_ssldiff.viewer.jobs import GenerateJob, Reporter
from napari_ssldiff.viewer.messages import (
    DevicesFound,
    JobCancelled,
    JobDone,
    JobFailed,
    JobPainted,
    JobPrepared,
    JobPreview,
    JobProgress,
    JobStarted,
)
from napari_ssldiff.viewer.session import Parameters
from napari_ssldiff.viewer.worker import Worker

NAME = "napari-ssldiff-worker"


@pytest.fixture
def scene(slide_pixels: np.ndarray) -> Scene:
    return Scene("a/slide.tif", "slide.tif", [slide_pixels], PixelSize(0.5, 0.5, "micrometer"))


@pytest.fixture
def store(scene: Scene) -> Iterator[OverlayStore]:
    with OverlayStore(scene.box) as store:
        yield store


@pytest.fixture
def job(scene: Scene, store: OverlayStore) -> Callable[..., GenerateJob]:
    def make(**changes: Any) -> GenerateJob:
        given = {
            "scene": scene,
            "region": Region.from_box(Box(100, 200, 200, 150)),
            "model_id": "demo-histology",
            "device": "auto",
            "parameters": Parameters(seed=5),
            "paint": store.paint,
        }
        return GenerateJob(**{**given, **changes})

    return make


@pytest.fixture
def worker(backend: Any, post: Any) -> Iterator[Worker]:
    worker = Worker(backend, post.deliver)
    yield worker
    assert worker.close()


def test_a_job_is_told_from_start_to_end_in_order(
    worker: Worker, post: Any, job: Any, store: OverlayStore, backend: Any
) -> None:
    one = job()
    worker.submit(one)
    done = post.end()
    assert isinstance(done, JobDone)
    assert "150 × 200 px" in done.text
    kinds = [type(m) for m in post.seen]
    assert kinds[0] is JobStarted
    firsts = [kinds.index(k) for k in (DevicesFound, JobPrepared, JobPreview, JobPainted)]
    assert firsts == sorted(firsts)
    stages = [m.stage for m in post.seen if isinstance(m, JobProgress)]
    assert list(dict.fromkeys(stages)) == [
        "Loading the model", "Reading the region", "Embedding", "Starting to sample", "Sampling",
        "Decoding",
    ]  # fmt: skip
    assert (store.read(one.region.bounds) == [*backend.colour(5), 255]).all()
    assert store.read(store.box)[..., 3].sum() == 255 * one.region.bounds.area


def test_the_request_carries_what_was_chosen_and_its_pixels_are_marked(
    worker: Worker, post: Any, job: Any, backend: Any
) -> None:
    chosen = Parameters(strength=0.4, guidance=3.5, steps=7, seed=11, preset="paper")
    worker.submit(job(parameters=chosen))
    post.end()
    (request,) = backend.requests
    sampler = request.sampler
    assert (sampler.strength, sampler.guidance, sampler.steps) == (0.4, 3.5, 7)
    assert (sampler.seed, sampler.preset) == (11, "paper")
    (prepared,) = [m for m in post.seen if isinstance(m, JobPrepared)]
    assert prepared.provenance["synthetic"] is True
    assert prepared.provenance["request_digest"] == request.digest


def test_all_models_live_on_one_thread_and_are_loaded_once_in_a_row(
    worker: Worker, post: Any, job: Any, backend: Any
) -> None:
    for model in ("demo-histology", "demo-histology", "demo-naip"):
        worker.submit(job(model_id=model))
    for _ in range(3):
        post.end()
    assert backend.loads == [("demo-histology", "auto"), ("demo-naip", "auto")]
    assert backend.threads == {NAME}


def test_jobs_run_one_after_another_in_their_order(worker: Worker, post: Any, job: Any) -> None:
    jobs = [job(), job(), job()]
    for one in jobs:
        worker.submit(one)
    assert [post.end().job for _ in jobs] == [one.id for one in jobs]
    order = [m.job for m in post.seen if not isinstance(m, DevicesFound)]
    assert order == sorted(order)


def test_cancel_takes_effect_within_one_network_call(
    worker: Worker, post: Any, job: Any, backend: Any
) -> None:
    backend.steps, backend.delay = 1000, 0.05
    worker.submit(job())
    post.until(JobPreview)
    start = time.perf_counter()
    worker.cancel()
    assert isinstance(post.end(), JobCancelled)
    assert time.perf_counter() - start < 1
    assert not worker.busy


def test_finished_tiles_stay_when_the_job_is_cancelled(
    worker: Worker, post: Any, job: Any, backend: Any, store: OverlayStore
) -> None:
    backend.tile_delay = 0.05
    worker.submit(job())
    painted = [post.until(JobPainted), post.until(JobPainted)]
    worker.cancel()
    assert "finished tiles stay" in post.end().text
    for message in painted:
        assert (store.read(message.box)[..., 3] == 255).all()
    assert not (store.read(store.box)[..., 3] == 255).all()


def test_cancel_stops_what_waits_too_and_the_next_job_runs(
    worker: Worker, post: Any, job: Any, backend: Any
) -> None:
    backend.delay = 0.05
    worker.submit(job())
    worker.submit(job())
    post.until(JobPreview)
    assert worker.cancel() == 2
    assert [type(post.end()) for _ in range(2)] == [JobCancelled] * 2
    backend.delay = 0
    worker.submit(job())
    assert isinstance(post.end(), JobDone)


def test_cancel_can_pick_jobs(worker: Worker, post: Any, job: Any, backend: Any) -> None:
    backend.delay = 0.02
    keep, drop = job(), job()
    worker.submit(keep)
    worker.submit(drop)
    worker.cancel(lambda one: one.id == drop.id)
    assert {type(m): m.job for m in (post.end(), post.end())} == {
        JobDone: keep.id,
        JobCancelled: drop.id,
    }


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ModelError("no model 'x': choose one of a, b"), "no model 'x': choose one of a, b"),
        (InputError("bad region"), "bad region"),
        (RuntimeError("CUDA out of memory. Tried to…"), "ran out of memory: draw a smaller region"),
        (ZeroDivisionError("division\nby zero"), "ZeroDivisionError: division by zero"),
    ],
)
def test_an_error_becomes_one_line_and_the_worker_lives_on(
    error: Exception, text: str, worker: Worker, post: Any, job: Any, backend: Any
) -> None:
    backend.sample_error = error
    worker.submit(job())
    failed = post.end()
    assert isinstance(failed, JobFailed)
    assert text in failed.text
    assert "\n" not in failed.text
    backend.sample_error = None
    worker.submit(job())
    assert isinstance(post.end(), JobDone)


def test_a_model_that_cannot_be_loaded_is_tried_again(
    worker: Worker, post: Any, job: Any, backend: Any
) -> None:
    backend.load_error = ModelError("weights are damaged")
    worker.submit(job())
    assert isinstance(post.end(), JobFailed)
    backend.load_error = None
    worker.submit(job())
    assert isinstance(post.end(), JobDone)


def test_closing_ends_the_thread_in_the_middle_of_a_job_and_silences_it(
    backend: Any, post: Any, job: Any
) -> None:
    backend.steps, backend.delay = 1000, 0.02
    worker = Worker(backend, post.deliver)
    worker.submit(job())
    worker.submit(job())
    post.until(JobPreview)
    assert worker.close()
    assert not [t for t in threading.enumerate() if t.name == NAME]
    seen = post._queue.qsize()
    time.sleep(0.1)
    assert post._queue.qsize() == seen
    with pytest.raises(RuntimeError, match="closed"):
        worker.submit(job())


def test_a_worker_that_never_worked_has_no_thread(backend: Any, post: Any) -> None:
    before = threading.active_count()
    worker = Worker(backend, post.deliver)
    assert threading.active_count() == before
    assert worker.close()


def test_progress_is_thinned_but_never_loses_a_stage_or_an_end() -> None:
    heard: list[Any] = []
    report = Reporter(1, heard.append)
    for i in range(1001):
        report("sampling", i, 1000)
    report("decoding", 0, 2)
    assert len(heard) < 50
    assert [(m.stage, m.fraction) for m in heard[-2:]] == [("Sampling", 1.0), ("Decoding", 0.0)]
