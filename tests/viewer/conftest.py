"""A viewer without a window, a scene, and an engine that does what a test tells it."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from napari_ssldiff.embeddings.field import EmbeddingField
from napari_ssldiff.embeddings.slide import Sampled
from napari_ssldiff.errors import Cancelled
from napari_ssldiff.geometry import Region, centre_out
from napari_ssldiff.scenes.scene import Scene
from napari_ssldiff.synthesis.events import (
    Event,
    Finished,
    Preview,
    Progress,
    Started,
    TileDone,
)
from napari_ssldiff.synthesis.imagine import Imagined, Prompt
from napari_ssldiff.synthesis.request import Sampler, Source, SynthesisRequest
from napari_ssldiff.text.columns import Column
from napari_ssldiff.viewer.backend import Card, Choices, EngineBackend
from napari_ssldiff.viewer.messages import JobCancelled, JobDone, JobFailed, Message


@dataclass(frozen=True)
class FakeCard:
    id: str
    name: str
    domain: str
    resolution: float
    unit: str
    guidance: float
    window: int = 256
    description: str = "A model for tests."


class FakeCancel:
    def __init__(self) -> None:
        self.cancelled = self.paused = False

    def cancel(self) -> None:
        self.cancelled = True

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def raise_if_cancelled(self) -> None:
        if self.cancelled:
            raise Cancelled("cancelled")


@dataclass
class FakeBackend:
    """Paints tiles of one colour, which the seed chooses, centre-out after the last step."""

    steps: int = 4
    delay: float = 0.0
    tile: int = 64
    tile_delay: float = 0.0
    spin: bool = False  # hold the interpreter lock as real work does, instead of sleeping
    load_error: Exception | None = None
    sample_error: Exception | None = None
    loads: list[tuple[str, str]] = field(default_factory=list)
    requests: list[SynthesisRequest] = field(default_factory=list)
    scenes: list[Scene] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)
    prompts: list[Prompt] = field(default_factory=list)
    guides: list[Any] = field(default_factory=list)
    masks: list[Any] = field(default_factory=list)

    def models(self) -> list[FakeCard]:
        return [
            FakeCard("demo-histology", "Demo histology", "histology", 0.5, "micrometer", 2.0),
            FakeCard("demo-naip", "Demo NAIP", "aerial", 1.0, "meter", 3.0),
        ]

    def choose(self, scene: Scene) -> FakeCard:
        return self.models()[scene.pixel_size.unit == "meter"]

    def choices(self, model_id: str) -> Choices:
        """Only the histology has a prior of numbers."""
        columns = (Column("density", 10, 2, 5, 15), Column("Ki-67", 0.3, 0.1, 0, 0.9))
        numbered = columns if model_id == "demo-histology" else ()
        return Choices(True, ("Viable", "Non-Tumor"), numbered)

    def devices(self) -> tuple[str, ...]:
        return ("cpu",)

    def new_cancel(self) -> FakeCancel:
        return FakeCancel()

    def load(self, model_id: str, device: str) -> Any:
        self._note()
        self.loads.append((model_id, device))
        if self.load_error is not None:
            raise self.load_error
        return (model_id, device)

    def imagine(
        self,
        scene: Scene,
        region: Region,
        bundle: Any,
        prompt: Prompt,
        parameters: Any,
        *,
        progress: Callable[[str, float, float], None],
        cancel: Any,
    ) -> Imagined:
        self.prompts.append(prompt)
        # Nuclei are all axes alike, anything else is the third.
        vectors = np.ones((1, 1, 4), np.float32)
        if "nuclei" not in prompt.text:
            vectors = np.eye(4, dtype=np.float32)[None, None, 2]
        imagined = EmbeddingField(vectors, (0, 0), (64, 64), "fake", 1.0, "pixel")
        record = {
            "made": "prompt", "text": prompt.text, "negative": prompt.negative, "seed": prompt.seed
        }  # fmt: skip
        return Imagined(imagined, ("it does not know 'treez'",), json.dumps(record))

    def embed(
        self, scene: Scene, region: Region, bundle: Any, *, progress: Any, cancel: Any
    ) -> EmbeddingField:
        """Cells of 16 px; the left half is of one kind, the right half of another."""
        box, size = region.bounds, scene.encoder_pixel_size
        rows, columns = -(-box.h // 16), -(-box.w // 16)
        vectors = np.zeros((rows, columns, 4), np.float32)
        vectors[:, : columns // 2, 0] = vectors[:, columns // 2 :, 1] = 1
        return EmbeddingField(vectors, (box.y, box.x), (16, 16), "fake", size.y, size.unit)

    def sample(self, scene: Scene, bundle: Any, progress: Any, cancel: Any) -> Sampled:
        """Every other cell of the scene; the upper half is of one kind, the lower half of another,
        but for the first row of cells, which is background.
        """
        progress("sampling the slide", 1, 2)
        self._work(self.delay, cancel)
        grid = (scene.shape[0] // 16, scene.shape[1] // 16)
        rows, columns = (-(-n // 2) for n in grid)
        vectors = np.zeros((rows, columns, 4), np.float32)
        vectors[: rows // 2, :, 0] = vectors[rows // 2 :, :, 2] = 1
        valid = np.ones((rows, columns), bool)
        valid[0] = False
        unit = scene.encoder_pixel_size.unit
        made = EmbeddingField(vectors, (0, 0), (32, 32), "fake", 1.0, unit, valid)
        return Sampled(made, (16.0, 16.0), grid)

    def make_request(
        self,
        scene: Scene,
        region: Region,
        bundle: Any,
        parameters: Any,
        *,
        content: Any = None,
        coarse: Any = None,
        cells: Any = None,
        progress: Callable[[str, float, float], None],
        cancel: Any,
    ) -> SynthesisRequest:
        self.guides.append(coarse)
        self.masks.append(cells)
        progress("embedding", 1, 2)
        self._work(self.delay, cancel)
        size = scene.encoder_pixel_size
        vectors = np.ones((1, 1, 4), np.float32)
        own = EmbeddingField(vectors, (0, 0), (64, 64), "fake", size.y, size.unit)
        request = SynthesisRequest(
            model=bundle[0],
            model_hash="0" * 64,
            field=own if content is None else content.field,
            history=() if content is None else content.history,
            region=region,
            source=Source(scene.path, scene.shape, (size.y, size.x), size.unit),
            sampler=Sampler(
                preset=parameters.preset,
                steps=parameters.steps,
                guidance=parameters.guidance,
                strength=parameters.strength,
                seed=parameters.seed,
            ),
        )
        self.requests.append(request)
        self.scenes.append(scene)
        return request

    def synthesize(
        self,
        request: SynthesisRequest,
        *,
        bundle: Any,
        scene: Scene,
        cancel: Any,
        focus: Callable[[], Any] = lambda: None,
    ) -> Iterator[Event]:
        self._note()
        box = request.region.bounds
        colour = self.colour(request.sampler.seed)
        yield Started(box, self.steps, self.steps)
        for step in range(self.steps):
            self._work(self.delay, cancel)
            small = np.full((-(-box.h // 8), -(-box.w // 8), 3), 255 // (step + 1), np.uint8)
            yield Preview(box, small, step + 1, self.steps)
            yield Progress("sampling", step + 1, self.steps, step + 1)
            if self.sample_error is not None:
                raise self.sample_error
        left = list(box.tiles(self.tile))
        for i in range(len(left)):
            tile = centre_out(left, focus() or box.centre)[0]
            left.remove(tile)
            self._work(self.tile_delay, cancel)
            pixels = np.zeros((*tile.shape, 4), np.uint8)
            pixels[..., :3] = colour
            pixels[..., 3] = np.where(request.region.mask(tile), 255, 0)
            yield TileDone(tile, pixels)
            yield Progress("decoding", i + 1, 10)
        yield Finished(1.0, self.steps, 0.5)

    @staticmethod
    def colour(seed: int) -> tuple[int, int, int]:
        return (200, 40 + seed % 200, 90)

    def _note(self) -> None:
        import threading

        self.threads.add(threading.current_thread().name)

    def _work(self, seconds: float, cancel: Any) -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or cancel.paused:
            cancel.raise_if_cancelled()
            if self.spin:
                sum(range(2000))
            else:
                time.sleep(min(0.005, seconds))
        cancel.raise_if_cancelled()


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@dataclass
class ZoomingBackend(FakeBackend):
    """Besides, a model of several magnifications, which is the nearest to slides."""

    def models(self) -> list[FakeCard]:
        sizes = {"20x": 0.5, "10x": 1.0, "5x": 4.0, "1.25x": 8.0}
        zoom = [
            FakeCard(f"zoom@abc:{name}", f"Zoom, {name}", "histology", size, "micrometer", 2.0)
            for name, size in sizes.items()
        ]
        return [*super().models(), *zoom]

    def choose(self, scene: Scene) -> FakeCard:
        return self.models()[1 if scene.pixel_size.unit == "meter" else 2]


@pytest.fixture
def zooming() -> ZoomingBackend:
    return ZoomingBackend()


class Post:
    """The worker's messages, taken in one after another by the test's own thread."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Message] = queue.Queue()
        self.seen: list[Message] = []

    def deliver(self, message: Message) -> None:
        self._queue.put(message)

    def next(self, timeout: float = 10) -> Message:
        message = self._queue.get(timeout=timeout)
        self.seen.append(message)
        return message

    def until(
        self, kind: type | tuple[type, ...], handle: Callable[[Message], None] = lambda m: None
    ) -> Any:
        while True:
            message = self.next()
            handle(message)
            if isinstance(message, kind):
                return message

    def end(self, handle: Callable[[Message], None] = lambda m: None) -> Any:
        return self.until((JobDone, JobCancelled, JobFailed), handle)


