"""Published layouts of encoders against independent computations on their original names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file

from napari_ssldiff.embeddings.networks import build_network
from napari_ssldiff.errors import ModelError
from napari_ssldiff.models.convert.encoders import ENCODER, convert_encoder, layout_name

Tensors = dict[str, torch.Tensor]
WIDTH, HEADS, PATCH = 24, 2, 16


def part(name: str, **options: Any) -> dict[str, Any]:
    options = {"num_classes": 0, "embed_dim": WIDTH, "num_heads": HEADS, **options}
    return {"library": "timm", "name": name, "options": options, "width": WIDTH}


def vit(depth: int = 2, side: int = 64, name: str = "vit_tiny_patch16_224", **more: Any) -> Any:
    return part(name, depth=depth, img_size=side, patch_size=PATCH, **more)


def filled(tensors: Tensors, of: dict[str, Any]) -> torch.nn.Module:
    """The card's network with converted weights."""
    network = build_network(of["library"], of["name"], of["options"], of["width"])
    network.load_state_dict(dict(convert_encoder(tensors, of).parts["encoder"]))
    return network.eval()


def pictures(side: int) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def near(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def random_vit(depth: int, grid: int, registers: int = 0, scaled: bool = False) -> Tensors:
    """A vision transformer's tensors by the names of DINO and DINOv2."""
    generator = torch.Generator().manual_seed(0)

    def made(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.2

    out = {
        "cls_token": made(1, 1, WIDTH),
        "pos_embed": made(1, grid**2 + 1, WIDTH),
        "patch_embed.proj.weight": made(WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": made(WIDTH),
        "norm.weight": 1 + made(WIDTH),
        "norm.bias": made(WIDTH),
    }
    if registers:
        out["register_tokens"] = made(1, registers, WIDTH)
    for i in range(depth):
        shapes = {
            "norm1.weight": (WIDTH,),
            "norm1.bias": (WIDTH,),
            "attn.qkv.weight": (3 * WIDTH, WIDTH),
            "attn.qkv.bias": (3 * WIDTH,),
            "attn.proj.weight": (WIDTH, WIDTH),
            "attn.proj.bias": (WIDTH,),
            "norm2.weight": (WIDTH,),
            "norm2.bias": (WIDTH,),
            "mlp.fc1.weight": (4 * WIDTH, WIDTH),
            "mlp.fc1.bias": (4 * WIDTH,),
            "mlp.fc2.weight": (WIDTH, 4 * WIDTH),
            "mlp.fc2.bias": (WIDTH,),
        }
        if scaled:
            shapes |= {"ls1.gamma": (WIDTH,), "ls2.gamma": (WIDTH,)}
        out |= {f"blocks.{i}.{name}": made(*shape) for name, shape in shapes.items()}
    return out


def plain_vit(t: Tensors, images: torch.Tensor, stretch: dict[str, Any]) -> torch.Tensor:
    """Class tokens, computed from the original names; ``stretch`` goes to ``interpolate``."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (WIDTH,), t[f"{name}.weight"], t[f"{name}.bias"], 1e-6)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    x = F.conv2d(images, t["patch_embed.proj.weight"], t["patch_embed.proj.bias"], PATCH)
    side = x.shape[-1]
    x = x.flatten(2).transpose(1, 2)
    places = t["pos_embed"][:, 1:]
    old = int(places.shape[1] ** 0.5)
    if old != side:
        square = places.reshape(1, old, old, WIDTH).permute(0, 3, 1, 2)
        square = F.interpolate(square, mode="bicubic", **stretch)
        places = square.permute(0, 2, 3, 1).reshape(1, side**2, WIDTH)
    first = (t["cls_token"] + t["pos_embed"][:, :1]).expand(len(x), -1, -1)
    extra = t.get("register_tokens", x[:1, :0]).expand(len(x), -1, -1)
    x = torch.cat([first, extra, x + places], 1)
    one = torch.ones(WIDTH)
    for i in range(sum(bool(re.fullmatch(r"blocks\.\d+\.norm1\.weight", k)) for k in t)):
        b = f"blocks.{i}"
        qkv = linear(norm(x, f"{b}.norm1"), f"{b}.attn.qkv")
        q, k, v = (p.unflatten(-1, (HEADS, -1)).transpose(1, 2) for p in qkv.chunk(3, -1))
        weights = (q @ k.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5).softmax(-1)
        y = linear((weights @ v).transpose(1, 2).flatten(2), f"{b}.attn.proj")
        x = x + t.get(f"{b}.ls1.gamma", one) * y
        y = linear(F.gelu(linear(norm(x, f"{b}.norm2"), f"{b}.mlp.fc1")), f"{b}.mlp.fc2")
        x = x + t.get(f"{b}.ls2.gamma", one) * y
    return norm(x, "norm")[:, 0]


def test_the_teacher_of_hipt_gives_the_numbers_of_its_own_code_at_a_larger_input() -> None:
    own = random_vit(depth=2, grid=4)
    source = {f"teacher.module.backbone.{k}": v for k, v in own.items()}
    source |= {f"student.module.backbone.{k}": v + 1 for k, v in own.items()}
    source |= {"teacher.module.head.mlp.0.weight": torch.zeros(3, 3)}
    card = vit(side=80)
    expected = plain_vit(own, pictures(80), {"scale_factor": (5.1 / 4, 5.1 / 4)})
    near(filled(source, card)(pictures(80)), expected)
    unused = convert_encoder(source, card).unused
    assert "teacher.module.head.mlp.0.weight" in unused
    assert len(unused) == len(own) + 1


def test_dinov2_shrinks_its_positions_as_its_own_code_does() -> None:
    own = random_vit(depth=1, grid=7, scaled=True)
    source = {**own, "mask_token": torch.zeros(1, WIDTH)}
    card = vit(depth=1, init_values=1.0)
    expected = plain_vit(own, pictures(64), {"scale_factor": (4.1 / 7, 4.1 / 7)})
    near(filled(source, card)(pictures(64)), expected)
    assert convert_encoder(source, card).unused == ("mask_token",)
    assert layout_name(source) == "DINOv2"


def test_dinov2_with_registers_keeps_them_between_the_class_token_and_the_patches() -> None:
    own = random_vit(depth=2, grid=7, registers=4, scaled=True)
    source = {**own, "mask_token": torch.zeros(1, WIDTH)}
    card = vit(name="vit_small_patch14_reg4_dinov2")
    expected = plain_vit(own, pictures(64), {"size": (4, 4), "antialias": True})
    near(filled(source, card)(pictures(64)), expected)


def test_blocks_that_training_kept_in_chunks_are_counted_through() -> None:
    own = random_vit(depth=2, grid=4, scaled=True)
    chunks = {re.sub(r"^blocks\.(\d)\.", r"blocks.\1.\1.", k): v for k, v in own.items()} | {
        "mask_token": torch.zeros(1, WIDTH)
    }
    near(filled(chunks, vit(init_values=1.0))(pictures(64)), plain_vit(own, pictures(64), {}))


def test_the_decoder_of_a_masked_autoencoder_is_named_as_unused() -> None:
    own = random_vit(depth=1, grid=4)
    decoder = {
        "mask_token": torch.zeros(1, 1, 8),
        "decoder_embed.weight": torch.zeros(8, WIDTH),
        "decoder_pos_embed": torch.zeros(1, 17, 8),
        "decoder_blocks.0.norm1.weight": torch.zeros(8),
        "decoder_pred.bias": torch.zeros(8),
    }
    card = vit(depth=1)
    near(filled({**own, **decoder}, card)(pictures(64)), plain_vit(own, pictures(64), {}))
    assert set(convert_encoder({**own, **decoder}, card).unused) == set(decoder)


FOLDERS = [
    ("ViT", {"layer_norm_eps": 1e-6}, {}),
    ("Dinov2", {}, {"init_values": 1.0}),
    ("Dinov2WithRegisters", {}, {"name": "vit_small_patch14_reg4_dinov2"}),
    ("DINOv3ViT", {"num_register_tokens": 4}, {"name": "vit_small_patch16_dinov3"}),
]


@pytest.mark.parametrize(("kind", "config", "options"), FOLDERS, ids=[f[0] for f in FOLDERS])
def test_folders_of_transformers_give_what_transformers_gives(
    tmp_path: Path, kind: str, config: dict[str, Any], options: dict[str, Any]
) -> None:
    if not hasattr(transformers, f"{kind}Model"):
        pytest.skip(f"this version of transformers has no {kind}")
    torch.manual_seed(0)
    made = getattr(transformers, f"{kind}Config")(
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        image_size=64,
        patch_size=PATCH,
        **config,
    )
    theirs = getattr(transformers, f"{kind}Model")(made).eval()
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            # The published DINOv3 networks have zeros there, and timm's have no such biases.
            zero = kind == "DINOv3ViT" and re.search(r"[qkv]_proj\.bias$", name)
            value.copy_(torch.zeros_like(value) if zero else torch.randn_like(value) * 0.2)
        expected = theirs(pictures(64)).last_hidden_state
    theirs.save_pretrained(tmp_path, safe_serialization=True)
    card = vit(**options)
    if kind == "DINOv3ViT":
        del card["options"]["img_size"]
    ours = filled(load_file(tmp_path / "model.safetensors"), card)
    with torch.no_grad():
        near(ours.forward_features(pictures(64)), expected)  # type: ignore[operator]


def test_dinov3_as_meta_publishes_it_comes_through_with_its_zero_biases() -> None:
    card = part("vit_small_patch16_dinov3", depth=1)
    network = build_network("timm", card["name"], card["options"], WIDTH)
    torch.manual_seed(0)
    own = {k: torch.randn_like(v) for k, v in network.state_dict().items()}
    source = {
        re.sub(r"\.gamma_([12])$", r".ls\1.gamma", k.replace("reg_token", "storage_tokens")): v
        for k, v in own.items()
    }
    beside = {
        "mask_token": torch.zeros(1, WIDTH),
        "rope_embed.periods": torch.ones(3),
        "blocks.0.attn.qkv.bias": torch.zeros(3 * WIDTH),
        "blocks.0.attn.qkv.bias_mask": torch.full((3 * WIDTH,), torch.nan),
    }
    converted = convert_encoder({**source, **beside}, card)
    assert set(converted.unused) == set(beside)
    assert all(torch.equal(v, own[k]) for k, v in converted.parts["encoder"].items())
    beside["blocks.0.attn.qkv.bias"][0] = 1
    with pytest.raises(ModelError, match=r"blocks\.0\.attn\.qkv\.bias is not known"):
        convert_encoder({**source, **beside}, card)


SWIN = part(
    "swin_tiny_patch4_window7_224",
    embed_dim=16,
    depths=[2, 2],
    num_heads=[2, 4],
    window_size=4,
    img_size=32,
    embed_layer="ConvStem",
)
SWIN["width"] = 32


def original_swin() -> Tensors:
    """A small CTransPath by the names of timm 0.5: shrinking ends a stage, buffers are kept."""
    torch.manual_seed(0)
    network = build_network("timm", SWIN["name"], SWIN["options"], 32)
    out = {}
    for name, value in network.state_dict().items():
        name = name.replace("layers.1.downsample", "layers.0.downsample")
        is_float = value.is_floating_point()
        out[name] = torch.randn_like(value) * 0.3 if is_float else value
        if name.endswith("running_var"):
            out[name] = 0.5 + torch.rand_like(value)
    out["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 16, 16)
    out["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.long)
    return out


def plain_swin(t: Tensors, x: torch.Tensor) -> torch.Tensor:
    """Swin with a convolutional stem: attention among all places, masked to shifted windows."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], t[f"{name}.weight"], t[f"{name}.bias"], 1e-5)

    for conv, batch in ((0, 1), (3, 4)):
        x = F.conv2d(x, t[f"patch_embed.proj.{conv}.weight"], None, 2, 1)
        b = f"patch_embed.proj.{batch}"
        stats = (t[f"{b}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        x = F.batch_norm(x, *stats).relu()
    x = F.conv2d(x, t["patch_embed.proj.6.weight"], t["patch_embed.proj.6.bias"])
    x = norm(x.permute(0, 2, 3, 1), "patch_embed.norm")
    window = 4
    for stage, heads in enumerate((2, 4)):
        for block in range(2):
            b, side = f"layers.{stage}.blocks.{block}", x.shape[1]
            shift = 2 if block and side > window else 0
            place = torch.cartesian_prod(torch.arange(side), torch.arange(side))
            moved = (place - shift) % side
            # After the cyclic shift, what came round the edge is a region of its own.
            region = torch.cat([moved // window, (place < shift).long()], 1)
            apart = (region[:, None] != region[None]).any(-1)
            offset = (moved[:, None] - moved[None]) % (2 * window)  # -3…3 as 0…7
            offset = torch.where(offset >= window, offset - 2 * window, offset) + window - 1
            index = (offset * torch.tensor([2 * window - 1, 1])).sum(-1)
            table = t[f"{b}.attn.relative_position_bias_table"]
            bias = table[index.clamp(0, len(table) - 1)].permute(2, 0, 1)
            y = norm(x, f"{b}.norm1").flatten(1, 2)
            y = y @ t[f"{b}.attn.qkv.weight"].T + t[f"{b}.attn.qkv.bias"]
            q, k, v = (p.unflatten(-1, (heads, -1)).transpose(1, 2) for p in y.chunk(3, -1))
            scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + bias
            y = scores.masked_fill(apart, -torch.inf).softmax(-1) @ v
            y = y.transpose(1, 2).flatten(2) @ t[f"{b}.attn.proj.weight"].T
            x = x + (y + t[f"{b}.attn.proj.bias"]).unflatten(1, (side, side))
            y = norm(x, f"{b}.norm2") @ t[f"{b}.mlp.fc1.weight"].T + t[f"{b}.mlp.fc1.bias"]
            x = x + F.gelu(y) @ t[f"{b}.mlp.fc2.weight"].T + t[f"{b}.mlp.fc2.bias"]
        if stage == 0:
            corners = [x[:, dy::2, dx::2] for dx in (0, 1) for dy in (0, 1)]
            x = norm(torch.cat(corners, -1), "layers.0.downsample.norm")
            x = x @ t["layers.0.downsample.reduction.weight"].T
    return norm(x, "norm").mean((1, 2))


def test_ctranspath_gives_the_numbers_of_its_own_code() -> None:
    source = original_swin()
    head = {"head.weight": torch.zeros(3, 32), "head.bias": torch.zeros(3)}
    with torch.no_grad():
        near(filled({**source, **head}, SWIN)(pictures(32)), plain_swin(source, pictures(32)))
    unused = convert_encoder({**source, **head}, SWIN).unused
    assert set(unused) == {k for k in source if "attn_mask" in k or k.endswith("_index")} | set(
        head
    )


def test_a_network_that_is_no_transformer_comes_by_its_own_names() -> None:
    card = {**part("resnet10t"), "options": {"num_classes": 0, "channels": [8, 8, 8, 24]}}
    network = build_network("timm", "resnet10t", card["options"], WIDTH)
    own = network.state_dict()
    converted = convert_encoder(own, card)
    assert converted.parts["encoder"].keys() == own.keys()
    assert ENCODER.matches(random_vit(1, 4))
    assert not ENCODER.matches(own)


def test_what_does_not_fit_is_named() -> None:
    own = random_vit(depth=1, grid=4)
    card = vit(depth=1)
    with pytest.raises(ModelError, match=r"blocks\.1\.norm1\.weight is not known"):
        convert_encoder(random_vit(depth=2, grid=4), card)
    with pytest.raises(ModelError, match=r"norm\.bias is missing"):
        convert_encoder({k: v for k, v in own.items() if k != "norm.bias"}, card)
    with pytest.raises(ModelError, match=r"patch_embed\.proj\.weight is \(24, 3, 8, 8\)"):
        convert_encoder({**own, "patch_embed.proj.weight": torch.zeros(24, 3, 8, 8)}, card)
    with pytest.raises(ModelError, match="19 places"):
        convert_encoder({**own, "pos_embed": torch.zeros(1, 19, WIDTH)}, card)
    with pytest.raises(ModelError, match=r"beside the encoder: model\.other"):
        convert_encoder(
            {f"net.{k}": v for k, v in own.items()} | {"model.other": own["cls_token"]}, card
        )
