"""A small open_clip model: its words, its table of tokens, and what it says of other words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from napari_ssldiff.errors import InputError, ModelError
from napari_ssldiff.text.encoder import VOCABULARY, TextEncoder, TokenTable, load_text_encoder


def test_texts_and_images_are_unit_vectors_of_one_space(text: TextEncoder) -> None:
    words = text.text(["dense nuclei", "few trees"])
    images = text.images([np.zeros((40, 90, 3), np.uint8), np.full((16, 16, 3), 9, np.uint8)])
    assert words.shape == images.shape == (2, text.width)
    for vectors in (words, images):
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert not np.allclose(words[0], words[1])


def test_case_punctuation_and_unknown_words_change_nothing(text: TextEncoder) -> None:
    plain, odd, more = text.text(["dense nuclei", "  Dense, NUCLEI! 🙂", "dense blorp nuclei"])
    assert np.array_equal(plain, odd)
    assert np.array_equal(plain, more)


def test_unknown_words_are_named_with_the_nearest_known(text: TextEncoder) -> None:
    assert text.check("dense nuclei towards") is not None
    assert text.check("dense nuclei") is None
    told = text.check("many treez and dense hauses")
    assert told is not None
    assert "'treez' (near: " in told
    assert "trees" in told
    assert "houses" in told


@pytest.mark.parametrize("prompt", ["", "   ", "🌲🌲", "?!"])
def test_an_empty_prompt_is_refused(text: TextEncoder, prompt: str) -> None:
    with pytest.raises(InputError, match="the prompt is empty"):
        text.check(prompt)


@pytest.mark.parametrize("prompt", ["viele bäume", "много деревьев", "qwrtz"])
def test_a_prompt_of_which_nothing_is_known_is_refused(text: TextEncoder, prompt: str) -> None:
    with pytest.raises(InputError, match="knows no word of the prompt"):
        text.check(prompt)


@pytest.mark.parametrize(
    "prompt", ["🌳 in", "the", "on the left", "Bäume in der Stadt", "it is beside"]
)
def test_joints_and_places_alone_are_nothing_to_draw(prompt: str, text: TextEncoder) -> None:
    with pytest.raises(InputError, match=r"finds nothing to draw in the prompt|knows no word"):
        text.check(prompt)


def test_a_very_long_prompt_is_cut_where_the_context_ends(text: TextEncoder) -> None:
    long = " ".join(["many trees and green lawns"] * 500)
    assert text.tokens([long]).shape == (1, 16)
    assert np.isfinite(text.text([long])).all()


def test_words_beyond_the_context_are_told_of(text: TextEncoder) -> None:
    fits = " ".join(["trees"] * 14)  # the start and the end take two tokens of 16
    assert text.check(fits) is None
    told = text.check(f"{fits} green lawns and grass")
    assert told == (
        f"the prompt is too long for {text.name}: of 18 words it hears 14, and nothing from "
        "'green lawns and' on; say it shorter"
    )
    # Words that it does not know take no room, and are told of as ever.
    told = text.check(f"blorp {fits} grass")
    assert told is not None
    assert "ignores 'blorp'" in told
    assert "hears 14, and nothing from 'grass' on" in told
    assert np.array_equal(*text.text([fits, f"{fits} green lawns"]))


def test_renumbered_tokens_keep_their_order_and_the_end_the_largest(text: TextEncoder) -> None:
    assert text.table is not None
    own = open_clip.tokenizer.SimpleTokenizer(context_length=16)(["dense nuclei"])
    ours = text.tokens(["dense nuclei"])
    assert own.argmax() == ours.argmax()
    assert ours.max() == len(text.table) - 1
    assert (ours > 0).sum() == (own > 0).sum()  # no word of the vocabulary was lost


def test_a_table_that_does_not_rise_is_refused() -> None:
    for tokens in ([], [3, 5], [0, 5, 5]):
        with pytest.raises(ValueError, match="begin with 0"):
            TokenTable(tokens)
    table = TokenTable([0, 4, 9])
    assert table.renumber(torch.tensor([[9, 4, 7, 12]])).tolist() == [[2, 1, 0, 0]]


def test_a_folder_without_a_vocabulary_takes_every_word(text_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    shutil.copytree(text_folder, folder)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["vocab_size"] = 49408
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    (folder / VOCABULARY).unlink()
    (folder / "open_clip_model.safetensors").unlink()
    from safetensors.torch import save_file

    model = open_clip.model.CLIP(**config["model_cfg"])
    save_file(dict(model.state_dict()), folder / "open_clip_model.safetensors")
    loaded = load_text_encoder(folder)
    assert loaded.check("anything goes here") is None
    assert loaded.text(["anything goes here"]).shape == (1, 16)


def test_what_cannot_be_loaded_says_so(tmp_path: Path, text_folder: Path) -> None:
    with pytest.raises(ModelError, match="cannot load the text encoder no-such-model"):
        load_text_encoder("no-such-model")
    broken = tmp_path / "broken"
    shutil.copytree(text_folder, broken)
    (broken / VOCABULARY).write_text("{}")
    with pytest.raises(ModelError, match=r"vocabulary .* cannot be read"):
        load_text_encoder(broken)


def test_a_folder_without_weights_is_refused_and_not_made_up(
    text_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "empty"
    shutil.copytree(text_folder, folder)
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"cannot load the text encoder empty: .*weights"):
        load_text_encoder(folder)
