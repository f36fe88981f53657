"""LLaVA-1.5 in its original format: what is loaded, what is refused, and in which words."""

import json
import logging
import os
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import original_folder as tiny
import pytest
import torch
from safetensors.torch import load_file, save_file

from mmsafe.core.errors import UserError
from mmsafe.models.checkpoints import WeightFiles
from mmsafe.models.model_source import PretrainedLlava
from mmsafe.models.original.layout import TOWERS
from mmsafe.models.original.tokenizer import load_tokenizer, merges
from mmsafe.models.vlm import VLM, weights_hash


def load(folder: Path, **options: Any) -> VLM:
    return PretrainedLlava(path=str(folder), **options).load()


def refused(folder: Path, match: str, **options: Any) -> str:
    """Loading fails with one short line."""
    with pytest.raises(UserError, match=match) as error:
        load(folder, **options)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    assert str(error.value).startswith(f"model.path={folder}: ")
    return str(error.value)


def state_in(llava: VLM) -> dict[str, torch.Tensor]:
    """Every weight by its original name; this map is the test's own."""
    inner: Any = llava.model.model
    found = {"lm_head.weight": llava.model.lm_head.weight}
    found |= {f"model.{name}": weight for name, weight in inner.language_model.named_parameters()}
    for number, layer in ((0, inner.multi_modal_projector.linear_1), (2, inner.multi_modal_projector.linear_2)):
        found |= {f"model.mm_projector.{number}.{name}": weight for name, weight in layer.named_parameters()}
    for name, weight in inner.vision_tower.named_parameters():
        found[f"model.vision_tower.vision_tower.vision_model.{name.removeprefix('vision_model.')}"] = weight
    return found


def assert_holds(llava: VLM, state: dict[str, torch.Tensor]) -> None:
    """The model has these weights, bit by bit, and no others."""
    found = state_in(llava)
    assert found.keys() == state.keys()
    different = [name for name, weight in state.items() if not torch.equal(found[name][: len(weight)].data, weight)]
    assert not different


def edited(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_original(tmp_path_factory.mktemp("original"))


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(folder, tmp_path / "broken"))


@pytest.mark.parametrize("model_type", ["llava", "llava_llama"])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_every_weight_arrives(form: str, shards: int, model_type: str, tmp_path: Path):
    tiny.write_original(tmp_path, form=form, shards=shards, model_type=model_type)
    assert_holds(load(tmp_path, dtype="float16", allow_pickle=form == "bin"), tiny.weights())


def test_the_tower_is_taken_from_beside_when_it_is_not_inside(tmp_path: Path):
    tiny.write_original(tmp_path / "llava", tiny.weights(torch.float32, tower=False), mm_vision_tower="clip")
    assert_holds(load(tmp_path / "llava"), tiny.weights(torch.float32))
    elsewhere = Path(shutil.move(tmp_path / "llava" / "clip", tmp_path / "elsewhere"))
    advice = "run `hf download clip --local-dir DIR`, then add model.vision_tower=DIR$"
    refused(tmp_path / "llava", f"vision tower 'clip' is not in the checkpoint.*{advice}")
    assert_holds(load(tmp_path / "llava", vision_tower=str(elsewhere)), tiny.weights(torch.float32))
    edited(tmp_path / "llava" / "config.json", mm_vision_tower=str(elsewhere))
    assert_holds(load(tmp_path / "llava"), tiny.weights(torch.float32))


def test_the_tower_in_the_checkpoint_wins_over_the_one_beside(folder: Path):
    """One that was trained differs from CLIP's."""
    tower = load_file(folder / "clip" / "model.safetensors")
    assert not torch.equal(
        tower["vision_model.pre_layrnorm.weight"].half().float(), tower["vision_model.pre_layrnorm.weight"]
    )
    loaded = state_in(load(folder))["model.vision_tower.vision_tower.vision_model.pre_layrnorm.weight"]
    assert torch.equal(
        loaded.data, tiny.weights()["model.vision_tower.vision_tower.vision_model.pre_layrnorm.weight"].float()
    )


