"""PixCell with a picture of cells beside its embeddings: a ControlNet for a PixArt transformer.

After the authors' code (cvlab-stonybrook/PixCell, commits f3fbf5c and 76dece5), on the layers of
stock diffusers networks. A second transformer reads the noisy latents plus those of the picture,
and what its blocks answer is added to the tokens that the blocks of the first one hand on (Zhang
et al., *Adding conditional control to text-to-image diffusion models*, ICCV 2023). The embeddings
then say what tissue it is, the picture where its cells lie.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from diffusers import PixArtTransformer2DModel
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import nn

from napari_ssldiff.diffusion.pixcell import PixCellNetwork


class PixCellControl(nn.Module):
    """The second transformer.

    Parameters
    ----------
    config
        Of the first one, as diffusers' ``PixArtTransformer2DModel`` takes it.
    blocks
        How many it has.
    """

    def __init__(self, config: Mapping[str, Any], blocks: int) -> None:
        super().__init__()
        whole: Any = PixArtTransformer2DModel(**{**config, "num_layers": blocks})
        self.pos_embed = whole.pos_embed
        #: Of the picture; both lay the places of patches over what they embed.
        self.cond_pos_embed = copy.deepcopy(whole.pos_embed)
        self.adaln_single = whole.adaln_single
        self.caption_projection = whole.caption_projection
        self.transformer_blocks = whole.transformer_blocks
        width = whole.inner_dim
        self.controlnet_blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))

    def forward(
        self, x: torch.Tensor, picture: torch.Tensor, t: torch.Tensor, context: torch.Tensor
    ) -> list[torch.Tensor]:
        """``(n, c, h, w)`` noisy latents and those of the picture, ``(n,)`` timesteps and
        ``(n, tokens², width)`` → ``(n, patches, inner)`` to be added behind each block.
        """
        tokens = self.pos_embed(x) + self.cond_pos_embed(picture)
        times, _ = self.adaln_single(
            t,
            {"resolution": None, "aspect_ratio": None},
            batch_size=len(x),
            hidden_dtype=tokens.dtype,
        )
        captions = self.caption_projection(context)
        answers = []
        for block, outlet in zip(self.transformer_blocks, self.controlnet_blocks, strict=True):
            tokens = block(tokens, encoder_hidden_states=captions, timestep=times)
            answers.append(outlet(tokens))
        return answers


class ControlledPixCell(PixCellNetwork):
    """The transformer of PixCell and the one that shows it a picture.

    Parameters
    ----------
    transformer
        The first one.
    control
        The second one.

    Raises
    ------
    ValueError
        If that has more blocks than the first one, which would go unheard.
    """

    def __init__(self, transformer: PixArtTransformer2DModel, control: PixCellControl) -> None:
        super().__init__(transformer)
        heard, told = len(self.transformer.transformer_blocks), len(control.controlnet_blocks)
        if told > heard:
            raise ValueError(f"a control of {told} blocks beside a transformer of {heard}")
        self.control = control
        #: Rows of a batch that are shown a picture, and what is added for them behind each block.
        self._rows: torch.Tensor | None = None
        self._answers: list[torch.Tensor] = []
        for n, block in enumerate(self.transformer.transformer_blocks[:told]):
            block.register_forward_hook(partial(self._add, n))

    def _add(self, n: int, block: nn.Module, inputs: Any, tokens: torch.Tensor) -> torch.Tensor:
        if self._rows is None:
            return tokens
        return tokens.index_add(0, self._rows, self._answers[n].to(tokens.dtype))

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor
    ) -> Transformer2DModelOutput:
        """As of :class:`PixCellNetwork`; latents of the picture may follow those of ``x``.

        Rows whose picture is zero throughout are shown none: the condition that guidance leads
        away from.
        """
        channels = self.transformer.config.in_channels
        x, picture = x[:, :channels], x[:, channels:]
        if not picture.shape[1]:
            return super().forward(x, t, context)
        # A trace of shapes has no numbers to look at; it takes all rows for shown.
        shown = picture.flatten(1).any(1) if not x.is_meta else x.new_ones(len(x), dtype=torch.bool)
        rows = torch.arange(len(x), device=x.device)
        rows = rows if x.is_meta else rows[shown]
        if not len(rows):
            return super().forward(x, t, context)
        try:
            self._answers = self.control(x[rows], picture[rows], t[rows], context[rows])
            self._rows = rows
            return super().forward(x, t, context)
        finally:
            self._rows, self._answers = None, []
