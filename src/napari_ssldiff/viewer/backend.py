"""The engine as the viewer needs it; the real one is imported where it is first called."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from napari_ssldiff.geometry import Region
from napari_ssldiff.scenes.scene import PixelSize, Scene
from napari_ssldiff.text.columns import Column
from napari_ssldiff.viewer.cells import Cells
from napari_ssldiff.viewer.guides import Coarse
from napari_ssldiff.viewer.native import load_triton_apart
from napari_ssldiff.viewer.session import Parameters

if TYPE_CHECKING:
    from napari_ssldiff.embeddings.field import EmbeddingField
    from napari_ssldiff.embeddings.slide import Sampled
    from napari_ssldiff.models.priors import Words
    from napari_ssldiff.synthesis.endless import LazyScene
    from napari_ssldiff.synthesis.events import Event
    from napari_ssldiff.synthesis.explore import Arrangement
    from napari_ssldiff.synthesis.imagine import Imagined, Prompt
    from napari_ssldiff.synthesis.request import Sampler, SynthesisRequest

#: Where the user looks: ``(y, x)`` in level-0 pixels, or ``None`` where that is nowhere. Called on
#: any thread.
Focus = Callable[[], tuple[float, float] | None]


class Content(Protocol):
    """A field that takes the place of a region's own, and how it came about."""

    @property
    def field(self) -> EmbeddingField: ...
    @property
    def history(self) -> tuple[str, ...]: ...


#: Called with the stage in words, the work done and the work in all.
ProgressCall = Callable[[str, float, float], None]


class Card(Protocol):
    """What the viewer shows of a model."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def domain(self) -> str: ...
    @property
    def resolution(self) -> float: ...
    @property
    def unit(self) -> str: ...
    @property
    def guidance(self) -> float: ...
    @property
    def window(self) -> int: ...
    @property
    def description(self) -> str: ...


@dataclass(frozen=True)
class Choices:
    """What the fields of a model can be asked for, beside being those of a region.

    Parameters
    ----------
    words
        Whether there is a prior of words, and so of pictures.
    classes
        That it knows.
    columns
        Of a prior of numbers.
    cells
        Whether the model takes a mask of cells.
    """

    words: bool = False
    classes: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    cells: bool = False


class Cancel(Protocol):
    """A token that stops or holds the engine within one network call."""

    def cancel(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Backend(Protocol):
    """Models and synthesis. ``models``, ``choose`` and ``choices`` are called on the main thread
    and must be quick; all else is called on the worker's."""

    def models(self) -> Sequence[Card]: ...
    def choose(self, scene: Scene) -> Card: ...
    def choices(self, model_id: str) -> Choices: ...
    def devices(self) -> tuple[str, ...]: ...
    def new_cancel(self) -> Cancel: ...
    def load(self, model_id: str, device: str) -> Any: ...
    def imagine(
        self,
        scene: Scene,
        region: Region,
        bundle: Any,
        prompt: Prompt,
        parameters: Parameters,
        *,
        progress: ProgressCall,
        cancel: Any,
    ) -> Imagined: ...
    def embed(
        self, scene: Scene, region: Region, bundle: Any, *, progress: ProgressCall, cancel: Any
    ) -> EmbeddingField: ...
    def sample(self, scene: Scene, bundle: Any, progress: ProgressCall, cancel: Any) -> Sampled: ...
    def make_request(
        self,
        scene: Scene,
        region: Region,
        bundle: Any,
        parameters: Parameters,
        *,
        content: Content | None = None,
        coarse: Coarse | None = None,
        cells: Cells | None = None,
        progress: ProgressCall,
        cancel: Any,
    ) -> SynthesisRequest: ...
    def synthesize(
        self,
        request: SynthesisRequest,
        *,
        bundle: Any,
        scene: Scene,
        cancel: Any,
        focus: Focus | None = None,
    ) -> Generator[Event, None, None]: ...
    def explore(
        self,
        scene: Scene,
        region: Region,
        bundle: Any,
        parameters: Parameters,
        *,
        arrangement: Arrangement,
        edge: int,
        progress: ProgressCall,
        cancel: Any,
    ) -> LazyScene: ...
    def explore_words(
        self,
        prompt: Prompt,
        bundle: Any,
        parameters: Parameters,
        *,
        edge: int,
        progress: ProgressCall,
        cancel: Any,
    ) -> LazyScene: ...