def test_clip_of_llava_is_known_without_download():
    """24 layers of width 1024, 336 pixels in patches of 14: 576 image tokens."""
    vision = TOWERS["openai/clip-vit-large-patch14-336"]
    assert (vision.image_size // vision.patch_size) ** 2 == 576
    assert (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads) == (1024, 24, 16)
    assert vision.intermediate_size == 4096
    assert vision.hidden_act == "quick_gelu"


def test_a_pickled_tower_needs_the_flag_too(tmp_path: Path):
    tiny.write_original(tmp_path, tiny.weights(tower=False))
    state = load_file(tmp_path / "clip" / "model.safetensors")
    (tmp_path / "clip" / "model.safetensors").unlink()
    torch.save(state, tmp_path / "clip" / "pytorch_model.bin")
    refused(tmp_path, "its vision tower .*clip: .*add model.allow_pickle=true")
    assert_holds(load(tmp_path, dtype="float16", allow_pickle=True), tiny.weights())


def test_a_damaged_tower_is_named(broken: Path):
    tiny.write_weights(broken, tiny.weights(tower=False))
    state = load_file(broken / "clip" / "model.safetensors")
    save_file(
        {name: weight for name, weight in state.items() if "fc1" not in name}, broken / "clip" / "model.safetensors"
    )
    refused(broken, r"its vision tower .*clip: \d+ weights are missing, such as .*fc1")
    (broken / "clip" / "model.safetensors").write_bytes(b"nonsense")
    refused(broken, r"its vision tower .*clip: ")


def test_new_rows_are_the_mean_of_the_old_ones(folder: Path):
    """479 tokens, `<image>` and `<pad>` make 481, the next multiple of 64 is 512."""
    llava = load(folder)
    assert llava.model.config.text_config.vocab_size == 512
    assert (llava.processor.image_token_id, llava.processor.tokenizer.pad_token_id) == (479, 480)
    state = tiny.weights()
    for layer, name in (
        (llava.model.lm_head, "lm_head"),
        (llava.model.model.language_model.embed_tokens, "model.embed_tokens"),
    ):
        expected = state[f"{name}.weight"].float().mean(0).expand(512 - 479, -1)
        torch.testing.assert_close(layer.weight[479:].data, expected, rtol=0, atol=1e-6)
    assert weights_hash(load(folder).model) == weights_hash(llava.model), "nothing is drawn at random"


def test_new_tokens_are_never_the_likeliest_and_weigh_little(folder: Path):
    llava = load(folder)
    hidden = torch.randn(200, tiny.WIDTH, generator=torch.Generator().manual_seed(0))
    logits = llava.model.lm_head(hidden).detach()
    assert logits.argmax(-1).max() < 479
    shift = logits.logsumexp(-1) - logits[:, :479].logsumexp(-1)
    assert shift.max() <= torch.tensor(1 + 33 / 479).log() + 1e-6


def test_the_embedding_of_the_image_placeholder_is_never_seen(folder: Path):
    llava = load(folder)
    ids = torch.tensor([[1, 259, *[479] * 4, 13, 285]])
    pixels = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = llava.model(input_ids=ids, pixel_values=pixels).logits
        llava.model.model.language_model.embed_tokens.weight[479] = 1e3
        after = llava.model(input_ids=ids, pixel_values=pixels).logits
    assert torch.equal(before, after)


def test_the_config_carries_over(broken: Path):
    edited(broken / "config.json", rope_theta=5e5, rope_scaling={"type": "linear", "factor": 2.0}, rms_norm_eps=1e-6)
    config = load(broken).model.config
    text = config.text_config
    assert (text.num_key_value_heads, text.rms_norm_eps, text.max_position_embeddings) == (2, 1e-6, 4096)
    assert text.rope_parameters["rope_theta"] == 5e5
    assert (text.rope_parameters["rope_type"], text.rope_parameters["factor"]) == ("linear", 2.0)
    assert (config.vision_feature_layer, config.vision_feature_select_strategy) == (-2, "default")
    assert config.image_seq_length == 4


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"image_aspect_ratio": "anyres"}, r"LLaVA-NeXT \(1\.6\) in its original format; only LLaVA-1\.5"),
        ({"mm_patch_merge_type": "spatial_unpad"}, r"LLaVA-NeXT \(1\.6\)"),
        ({"mm_projector_type": "linear"}, r"mm_projector_type=linear is not LLaVA-1\.5's \(mlp2x_gelu\)"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end=True is not"),
        ({"architectures": ["LlavaMistralForCausalLM"]}, "holds a LlavaMistralForCausalLM"),
        ({"model_type": "llava_mistral"}, "config.json says model_type llava_mistral: no family of it is known;"),
        ({"model_type": "llama"}, "config.json says model_type llama: no family of it is known; known are gemma3, "),
        ({"text_config": {}}, "mixes two formats: it has both text_config and mm_"),
        ({"hidden_size": 64}, r"weight \S+ has the shape \(.*\), config.json asks for \("),
        ({"vocab_size": 400}, "its tokenizer has 479 tokens, config.json says 400"),
        ({"vocab_size": 500}, r"has the shape \(479, 32\), config.json asks for \(512, 32\)"),
        ({"num_hidden_layers": 3}, r"9 weights are missing, such as model\.language_model\.layers\.2\."),
    ],
)
def test_another_model_is_named(broken: Path, changes: dict[str, Any], match: str):
    edited(broken / "config.json", **changes)
    refused(broken, match)