@pytest.fixture
def post() -> Post:
    return Post()


@pytest.fixture
def slide_pixels() -> np.ndarray:
    y, x = np.mgrid[:700, :900]
    return np.stack([(y * 3) % 251, (x * 2) % 249, (x + y) % 241], -1).astype(np.uint8)


@pytest.fixture
def add_slide(slide_pixels: np.ndarray) -> Callable[..., Any]:
    """Adds an RGB slide of 900 × 700 px at 0.5 µm/px, away from the origin, to a viewer."""

    def add(viewer: Any, **changes: Any) -> Any:
        place = {
            "name": "slide",
            "rgb": True,
            "scale": (0.5, 0.5),
            "translate": (100.25, 50.25),
            "units": ("micrometer", "micrometer"),
        }
        return viewer.add_image(slide_pixels, **{**place, **changes})

    return add


class TinyBackend(EngineBackend):
    """The real engine with one tiny model."""

    def __init__(self, bundle: Any) -> None:
        self.bundle = bundle

    def models(self) -> Sequence[Card]:
        return [self.bundle.card]

    def choose(self, scene: Any) -> Card:
        card: Card = self.bundle.card
        return card

    def load(self, model_id: str, device: str) -> Any:
        return self.bundle


@pytest.fixture
def tiny(bundle: Any) -> TinyBackend:
    return TinyBackend(bundle)