class EngineBackend:
    """This package's own engine, in this process."""

    def __init__(self) -> None:
        self._words: dict[tuple[str, str, str], Words] = {}

    def models(self) -> Sequence[Card]:
        """Cards of all models at hand; loads no torch."""
        from napari_ssldiff.models import list_models

        cards: Sequence[Card] = list_models()
        return cards

    def choose(self, scene: Scene) -> Card:
        """The card nearest in domain and resolution."""
        from napari_ssldiff.models import choose_model

        card: Card = choose_model(scene)
        return card

    def choices(self, model_id: str) -> Choices:
        """What the model's priors take; loads no torch."""
        from napari_ssldiff.models.priors import list_priors
        from napari_ssldiff.text.captions import classes

        card: Any = next((card for card in self.models() if card.id == model_id), None)
        if card is None:
            return Choices()
        own = [p for p in list_priors(card.folder) if p.encoder == card.encoder_id()]
        worded = next((p for p in own if p.kind == "text"), None)
        numbered = next((p.columns for p in own if p.columns is not None), None)
        return Choices(
            worded is not None,
            () if worded is None else tuple(classes(worded.domain)),
            () if numbered is None else numbered.columns,
            bool(card.parts["denoiser"].get("control")),
        )

    def devices(self) -> tuple[str, ...]:
        """Devices that torch can use here; ``"cpu"`` is always one."""
        load_triton_apart()
        import torch

        found = ["cpu"]
        if torch.cuda.is_available():
            found.append("cuda")
        if torch.backends.mps.is_available():
            found.append("mps")
        return tuple(found)

    def new_cancel(self) -> Cancel:
        """A token for one job."""
        from napari_ssldiff.synthesis import CancelToken

        token: Cancel = CancelToken()
        return token

    def load(self, model_id: str, device: str) -> Any:
        """The model on its device; takes seconds."""
        load_triton_apart()
        from napari_ssldiff.models import load_bundle

        return load_bundle(model_id, device)

    def imagine(
        self,
        scene: Scene,
        region: Region,
        bundle: Any,
        prompt: Prompt,
        parameters: Parameters,
        *,
        progress: ProgressCall,
        cancel: Any,
    ) -> Imagined:
        """A field of a prompt for a region; the prior is loaded at its first use and kept."""
        from napari_ssldiff.synthesis.prepare import imagine_region

        words, pixels = self._understood(prompt, bundle), _pixels(scene, bundle, parameters)
        made: Imagined = imagine_region(
            scene, region, bundle, words, prompt, grid="source", grow=pixels["grow"],
            context=max(pixels["context"], pixels["match"]), progress=progress, cancel=cancel,
        )  # fmt: skip
        return made

    def _understood(self, prompt: Prompt, bundle: Any) -> Words:
        """The prior of a prompt's kind for a model; loaded at its first use and kept."""
        from napari_ssldiff.models.priors import load_words, prior_for

        spec, needs = bundle.encoder.spec, prompt.root.needs
        key = spec.id, needs, str(bundle.device)
        if key not in self._words:
            card = prior_for(spec.id, needs, bundle.card.folder)
            self._words[key] = load_words(card, str(bundle.device))
        return self._words[key]

    def embed(
        self, scene: Scene, region: Region, bundle: Any, *, progress: ProgressCall, cancel: Any
    ) -> EmbeddingField:
        """The embeddings of a region, as a variation of it would take them."""
        from napari_ssldiff.synthesis.prepare import embed_region

        return embed_region(scene, region, bundle, progress=progress, cancel=cancel)

    def sample(self, scene: Scene, bundle: Any, progress: ProgressCall, cancel: Any) -> Sampled:
        """Embeddings from all over a scene."""
        from napari_ssldiff.synthesis.prepare import sample_slide

        return sample_slide(scene, bundle, progress=progress, cancel=cancel)

    def make_request(
        self,
        scene: Scene,
        region: Region,
        bundle: Any,
        parameters: Parameters,
        *,
        content: Content | None = None,
        coarse: Coarse | None = None,
        cells: Cells | None = None,
        progress: ProgressCall,
        cancel: Any,
    ) -> SynthesisRequest:
        """Embed the region, or take the content given; output in the source's own pixels."""
        from napari_ssldiff.synthesis import make_request
        from napari_ssldiff.synthesis.request import Sampler

        sampler = Sampler(
            preset=parameters.preset,
            steps=parameters.steps,
            guidance=parameters.guidance,
            strength=parameters.strength,
            seed=parameters.seed,
        )
        pixels, guide = _pixels(scene, bundle, parameters), None
        reach = {"around": max(pixels["context"], pixels["match"]), "grow": pixels["grow"]}
        if coarse is not None:
            guide = coarse.picture(scene, region, bundle, **reach)
        request: SynthesisRequest = make_request(
            scene,
            region,
            bundle,
            sampler,
            field=None if content is None else content.field,
            history=() if content is None else content.history,
            guide=guide,
            cells=None if cells is None else cells.mask(scene, region, bundle, **reach),
            grid="source",
            **pixels,
            progress=progress,
            cancel=cancel,
        )
        return request

    def synthesize(
        self,
        request: SynthesisRequest,
        *,
        bundle: Any,
        scene: Scene,
        cancel: Any,
        focus: Focus | None = None,
    ) -> Generator[Event, None, None]:
        """The events of one synthesis."""
        from napari_ssldiff.synthesis import synthesize

        yield from synthesize(request, bundle=bundle, scene=scene, cancel=cancel, focus=focus)

    def explore(
        self,
        scene: Scene,
        region: Region,
        bundle: Any,
        parameters: Parameters,
        *,
        arrangement: Arrangement,
        edge: int,
        progress: ProgressCall,
        cancel: Any,
    ) -> LazyScene:
        """A square endless slide of what a region holds."""
        from napari_ssldiff.synthesis.explore import explore

        made: LazyScene = explore(
            scene, region, bundle, _by_tiles(parameters), shape=(edge, edge),
            arrangement=arrangement, progress=progress, cancel=cancel,
        )  # fmt: skip
        return made

    def explore_words(
        self,
        prompt: Prompt,
        bundle: Any,
        parameters: Parameters,
        *,
        edge: int,
        progress: ProgressCall,
        cancel: Any,
    ) -> LazyScene:
        """A square endless slide of what a prompt says."""
        from napari_ssldiff.synthesis.explore_words import explore_words

        words = self._understood(prompt, bundle)
        made: LazyScene = explore_words(
            prompt, bundle, words, _by_tiles(parameters), shape=(edge, edge),
            progress=progress, cancel=cancel,
        )  # fmt: skip
        return made


def _by_tiles(parameters: Parameters) -> Sampler:
    """How an endless slide is sampled."""
    from napari_ssldiff.synthesis.request import Sampler

    # Steps and guidance of another preset may be those of a student, which has no tiles.
    own = parameters.preset in ("bulk", "lazy")
    return Sampler(
        preset="lazy",
        steps=parameters.steps if own else None,
        guidance=parameters.guidance if own else None,
        seed=parameters.seed,
    )


def _pixels(scene: Scene, bundle: Any, parameters: Parameters) -> dict[str, Any]:
    """How a variation meets its surroundings, in the pixels that a request counts in."""
    own, edges, spec = scene.encoder_pixel_size, parameters.edges, bundle.encoder.spec
    model = PixelSize(spec.resolution, spec.resolution, spec.unit)
    return {
        "grow": edges.grow.pixels(own, "grow"),
        "feather": edges.feather.pixels(own, "feather"),
        "context": edges.context.pixels(model, "context"),
        "match": edges.match.pixels(model, "match"),
    }
