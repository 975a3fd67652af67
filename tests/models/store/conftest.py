"""A hub on this machine, and checkpoints that tests can afford."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Answers as the hub does: who may, which commit, how large, ranges.

    ``break_after`` closes the connection behind so many bytes of a body, once. ``locked`` are files
    that are gated while others are not.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    gated: bool = False
    locked: tuple[str, ...] = ()
    token: str | None = None
    lies: bool = False
    break_after: int | None = None
    url: str = ""
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, body: bool) -> None:
        hub, path = self.hub, self.path.lstrip("/")
        hub.asked.append((self.command, path, self.headers.get("Range")))
        owner, repo, resolve, revision, name = [*path.split("/", 4), "", "", "", ""][:5]
        if (hub.gated or name in hub.locked) and self.headers.get(
            "Authorization"
        ) != f"Bearer {hub.token}":
            return self._refuse(403 if self.headers.get("Authorization") else 401, "GatedRepo")
        if (owner, resolve) != ("lab", "resolve") or repo != "model":
            return self._refuse(404, "RepoNotFound")
        if revision not in ("main", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        if name not in hub.files:
            return self._refuse(404, "EntryNotFound")
        data = hub.files[name]
        digest = hashlib.sha256(data).hexdigest()
        start = int((self.headers.get("Range") or "bytes=0-").split("=")[1].split("-")[0])
        part = data[start:] if not hub.lies else b"x" * (len(data) - start)
        self.send_response(206 if self.headers.get("Range") else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{digest}"')
        self.send_header("X-Linked-Etag", f'"{digest}"')
        self.send_header("X-Linked-Size", str(len(data)))
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if not body:
            return None
        if hub.break_after is not None and len(part) > hub.break_after:
            self.wfile.write(part[: hub.break_after])
            self.wfile.flush()
            hub.break_after = None
            self.connection.close()
            return None
        self.wfile.write(part)

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub that huggingface_hub takes for its own; no token, an empty cache."""
    from huggingface_hub import constants

    made = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": made}))
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    use_hub(monkeypatch, made.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


def use_hub(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """What HF_ENDPOINT does to a process that starts with it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture(autouse=True)
def _no_user_cache(own_cache: Path) -> None:
    """Every test gets a cache folder of its own."""


@pytest.fixture
def other_hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Another address for the hub."""
    return lambda url: use_hub(monkeypatch, url)


# Checkpoints in every layout that is known, of networks as narrow as the layouts allow. The cards
# are the catalogue's with other numbers in them.
REPOSITORY = Path(__file__).parents[3]
REAL = REPOSITORY / "src/napari_ssldiff/models/catalogue"
EMBEDDING, CONTEXT, WIDTH = 12, 24, 48
VIT = {"num_classes": 0, "img_size": 64, "embed_dim": EMBEDDING, "depth": 2, "num_heads": 2}


def _plain(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / f"benchmarks/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _card(name: str, own: str, **changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((REAL / f"{name}.yaml").read_text(encoding="utf-8"))
    data |= {"id": own, "window": 64, "cell": 64, "tokens": 1, "encoder": {"ref": "tiny-vit"}}
    return data | changes


def _narrow_ldm(data: dict[str, Any]) -> dict[str, Any]:
    data["denoiser"]["config"] |= {
        "sample_size": 16, "block_out_channels": [32, 64, 96, 160], "cross_attention_dim": CONTEXT,
    }  # fmt: skip
    data["autoencoder"]["config"] |= {
        "block_out_channels": [32, 64, 128], "num_vq_embeddings": 64,
    }  # fmt: skip
    data["conditioning"]["context"] = CONTEXT
    return data


def _cards() -> dict[str, dict[str, Any]]:
    encoder = {
        "kind": "encoder", "id": "tiny-vit", "name": "Tiny ViT", "description": "For tests.",
        "licence": {"name": "BSD-3-Clause", "gated": False},
        "encoder": {
            "library": "timm", "name": "vit_tiny_patch16_224", "options": VIT, "input": 64,
            "mean": [0.5] * 3, "std": [0.5] * 3, "width": EMBEDDING, "token": "cls",
            "resolution": 0.5, "unit": "micrometer", "patch": 64,
        },
        "sources": [{"kind": "hub", "repo": "lab/model", "files": [{"name": "hipt.pth"}]}],
    }  # fmt: skip
    brca = _narrow_ldm(_card("brca-20x", "small-brca"))
    zoom = _narrow_ldm(_card("zoomldm-brca", "small-zoom"))
    zoom["conditioning"] |= {"layers": 2, "heads": 2, "hidden": 32}
    zoom["variants"] = {
        "20x": {"conditioning": {"magnification": 0}},
        "10x": {"resolution": 1.0, "cell": 32, "tokens": 2, "conditioning": {"magnification": 1}},
    }
    vae = yaml.safe_load((REAL / "sd3-vae.yaml").read_text(encoding="utf-8")) | {"id": "small-vae"}
    vae["autoencoder"]["config"] |= {"block_out_channels": [32] * 4, "layers_per_block": 1}
    pixcell = _card("pixcell-256", "small-pixcell", autoencoder={"ref": "small-vae"})
    pixcell["denoiser"]["config"] |= {
        "num_attention_heads": 4, "attention_head_dim": WIDTH // 4, "num_layers": 2,
        "cross_attention_dim": WIDTH, "sample_size": 8, "caption_channels": EMBEDDING,
    }  # fmt: skip
    cells = _card("pixcell-256-cells", "small-cells", autoencoder={"ref": "small-vae"})
    cells["denoiser"]["config"] = pixcell["denoiser"]["config"]
    cells["denoiser"]["control"] = {"blocks": 1}
    grid = _card("pixcell-1024", "small-pixcell-1024", autoencoder={"ref": "small-vae"})
    grid |= {"cell": 32, "tokens": 2}
    grid["denoiser"]["config"] |= pixcell["denoiser"]["config"] | {"interpolation_scale": 2}
    stain = yaml.safe_load((REAL / "pixcell-mist-her2.yaml").read_text(encoding="utf-8"))
    stain |= {"id": "small-stain", "like": "small-pixcell-1024"}
    stain["denoiser"]["adapter"]["base"] = "small-pixcell-1024"
    stain["translation"] |= {"hidden": 16, "blocks": 2, "steps": 10}
    stain["sources"][0]["repo"] = "lab/model"
    folder = _narrow_ldm(_card("brca-20x", "own-unet"))
    made = (encoder, brca, zoom, vae, pixcell, cells, grid, stain, folder)
    return {data["id"]: copy.deepcopy(data) for data in made}


@dataclass
class Workshop:
    """Narrow cards, and checkpoints for them."""

    catalogue: Path
    files: dict[str, Path]


def _lightning(path: Path, state: dict[str, Any]) -> None:
    """A checkpoint that names classes of three packages, none of which is there when it is read."""
    import torch

    names = (
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
        "omegaconf.dictconfig.DictConfig",
        "bitsandbytes.optim.adamw.AdamW8bit",
    )
    objects, modules = [], []
    for name in names:
        parts = name.split(".")
        for end in range(1, len(parts)):
            module = ".".join(parts[:end])
            if module not in sys.modules:
                sys.modules[module] = types.ModuleType(module)
                modules.append(module)
        kind = type(parts[-1], (), {"__module__": ".".join(parts[:-1])})
        setattr(sys.modules[".".join(parts[:-1])], parts[-1], kind)
        objects.append(kind())
    try:
        torch.save({"state_dict": state, "epoch": 7, "callbacks": objects}, path)
    finally:
        for module in modules:
            del sys.modules[module]


def _save_folder(folder: Path, parts: dict[str, tuple[dict[str, Any], dict[str, Any]]]) -> Path:
    """Components with ``config.json`` and safetensors, as diffusers lays them out."""
    from safetensors.torch import save_file

    for name, (config, tensors) in parts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "config.json").write_text(json.dumps(config))
        own = {key: value.contiguous() for key, value in tensors.items()}
        save_file(own, folder / name / "diffusion_pytorch_model.safetensors")
    return folder


def _save_stain(root: Path, cards: dict[str, dict[str, Any]], files: dict[str, Path]) -> None:
    """PixCell-1024, and a LoRA of it with the flow between stains, as their authors save them."""
    import diffusers
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    from napari_ssldiff.models.convert.pixcell import pixart_tensors

    config = cards["small-pixcell-1024"]["denoiser"]["config"]
    tensors = _plain("plain_pixart").random_tensors(WIDTH, 2, 8, 4, EMBEDDING, scale=2)
    del tensors["pos_embed"]
    held = {
        "caption_projection.uncond_embedding": tensors.pop("y_embedder.y_embedding"),
        "y_pos_embed.y_pos_embed": tensors.pop("y_pos_embed"),
    }
    own = pixart_tensors(tensors)
    files["pixcell-1024"] = _save_folder(
        root / "PixCell-1024",
        {"transformer": ({**config, "caption_num_tokens": 4}, {**own, **held})},
    )
    network: Any = diffusers.PixArtTransformer2DModel(**config)
    network.load_state_dict(own)
    layers = [f"attn2.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")]
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=4, target_modules=layers), network)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    files["stain"] = root / "virtual-staining"
    flow = _plain("plain_stain").random_tensors(EMBEDDING, 16, 2)
    flow["out.2.weight"] *= 30  # ways as long as the vectors
    for kind, saved in (("lora", {**network.state_dict(), **held}), ("mlp", flow)):
        place = files["stain"] / "ckpts" / kind
        place.mkdir(parents=True)
        torch.save(saved, place / f"mist_her2_{kind}.pth")


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Made once; do not write to it."""
    import diffusers
    import timm
    import torch

    root, cards = tmp_path_factory.mktemp("workshop"), _cards()
    catalogue = root / "catalogue"
    catalogue.mkdir()
    for name, data in cards.items():
        text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
        (catalogue / f"{name}.yaml").write_text(text, encoding="utf-8")
    files: dict[str, Path] = {}

    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", **VIT).state_dict()
    files["encoder"] = root / "hipt.pth"
    torch.save({"teacher": {f"module.backbone.{k}": v for k, v in vit.items()}}, files["encoder"])

    ldm = _plain("plain_ldm_shapes")
    unet = ldm.unet_shapes(ldm.UnetConfig(model_channels=32, context_dim=CONTEXT))
    vq = ldm.vq_shapes(ldm.VqConfig(ch=32, n_embed=64))
    whole = {
        **ldm.random_tensors(unet | vq | ldm.condition_shapes(EMBEDDING, CONTEXT, 20)),
        **ldm.schedule_buffers(),
    }
    files["lrdm"] = root / "last.ckpt"
    _lightning(files["lrdm"], whole)

    condition = _plain("plain_zoomldm").random_tensors(EMBEDDING, CONTEXT, 32, 2, 8)
    zoom = {
        **{k: v for k, v in whole.items() if not k.startswith("cond_stage_model.")},
        **{f"cond_stage_model.{k}": v for k, v in condition.items()},
    }
    files["zoomldm"] = root / "weights.ckpt"
    torch.save(zoom, files["zoomldm"])

    vae = diffusers.AutoencoderKL(**cards["small-vae"]["autoencoder"]["config"])
    files["autoencoder"] = root / "sd3"
    vae.save_pretrained(files["autoencoder"] / "vae")

    config = cards["small-pixcell"]["denoiser"]["config"]
    pixart = _plain("plain_pixart").random_tensors(
        WIDTH, 2, 8, 1, EMBEDDING, scale=config["interpolation_scale"]
    )
    files["pixart"] = root / "pixcell_256.ckpt"
    torch.save({"state_dict": pixart}, files["pixart"])
    from napari_ssldiff.models.convert.pixcell import pixart_tensors

    left = {k: v for k, v in pixart.items() if k not in ("pos_embed", "y_embedder.y_embedding")}
    own = pixart_tensors(left)
    own["caption_projection.uncond_embedding"] = pixart["y_embedder.y_embedding"]
    files["pixcell"] = _save_folder(
        root / "PixCell-256", {"transformer": ({**config, "caption_num_tokens": 1}, own)}
    )

    names = {"c_embedder": "cond_pos_embed", "outlets": "controlnet_blocks"}
    second = _plain("plain_pixart").random_control(WIDTH, 1, 8, EMBEDDING, scale=0.5)
    mine = {k: v for k, v in second.items() if k.partition(".")[0] in names}
    control = pixart_tensors({k: v for k, v in second.items() if k not in mine and "pos_" not in k})
    for key, value in mine.items():
        first, _, rest = key.partition(".")
        control[f"{names[first]}.{rest}"] = value
    files["cells"] = _save_folder(
        root / "PixCell-256-Cell-ControlNet",
        {"transformer": ({**config, "caption_num_tokens": 1}, own), "controlnet": ({}, control)},
    )

    _save_stain(root, cards, files)

    part = cards["own-unet"]
    with torch.no_grad():
        networks: dict[str, Any] = {
            "unet": diffusers.UNet2DConditionModel(**part["denoiser"]["config"]),
            "vae": diffusers.VQModel(**part["autoencoder"]["config"]),
        }
    for name, network in networks.items():
        network.save_pretrained(root / "own" / name)
    projection = {
        "project.weight": torch.randn(CONTEXT, EMBEDDING), "project.bias": torch.zeros(CONTEXT),
        "region": torch.zeros(CONTEXT),
    }  # fmt: skip
    files["diffusers"] = _save_folder(root / "own", {"conditioning": ({}, projection)})
    return Workshop(catalogue, files)


@pytest.fixture
def narrow_catalogue(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """The catalogue is that of the workshop."""
    from napari_ssldiff.models import entries

    monkeypatch.setattr(entries, "CATALOGUE", workshop.catalogue)
    return workshop


@pytest.fixture(scope="session")
def store(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which the encoder and the autoencoder are installed; tests add to it."""
    from napari_ssldiff.cli import main
    from napari_ssldiff.models import entries

    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAPARI_SSLDIFF_CACHE", str(folder))
        patch.setattr(entries, "CATALOGUE", workshop.catalogue)
        for card, file in (("tiny-vit", "encoder"), ("small-vae", "autoencoder")):
            words = ["models", "import", card, str(workshop.files[file]), "--trust-unknown"]
            assert main(words) == 0
    return folder


@pytest.fixture(scope="session")
def plain_stain() -> Any:
    """PixCell's flow between stains, written out in plain torch."""
    return _plain("plain_stain")


@pytest.fixture
def slide(write_scene: Callable[..., Path]) -> Path:
    """Real tissue: the slide among the real images, where they are, else scikit-image's."""
    from skimage import data

    found = Path(os.environ.get("NAPARI_SSLDIFF_DATA", "/nowhere")) / "samples/cmu_small_region.svs"
    return found if found.is_file() else write_scene(data.immunohistochemistry())
