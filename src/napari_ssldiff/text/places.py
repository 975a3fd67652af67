"""Fields without bounds that a prior samples, each cell when somebody asks for it.

The prior's network is asked through the engine's random access (:class:`LazyCanvas
<napari_ssldiff.diffusion.lazy.LazyCanvas>`), where a cell is a latent of factor 1: its noise is a
function of its place, and it depends on a cone of windows around it and on nothing that was sampled
before. So a cell follows from the prior, the conditions, the seed and its place.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from napari_ssldiff.diffusion.canvas import CanvasTask, Counters
from napari_ssldiff.diffusion.lattice import ByteCache, Key
from napari_ssldiff.diffusion.lazy import LazyCanvas
from napari_ssldiff.diffusion.presets import PRESETS
from napari_ssldiff.embeddings.control_points import ControlPoints
from napari_ssldiff.embeddings.field import Vectors, normalise, slerp
from napari_ssldiff.errors import InputError, ModelError
from napari_ssldiff.geometry import Box
from napari_ssldiff.text.prior import Prior

#: As pixels in lazy.
ENDLESS_FIELDS = replace(PRESETS["lazy"], name="endless fields", guidance_interval=None)
#: Windows per network call: a prior's are small, and a call of few takes nearly as long.
BATCH = 16
#: Solver steps. Cells of the bundled prior after 10 are as near to those of a bounded field of the
#: same noise as after 20, for half the time (cosine 0.951 and 0.946:
#: ``benchmarks/results/endless-words.json``).
STEPS = 10
#: Bytes of finished cells, and of window results, that are kept.
CACHE = 64 * 2**20

_Cells = NDArray[np.int64]


class PriorPlaces:
    """Cells that a prior samples by place.

    They lie at every multiple of the prior's cell from (0, 0), in pixels of its encoder. Safe to
    ask from several threads; one at a time samples, and a glance waits for none.

    Parameters
    ----------
    prior, prior_hash
        The network, and the hash of its card.
    condition
        Vectors in the prior's space of conditions: one point says the same everywhere, several go
        over into one another; positions in pixels.
    seed
        0 … 2**63 - 1.
    typical
        What to expect at a place, as embeddings at the same points: shown where nothing was
        sampled yet. See :func:`typical_cells`.
    guidance
        Scale; ``None``: as :meth:`PriorFacts.scale <napari_ssldiff.text.prior.PriorFacts.scale>`.
    guidance_interval
        The steps that are guided, as in :class:`~napari_ssldiff.diffusion.task.CanvasTask`.
    negative
        ``(d,)``: what to keep away from.
    steps
        Of the solver.
    batch, threads
        The exact shape of network calls, and CPU threads: the last digits depend on both.
    record
        JSON-compatible, on how it came about; changes no vector.
    cache_bytes
        Of finished cells, and of window results.

    Attributes
    ----------
    check
        Called before every call of the network; raises to stop. What was finished is kept.

    Raises
    ------
    InputError
        If a condition is of another space than the prior's, or ``typical`` of other embeddings.
    """

    def __init__(
        self,
        prior: Prior,
        prior_hash: str,
        condition: ControlPoints,
        seed: int,
        typical: ControlPoints,
        *,
        guidance: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        negative: ArrayLike | None = None,
        steps: int = STEPS,
        batch: int = BATCH,
        threads: int = 1,
        record: Mapping[str, Any] | None = None,
        cache_bytes: int = CACHE,
    ) -> None:
        facts, width = prior.facts, prior.condition_width
        against = None if negative is None else np.asarray(negative, np.float32)
        for got in (condition.width, width if against is None else against.size):
            if got != width:
                raise InputError(
                    f"{facts.id} takes conditions of {width} numbers, got {got}: use the text "
                    "encoder that it was trained with"
                )
        if (typical.width, typical.encoder) != (prior.width, facts.encoder):
            raise InputError(
                f"what is typical must be an embedding of {facts.encoder}, {prior.width} numbers"
            )
        self.condition, self.typical, self.seed = condition, typical, int(seed)
        self.record = dict(record or {})
        self.check: Callable[[], None] = lambda: None
        self._prior, self._hash, self._negative = prior, prior_hash, against
        scale = facts.scale(guidance, against is not None)
        self._how = {
            "guidance": scale,
            "guidance_interval": guidance_interval and list(guidance_interval),
            "steps": steps, "batch": batch, "threads": threads,
        }  # fmt: skip
        self._cell, self._edge = facts.cell, 2 * prior.window
        self._canvas = LazyCanvas(
            prior.denoiser,
            CanvasTask(
                box=Box(0, 0, 1, 1),  # nothing is known in advance, so it says nothing
                tokens=self._tokens,
                steps=steps,
                guidance=scale,
                guidance_interval=guidance_interval,
                strength=1.0,
                seed=self.seed,
                batch=batch,
                negative=None if against is None else torch.from_numpy(
                    np.tile(against.reshape(-1), (prior.window**2, 1))
                ),
            ),
            ENDLESS_FIELDS,
            threads=threads,
            cache_bytes=cache_bytes,
            tile_bytes=0,
            check=lambda: self.check(),
        )  # fmt: skip
        self._blocks: ByteCache[Key, Vectors] = ByteCache(cache_bytes)
        # Never held while something is sampled: whoever glances would wait for it.
        self._lock = threading.Lock()

    @property
    def width(self) -> int:
        """Length of a vector."""
        return self._prior.width

    @property
    def encoder(self) -> str:
        """Identifier of the encoder whose embeddings they are."""
        return self._prior.facts.encoder

    @property
    def cell(self) -> int:
        """Edge of a cell, in pixels."""
        return self._cell

    @property
    def counters(self) -> Counters:
        """What sampling has cost so far."""
        return self._canvas.counters

    @cached_property
    def digest(self) -> str:
        """sha256 over all that the vectors and what is expected of them depend on."""
        own = {key: value for key, value in self.to_dict().items() if key != "record"}
        text = json.dumps(own, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def sample(self, y: ArrayLike, x: ArrayLike) -> Vectors:
        """float32 unit vectors at points in pixels, plus ``(d,)``; samples the cells it lacks.

        In between cells are interpolated as a field's:
        :meth:`EmbeddingField.sample <napari_ssldiff.embeddings.field.EmbeddingField.sample>`.
        """
        return self._between(y, x, self._sampled)

    def glance(self, y: ArrayLike, x: ArrayLike) -> Vectors:
        """As :meth:`sample`, of the cells that are kept; elsewhere what is typical. Never long."""
        return self._between(y, x, self._kept)

    def _between(
        self, y: ArrayLike, x: ArrayLike, cells: Callable[[_Cells, _Cells], Vectors]
    ) -> Vectors:
        """Bilinear slerp of the four nearest cells."""
        gy, gx = np.broadcast_arrays(
            *(np.asarray(at, np.float64) / self._cell - 0.5 for at in (y, x))
        )
        r, c = np.floor(gy).astype(np.int64), np.floor(gx).astype(np.int64)
        # All four at once, so that none of their blocks is dropped and made again in between.
        rows, columns = np.stack([r, r, r + 1, r + 1]), np.stack([c, c + 1, c, c + 1])
        v = cells(rows, columns)
        tx = gx - c
        return slerp(slerp(v[0], v[1], tx), slerp(v[2], v[3], tx), gy - r)

    def _sampled(self, rows: _Cells, columns: _Cells) -> Vectors:
        return self._gathered(rows, columns, self._block)

    def _kept(self, rows: _Cells, columns: _Cells) -> Vectors:
        with self._lock:
            out = self._gathered(rows, columns, self._blocks.get)
        unknown = ~out.any(-1)
        if unknown.any():
            y, x = ((at[unknown] + 0.5) * self._cell for at in (rows, columns))
            out[unknown] = self.typical.sample(y, x)
        return out

    def _gathered(
        self, rows: _Cells, columns: _Cells, block: Callable[[Key], Vectors | None]
    ) -> Vectors:
        """The cells' vectors, block by block; 0 where there is no block."""
        edge, shape = self._edge, rows.shape
        rows, columns = rows.ravel(), columns.ravel()
        names = np.stack([rows // edge, columns // edge])
        order = np.lexsort(names)
        names = names[:, order]
        first = np.flatnonzero(np.any(np.diff(names, prepend=names[:, :1] - 1), axis=0))
        out = np.zeros((len(rows), self.width), np.float32)
        for own in np.split(order, first[1:]):
            key = int(rows[own[0]] // edge), int(columns[own[0]] // edge)
            if (made := block(key)) is not None:
                out[own] = made[rows[own] % edge, columns[own] % edge]
        return out.reshape(*shape, self.width)

    @torch.inference_mode()
    def _block(self, key: Key) -> Vectors:
        """``(edge, edge, d)`` cells of a block; always one shape, so that digits are the same."""
        with self._lock:
            kept = self._blocks.get(key)
        if kept is not None:
            return kept
        edge = self._edge
        z = self._canvas.latents(Box(key[0] * edge, key[1] * edge, edge, edge))
        made = normalise(self._prior.axes.decode(z.permute(1, 2, 0)).cpu().numpy())
        with self._lock:
            self._blocks.put(key, made)
            self._blocks.trim()
        return made

    def _tokens(self, window: Box) -> torch.Tensor:
        """``(window², d)``: the condition of every cell of a window."""
        y, x = (
            (first + np.arange(size) + 0.5) * self._cell
            for first, size in ((window.y, window.h), (window.x, window.w))
        )
        grid = self.condition.sample(y[:, None], x[None, :])
        return torch.from_numpy(grid.reshape(window.area, -1))

    def to_dict(self) -> dict[str, Any]:
        """JSON-compatible form: conditions and numbers, and which prior; no cells."""
        return {
            "kind": "prior",
            "prior": self._prior.facts.id,
            "prior_hash": self._hash,
            "condition": self.condition.to_dict(),
            "negative": None if self._negative is None else base64.b64encode(
                self._negative.astype("<f4").tobytes()
            ).decode(),
            "typical": self.typical.to_dict(),
            "seed": self.seed,
            **self._how,
            "record": self.record,
        }  # fmt: skip

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], prior: Prior, prior_hash: str, *, cache_bytes: int = CACHE
    ) -> PriorPlaces:
        """The places that :meth:`to_dict` described.

        Raises
        ------
        ModelError
            If they are another prior's: its cells would be others.
        """
        if (data["prior"], data["prior_hash"]) != (prior.facts.id, prior_hash):
            raise ModelError(
                f"the field was sampled by {data['prior']} ({str(data['prior_hash'])[:12]}), not "
                f"by {prior.facts.id} ({prior_hash[:12]}): install that version of the prior"
            )
        negative, interval = data["negative"], data.get("guidance_interval")
        if negative is not None:
            negative = np.frombuffer(base64.b64decode(negative), dtype="<f4").astype(np.float32)
        return cls(
            prior,
            prior_hash,
            ControlPoints.from_dict(data["condition"]),
            int(data["seed"]),
            ControlPoints.from_dict(data["typical"]),
            guidance=float(data["guidance"]),
            guidance_interval=None
            if interval is None
            else (float(interval[0]), float(interval[1])),
            negative=negative,
            steps=int(data["steps"]),
            batch=int(data["batch"]),
            threads=int(data["threads"]),
            record=data["record"],
            cache_bytes=cache_bytes,
        )


def typical_cells(condition: ControlPoints, fields: list[Vectors], encoder: str) -> ControlPoints:
    """What to expect at every point of a condition: the mean of a field sampled for it.

    Parameters
    ----------
    fields
        ``(rows, columns, d)`` for each point.
    """
    means = [field.reshape(-1, field.shape[-1]).mean(0) for field in fields]
    return replace(condition, vectors=normalise(np.stack(means)), encoder=encoder)