@pytest.mark.parametrize("shards", [1, 2])
def test_pickles_need_the_flag(shards: int, tmp_path: Path):
    tiny.write_original(tmp_path, form="bin", shards=shards)
    refused(tmp_path, r"its weights are pickled \(pytorch_model.*\.bin\); .* add model\.allow_pickle=true, which reads")


def test_pickles_need_the_flag_in_hugging_face_s_format_too(folder: Path, tmp_path: Path):
    llava = load(folder)
    llava.save(tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    refused(tmp_path, r"its weights are pickled \(pytorch_model\.bin\)")
    assert weights_hash(load(tmp_path, allow_pickle=True).model) == weights_hash(llava.model)


class Malicious:
    """Unpickled without care, it makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("flag", [False, True])
@pytest.mark.parametrize("plain", [False, True], ids=["torch.save", "pickle"])
def test_a_pickle_never_runs(tmp_path: Path, flag: bool, plain: bool):
    tiny.write_original(tmp_path / "evil")
    (tmp_path / "evil" / "model.safetensors").unlink()
    path, bomb = tmp_path / "evil" / "pytorch_model.bin", {"model.norm.weight": Malicious(tmp_path / "trace")}
    if plain:
        path.write_bytes(pickle.dumps(bomb))
    else:
        torch.save(bomb, path)
    refused(tmp_path / "evil", r"pytorch_model\.bin is damaged" if flag else "pickled", allow_pickle=flag)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_a_damaged_or_missing_shard_is_named(form: str, tmp_path: Path):
    tiny.write_original(tmp_path, form=form, shards=2)
    second = next(tmp_path.glob(f"*-00002-of-00002.{form}"))
    second.write_bytes(second.read_bytes()[:-200])
    refused(tmp_path, f"{second.name} is damaged", allow_pickle=True)
    second.unlink()
    refused(tmp_path, f"{second.name} is missing", allow_pickle=True)


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"weight_map": {"a": "../a.safetensors"}}', '{"weight_map": {"a": 1}}']
)
def test_a_damaged_index_is_named(broken: Path, content: str):
    (broken / "model.safetensors.index.json").write_text(content)
    refused(broken, "model.safetensors.index.json is damaged")


def test_missing_weights_are_named(broken: Path, tmp_path: Path):
    """Some; the projector, of a plain language model; nearly all, where they are in the other format."""
    state = tiny.weights()
    del state["model.layers.1.mlp.up_proj.weight"], state["model.norm.weight"]
    tiny.write_weights(broken, state)
    refused(broken, r"2 weights are missing, such as model\.language_model\.layers\.1\.mlp\.up_proj\.weight$")
    tiny.write_weights(broken, {name: w for name, w in tiny.weights().items() if "mm_projector" not in name})
    refused(broken, "4 weights are missing, such as model.multi_modal_projector.linear_1.bias")
    tiny.write_weights(broken, tiny.weights())
    load(broken).save(tmp_path / "hf")
    shutil.copy(broken / "model.safetensors", tmp_path / "hf")
    refused(tmp_path / "hf", r"\d\d weights are missing")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("config.json", '{"model_type": "llava"}', r"neither text_config \(Hugging Face format\) nor mm_vision_tower"),
        ("adapter_config.json", "{}", "holds a LoRA adapter and not a whole model; merge it into its base first"),
        ("tokenizer.model", None, "has no tokenizer.model"),
        ("model.safetensors", None, "holds no weights .*; mm_projector.bin alone is no model"),
    ],
)
def test_a_folder_that_lacks_a_part_is_named(broken: Path, name: str, content: str | None, reason: str):
    (broken / "mm_projector.bin").touch()
    (broken / name).unlink(missing_ok=True)
    if content is not None:
        (broken / name).write_text(content)
    refused(broken, reason)


@pytest.mark.parametrize(
    ("dtypes", "widest"), [(("float16", "bfloat16"), "float32"), (("bfloat16", "int64"), "bfloat16")]
)
def test_weights_in_several_types_are_exact_in_the_widest(tmp_path: Path, dtypes: tuple[str, str], widest: str):
    tiny.write_weights(tmp_path, {name: torch.ones(2, dtype=getattr(torch, name)) for name in dtypes})
    assert WeightFiles(tmp_path, allow_pickle=False).dtype == getattr(torch, widest)


def test_extra_weights_are_reported_and_what_is_computed_is_not(broken: Path, caplog: pytest.LogCaptureFixture):
    computed = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "model.vision_tower.vision_tower.vision_model.embeddings.position_ids": torch.arange(5),
    }
    tiny.write_weights(broken, tiny.weights() | computed)
    with caplog.at_level(logging.WARNING):
        load(broken)
        assert "weights are not of" not in caplog.text
        tiny.write_weights(broken, tiny.weights() | {"model.resampler.weight": torch.ones(3)})
        assert_holds(load(broken, dtype="float16"), tiny.weights())
    assert "1 weights are not of LLaVA-1.5 and were left out: model.resampler.weight" in caplog.text


@pytest.mark.parametrize("name", ["tokenizer.model", "config.json", "tokenizer_config.json"])
def test_a_damaged_file_is_named(broken: Path, name: str):
    (broken / name).write_bytes((broken / name).read_bytes()[:50])
    refused(broken, f"{name} is damaged")


def test_the_tower_option_is_for_the_original_format_only(folder: Path, tmp_path: Path):
    load(folder).save(tmp_path)
    refused(tmp_path, "model.vision_tower is for the original format", vision_tower="x")


def test_merges_follow_the_scores_and_not_the_ids():
    """`abc` is `ab` + `c` or `a` + `bc`, whichever was scored higher."""

    def order(**scores: float) -> list[tuple[str, str]]:
        pieces = dict.fromkeys("abc", -9.0) | scores
        return list(merges([SimpleNamespace(piece=text, score=score, type=1) for text, score in pieces.items()]))

    assert order(ab=-2, bc=-1) == [("b", "c"), ("a", "b")]
    assert order(ab=-1, bc=-2) == [("a", "b"), ("b", "c")]


def test_tokens_that_were_added_keep_their_ids(broken: Path):
    tiny.write_json(broken / "added_tokens.json", {"<im_patch>": 479})
    tokenizer = load_tokenizer(broken)
    assert tokenizer.convert_tokens_to_ids(["<im_patch>", "<image>", "<pad>"]) == [479, 480, 481]


@pytest.mark.parametrize("flag", [False, True])
def test_a_hub_name_in_the_original_format_is_downloaded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: bool
):
    """Only the download is replaced; pickles are not asked for without the flag."""
    asked: list[list[str]] = []
    monkeypatch.setattr("mmsafe.models.locate.reachable", lambda name: True)
    monkeypatch.setattr(
        "mmsafe.models.locate.snapshot_download",
        lambda name, allow_patterns: asked.append(allow_patterns) or str(folder),
    )
    llava = PretrainedLlava(path="liuhaotian/llava-v1.5-7b", dtype="float16", allow_pickle=flag).load()
    assert_holds(llava, tiny.weights())
    assert ("*.bin" in asked[0]) is flag
    assert {"*.safetensors", "*.json", "tokenizer.model"} <= set(asked[0])
