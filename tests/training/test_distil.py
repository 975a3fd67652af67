"""A few-step student: its lessons, its LoRA, and its way into a model."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from napari_ssldiff.diffusion.solvers import half_log_snr, phase_starts
from napari_ssldiff.embeddings.field import EmbeddingField
from napari_ssldiff.errors import InputError
from napari_ssldiff.models import load_bundle
from napari_ssldiff.training import distil
from napari_ssldiff.training.diffusion import Denoiser
from napari_ssldiff.training.loop import Runtime, Schedule
from napari_ssldiff.training.samples import Sample
from napari_ssldiff.training.trajectories import Course, courses, follow

SCHEDULE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "num_train_timesteps": 1000,
}
DIFFUSION = {
    "window": 64, "cell": 32, "spatial": 3, "context": 8, "prediction": "v_prediction",
    "scheduler": SCHEDULE,
    "network": {"block_out_channels": [8, 16], "layers_per_block": 1,
                "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
                "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
                "attention_head_dim": 8, "norm_num_groups": 4},
}  # fmt: skip
CONFIG = {
    "seed": 17, "rank": 4, "alpha": 4, "guidance": 3.0, "steps": 4, "teacher_steps": 3, "batch": 8,
}  # fmt: skip
CPU = Runtime(device="cpu", precision="no")


@pytest.fixture
def samples() -> dict[str, list[Sample]]:
    """Two domains of random latents and embeddings."""
    rng = np.random.default_rng(0)
    made: dict[str, list[Sample]] = {"a": [], "b": []}
    for group in made.values():
        for _ in range(2):
            vectors = rng.normal(size=(6, 6, 12)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
            field = EmbeddingField(vectors, (0, 0), (32, 32), "test", 0.5, "micrometer")
            group.append(Sample(torch.from_numpy(rng.normal(size=(4, 24, 24))).half(), field))
    return made


@pytest.fixture
def teacher() -> Denoiser:
    """An untrained network whose answers depend on the condition."""
    torch.manual_seed(5)
    return Denoiser(DIFFUSION, ["a", "b"], 12, 4, 8).eval()


def plan(steps: int, **changes: Any) -> Schedule:
    arguments = {"lr": 0.01, "warmup": 3, "ema": 0.8, "weight_decay": 0.0, "log_every": 1}
    return Schedule(steps=steps, **{**arguments, **changes})


def lessons(
    samples: Mapping[str, Any], teacher: Denoiser, folder: Path, steps: int, **more: Any
) -> list[dict[str, Any]]:
    run = distil.train(
        samples, CONFIG, DIFFUSION, 8, plan(steps), folder, teacher=teacher, runtime=CPU, **more
    )
    return list(run)


def test_lessons_lower_the_loss_and_change_nothing_but_the_lora(
    samples: dict[str, list[Sample]], teacher: Denoiser, tmp_path: Path
) -> None:
    before = copy.deepcopy(teacher.state_dict())
    aside = {"a": samples["a"]}
    untaught = distil.train(
        samples, CONFIG, DIFFUSION, 8, plan(1, lr=0.0), tmp_path / "none", teacher=teacher,
        runtime=CPU, validation=aside,
    )  # fmt: skip
    first = next(untaught)["validation"]
    rows = lessons(samples, teacher, tmp_path / "run", 40, validation=aside)
    assert rows[-1]["validation"] < 0.85 * first
    after = teacher.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[k], before[k]) for k in before)
    (state,) = (tmp_path / "run").glob("state-*.safetensors")
    trained = {k for k in load_file(state) if k.startswith("model.")}
    assert trained
    assert all("lora_" in k for k in trained)


def test_a_killed_run_goes_on_step_for_step(
    samples: dict[str, list[Sample]], teacher: Denoiser, tmp_path: Path
) -> None:
    whole = lessons(samples, teacher, tmp_path / "whole", 4)
    run = distil.train(
        samples, CONFIG, DIFFUSION, 8, plan(4), tmp_path / "killed", teacher=teacher, runtime=CPU
    )
    parts = [next(run) for _ in range(2)]
    run.close()  # type: ignore[attr-defined]
    parts += lessons(samples, teacher, tmp_path / "killed", 4)
    assert [row["loss"] for row in parts] == pytest.approx([row["loss"] for row in whole])
    a, b = (distil.lora_state(tmp_path / name) for name in ("whole", "killed"))
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-6, rtol=0, msg=name)


def test_a_student_goes_from_its_run_into_a_model_and_answers_as_it_was_trained(
    samples: dict[str, list[Sample]],
    teacher: Denoiser,
    tmp_path: Path,
    make_tiny_model: Callable[..., Path],
) -> None:
    folder = make_tiny_model(tmp_path / "model")
    network = load_bundle(str(folder), "cpu").denoiser.network
    teacher.unet.load_state_dict(network.state_dict())
    lessons(samples, teacher, tmp_path / "run", 3)
    lora = distil.lora_state(tmp_path / "run")
    reference = copy.deepcopy(network)
    adapter = distil.adapt(reference, 4, 4)
    assert lora.keys() == get_peft_model_state_dict(reference).keys()
    assert all(tensor.dtype == torch.float32 for tensor in lora.values())
    names = {k.replace("/", ".").replace(".default.", "."): k for k in adapter.state_dict()}
    adapter.load_state_dict({names[k]: v for k, v in lora.items()})

    save_file(lora, folder / "student.safetensors")
    card = yaml.safe_load((folder / "card.yaml").read_text())
    digest = hashlib.sha256((folder / "student.safetensors").read_bytes()).hexdigest()
    card["weights"]["student.safetensors"] = digest
    card["student"] = {"method": distil.METHOD, "rank": 4, "alpha": 4, "steps": 4,
                       "guidance": 3.0, "weights": ["student.safetensors"]}  # fmt: skip
    (folder / "card.yaml").write_text(yaml.safe_dump(card))
    student = load_bundle(str(folder), "cpu").denoiser.student
    torch.manual_seed(0)
    inputs = torch.randn(2, 7, 8, 8), torch.tensor([700, 30]), torch.randn(2, 4, 8)
    with torch.no_grad():
        merged, peft = student.network(*inputs).sample, reference(*inputs).sample
        plain = network(*inputs).sample
    torch.testing.assert_close(merged, peft, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(merged, plain, atol=1e-3)


def gaussian(x: torch.Tensor, t: torch.Tensor, alpha: Any, sigma: Any) -> torch.Tensor:
    """E[x0 | x] where x0 is normal with variance 0.25: a teacher that knows all there is."""
    out: torch.Tensor = alpha * 0.25 * x / (alpha**2 * 0.25 + sigma**2)
    return out


def exact(x: torch.Tensor, course: Course) -> torch.Tensor:
    """Where the ODE of :func:`gaussian` leads: x in units of its own spread stays the same."""
    spread = np.sqrt(course.alpha**2 * 0.25 + course.sigma**2)
    ratio = torch.from_numpy(spread[:, -1] / spread[:, 0]).float()
    return x * ratio[:, None, None, None]


def test_the_teacher_follows_its_ode_to_the_end_of_the_phase() -> None:
    errors = {}
    for n in (2, 4, 16):
        course = courses(SCHEDULE, 4, n, 64, np.random.default_rng(0))
        torch.manual_seed(0)
        x = torch.randn(64, 2, 3, 3)
        points, target = follow(gaussian, course, x)
        assert torch.equal(points[0], x)
        a, s = (torch.from_numpy(p.T)[..., None, None, None] for p in (course.alpha, course.sigma))
        shrink = s[-1] / s[:-1]
        ends = shrink * points + (a[-1] - a[:-1] * shrink) * target
        torch.testing.assert_close(ends, ends[:1].expand_as(ends), atol=1e-4, rtol=1e-3)
        errors[n] = float((ends[0] - exact(x, course)).abs().max())
    assert errors[2] > 2 * errors[4] > 8 * errors[16]
    assert errors[16] < 0.02


@pytest.mark.parametrize("n", [1, 2, 5])
def test_courses_stay_in_their_phase_and_half_of_them_are_whole(n: int) -> None:
    course = courses(SCHEDULE, 4, n, 400, np.random.default_rng(1))
    assert course.t.shape == course.alpha.shape == course.sigma.shape == (400, n + 1)
    np.testing.assert_allclose(course.alpha**2 + course.sigma**2, 1, atol=1e-9)
    assert (np.diff(course.sigma, axis=1) < 0).all()
    starts = phase_starts(1000, 4)
    whole = sum(np.isclose(course.t[:, 0], start).sum() for start in starts)
    assert 150 < whole < 250
    levels = half_log_snr(SCHEDULE)
    for i, start in enumerate(starts):
        end = [*starts[1:], 0][i]
        mine = (course.t[:, 0] <= start + 1e-6) & (course.t[:, 0] > end + 1e-6)
        assert mine.sum() == 100
        np.testing.assert_allclose(course.t[mine, -1], end, atol=1e-6)
        if i < 3:
            lam = np.log(course.alpha[mine, -1] / course.sigma[mine, -1])
            np.testing.assert_allclose(lam, levels[end], atol=1e-9)
        else:
            assert (course.sigma[mine, -1] == 0).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"teacher_steps": 0}, "teacher_steps must be at least 1"),
        ({"batch": 1}, "batch must be at least 2, got 1"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_before_the_first_step(
    changes: dict[str, int],
    words: str,
    samples: dict[str, list[Sample]],
    teacher: Denoiser,
    tmp_path: Path,
) -> None:
    run = distil.train(
        samples, {**CONFIG, **changes}, DIFFUSION, 8, plan(2), tmp_path, teacher=teacher
    )
    with pytest.raises(InputError, match=words):
        next(run)
    assert not list(tmp_path.iterdir())


def test_samples_of_another_autoencoder_are_refused(
    samples: dict[str, list[Sample]], teacher: Denoiser, tmp_path: Path
) -> None:
    samples["b"] = [Sample(s.latents[:3], s.field) for s in samples["b"]]
    with pytest.raises(InputError, match=r"samples of b have 3 latent channels.* 4"):
        lessons(samples, teacher, tmp_path, 1)


def test_without_a_run_there_is_no_student(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing was distilled"):
        distil.lora_state(tmp_path / "none")
