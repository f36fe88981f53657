"""Each model family against `transformers` itself, on tiny models with random weights."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from small_model import LORA, moved, of_family
from torch import Tensor
from transformers import AutoModelForImageTextToText

from mmsafe.core.errors import UserError
from mmsafe.core.settings import Generation, VisionCache
from mmsafe.data.corruption import Crop
from mmsafe.data.example import Example, Turn
from mmsafe.generation.generate import Prompt, generate, left_padded
from mmsafe.models.adapters import add_lora, load_merged, merge
from mmsafe.models.encoding import Encoder
from mmsafe.models.family import Family, ImageBatch, families, family_of
from mmsafe.models.model_options import ModelOptions, Trained
from mmsafe.models.model_source import PretrainedLlava
from mmsafe.models.parameters import count_parameters
from mmsafe.models.quantised import quantised
from mmsafe.models.vlm import VLM
from mmsafe.objectives.base import Objective, Scores
from mmsafe.objectives.bpo import BPO
from mmsafe.objectives.dpo import DPO
from mmsafe.objectives.mdpo import MDPO
from mmsafe.reference.policies import WithoutAdapter
from mmsafe.scoring.collate import Item
from mmsafe.scoring.features import MemoryFeatures, feature_cache
from mmsafe.scoring.ways import Padded, Scoring, SharedPrefix


def picture(height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(height * width).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


PICTURES = [picture(40, 60), picture(90, 50)]


@pytest.fixture(params=families(), ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


def test_every_weight_is_in_one_part(family: Family):
    config, _ = family.tiny()
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    parts = {family.parts.of(name) for name, _ in model.named_parameters()}
    assert parts == {"vision", "connector", "language"}
    with pytest.raises(KeyError):
        family.parts.of("model.something.weight")


@pytest.mark.parametrize("count", [1, 2])
def test_images_of_a_prompt_are_those_of_the_whole_processor(family: Family, count: int):
    _, processor = family.tiny()
    pictures = PICTURES[:count]
    whole = processor(
        text=["See " + " and ".join([processor.image_token] * count)], images=[pictures], return_tensors="pt"
    )
    made = family.image_inputs(processor, pictures)
    text = "See " + " and ".join(image.text for image in made)
    assert processor.tokenizer(text)["input_ids"] == whole["input_ids"][0].tolist()
    batch = ImageBatch.of(made).tensors
    tiles = batch["pixel_values"]
    if whole["pixel_values"].dim() == 5:  # images padded to as many tiles
        whole["pixel_values"] = whole["pixel_values"].flatten(0, 1)
        kept = whole["pixel_values"].abs().flatten(1).amax(1) > 0
        whole["pixel_values"] = whole["pixel_values"][kept][: len(tiles)]
    assert torch.equal(tiles, whole["pixel_values"])


def test_positions_are_those_of_the_model(family: Family):
    config, processor = family.tiny()
    made = family.image_inputs(processor, PICTURES)
    token = family.image_token(processor)
    ids = processor.tokenizer("A " + " and ".join(image.text for image in made) + " or")["input_ids"]
    found = family.positions(ids, token, made)
    if family.token_types != "mm_token_type_ids":
        assert found == [list(range(len(ids)))]
        return
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    batch = ImageBatch.of(made).tensors
    row = torch.tensor([ids])
    expected, _ = model.model.get_rope_index(
        row, mm_token_type_ids=(row == token).int(), image_grid_thw=batch["image_grid_thw"]
    )
    assert found == expected[:, 0].tolist()


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image of a size of its own."""

    height: int
    width: int

    @property
    def key(self) -> str:
        return f"{self.height} x {self.width}"

    name = key

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    def load(self) -> Image.Image:
        return picture(self.height, self.width)


def examples() -> list[Example]:
    """With two images in one prompt, in two turns of one, with one and with none."""
    wide, high = Picture(40, 60), Picture(90, 50)
    said = {"chosen": "It is a very red thing.", "rejected": "No.", "blind": "I see none"}
    both = Turn("user", "Is this or that larger?", (8, 16))
    later = (Turn("user", "What is it?", (0,)), Turn("assistant", "A box."), Turn("user", "And this?", (0,)))
    prompts = [((both,), (wide, high)), (later, (high, wide)), ((Turn("user", "Which colour?", (0,)),), (high,))]
    return [
        Example(str(number), turns, images, said)
        for number, (turns, images) in enumerate([*prompts, ((Turn("system", "Be brief."), Turn("user", "Hi")), ())])
    ]


def tiny(family: Family, attention: str = "sdpa", window: int | None = None) -> tuple[Any, Encoder]:
    llava = of_family(family, attention, window)
    return llava.model.requires_grad_(True), llava.encoder()


LAYOUTS = ((Padded(), None), (SharedPrefix(), None), (SharedPrefix(), 4096))
"""The obvious one, a line for each prompt, and all in one line."""


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        (MDPO(), {}),
        (BPO(), {"attention": "eager"}),
        (BPO(), {"window": 3}),  # shorter than an image
        pytest.param(DPO(), {}, marks=pytest.mark.slow),
        pytest.param(BPO(), {}, marks=pytest.mark.slow),
        pytest.param(BPO(), {"attention": "eager", "window": 3}, marks=pytest.mark.slow),
    ],
    ids=["mdpo", "eager", "window", "dpo", "bpo", "eager, window"],
)
def test_packed_lines_give_the_log_probs_and_gradients_of_the_model_s_own_forward(
    family: Family, objective: Any, options: dict[str, Any]
):
    model, encoder = tiny(family, **options)
    found = []
    for scoring, limit in LAYOUTS:
        collator = scoring.collator(encoder, objective.groups, corruption=Crop(), max_tokens=limit)
        batch = scoring.with_features(model, collator([Item(example) for example in examples()]))
        assert limit is None or len(batch.input_ids) == 1
        rows = scoring.log_probs(model, batch)
        model.zero_grad()
        sum(row.log_probs.sum() for row in rows.values()).backward()
        gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
        found.append(({name: row.log_probs.sum(1) for name, row in rows.items()}, gradients))
    (plain, expected), *others = found
    for packed, gradients in others:
        for name, sums in plain.items():
            torch.testing.assert_close(packed[name], sums, atol=1e-4, rtol=1e-5)
        assert gradients.keys() == expected.keys()
        for name, gradient in expected.items():
            assert (gradients[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-4, name


def scored(
    llava: VLM, scoring: Scoring, objective: Objective, max_tokens: int | None = None
) -> tuple[Tensor, list[Tensor]]:
    """The loss, the reference being without the adapter, and the summed log-probs of every row."""
    collator = scoring.collator(llava.encoder(), objective.groups, corruption=Crop(), max_tokens=max_tokens)
    batch = scoring.with_features(llava.model, collator([Item(example) for example in examples()]))
    rows = scoring.log_probs(llava.model, batch)
    without = WithoutAdapter(llava, scoring).log_probs(batch) if llava.adapter else rows
    terms = objective({name: Scores(*row, without[name].log_probs) for name, row in rows.items()})
    return torch.stack([term.mean() for term in terms.values()]).sum(), [row.log_probs.sum(1) for row in rows.values()]


@pytest.mark.parametrize(
    "objective",
    [MDPO(), *(pytest.param(o, marks=pytest.mark.slow) for o in (DPO(), BPO()))],
    ids=["mdpo", "dpo", "bpo"],
)
def test_adapters_have_the_loss_and_gradients_of_the_model_s_own_forward_whatever_is_recomputed(
    family: Family, objective: Any
):
    llava, found, passes = of_family(family), [], []
    llava.model.gradient_checkpointing_enable({"use_reentrant": False})
    moved(llava)
    family.parts.language_model(llava.model).layers[0].self_attn.register_forward_pre_hook(lambda *_: passes.append(1))
    trained = {name: weight for name, weight in llava.model.named_parameters() if weight.requires_grad}
    kinds = {"connector" if ".modules_to_save." in name else name.split(".")[-3] for name in trained}
    assert kinds == {"connector", "lora_A", "lora_B"}
    assert {family.parts.of(name) for name in trained if ".lora_" in name} == {"language"}
    assert {part for part, count in count_parameters(llava.model).items() if count.trainable} == {"LoRA", "projector"}
    frozen = {name for name, weight in llava.model.named_parameters() if not weight.requires_grad}
    connector = {name for name in frozen if family.parts.of(name) == "connector" and ".original_module." not in name}
    assert connector <= {"model.image_newline"}
    for scoring, limit in LAYOUTS:
        llava.model.train(isinstance(scoring, SharedPrefix))
        loss, _ = scored(llava, scoring, objective, limit)
        gradients = torch.autograd.grad(loss, list(trained.values()))
        found.append((loss, dict(zip(trained, gradients, strict=True))))
    assert len(passes) == 2 + 3 + 3, "policy and reference, and in training the policy once more"
    (plain, expected), *others = found
    for packed, gradients in others:
        torch.testing.assert_close(packed, plain, atol=1e-5, rtol=1e-5)
        for name, gradient in expected.items():
            assert (gradients[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


@torch.no_grad()
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_an_adapter_is_nothing_at_first_and_switched_off_and_the_same_merged_and_read_back(
    family: Family, method: Literal["lora", "qlora"], tmp_path: Path
):
    def model() -> VLM:
        llava = of_family(family)
        return quantised(llava, torch.float32, torch.device("cpu")) if method == "qlora" else llava

    fresh, llava, scoring = model(), moved(model(), method), SharedPrefix()
    add_lora(fresh, dataclasses.replace(LORA, method=method))
    loss, before = scored(fresh, scoring, DPO())
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    with llava.adapter.disable_adapter():
        assert all(map(torch.equal, scored(llava, scoring, DPO())[1], before))
    expected = scored(llava, scoring, DPO())[1]
    assert not any(map(torch.allclose, expected, before))

    llava.adapter.save_pretrained(tmp_path / "adapter")
    (tmp_path / "run.json").write_text(json.dumps({"config": {"peft": {"method": method}}}))
    (tmp_path / "base").mkdir()
    merge(llava)
    for merged, said in zip(scored(llava, scoring, DPO())[1], expected, strict=True):
        torch.testing.assert_close(merged, said, atol=1e-3, rtol=1e-5)
    source = PretrainedLlava(base=str(tmp_path / "base"))
    again = load_merged(source, tmp_path / "adapter", lambda *_: of_family(family)).model.state_dict()
    assert again.keys() == of_family(family).model.state_dict().keys()
    assert all(torch.equal(again[name], weight) for name, weight in llava.model.state_dict().items())


def test_a_blank_image_changes_nothing_and_runs_every_part(family: Family):
    llava, found = of_family(family), []
    (words,) = [example for example in examples() if not example.images]
    for blank in (False, True):
        collator = SharedPrefix().collator(llava.encoder(), DPO().groups, blank_image=blank)
        batch = SharedPrefix().with_features(llava.model.requires_grad_(True), collator([Item(words)]))
        rows = SharedPrefix().log_probs(llava.model, batch)
        llava.model.zero_grad()
        torch.stack([row.log_probs.sum() for row in rows.values()]).sum().backward()
        found.append({name: row.log_probs for name, row in rows.items()})
    for name, log_probs in found[0].items():
        torch.testing.assert_close(found[1][name], log_probs, atol=1e-5, rtol=1e-5)
    reached = {name for name, weight in llava.model.named_parameters() if weight.grad is not None}
    connector = {name for name, _ in llava.model.named_parameters() if family.parts.of(name) == "connector"}
    assert connector <= reached
    assert any(family.parts.of(name) == "vision" for name in reached)


@torch.no_grad()
@pytest.mark.parametrize("limit", [None, 4096], ids=["lines", "one line"])
def test_flex_attention_scores_as_the_dense_mask_does(family: Family, limit: int | None):
    """FlexAttention's own reference, which is not compiled: windows, blocks of images and several prompts in a line."""
    found = []
    for attention in ("sdpa", "flex_attention"):
        model, encoder = tiny(family, window=3)
        family.parts.language_model(model).config._attn_implementation = attention  # `transformers` lets not all choose
        collator = SharedPrefix().collator(encoder, MDPO().groups, corruption=Crop(), max_tokens=limit)
        batch = SharedPrefix().with_features(model, collator([Item(example) for example in examples()]))
        with torch.compiler.set_stance("force_eager"):
            found.append(SharedPrefix().log_probs(model, batch))
    for name, row in found[0].items():
        torch.testing.assert_close(found[1][name].log_probs, row.log_probs, atol=1e-5, rtol=1e-5)


def test_kept_features_score_the_same(family: Family):
    model, encoder = tiny(family)
    for name, weight in model.named_parameters():
        weight.requires_grad_(family.parts.of(name) == "language")
    cache, scoring = MemoryFeatures(1 << 30), SharedPrefix()
    collator = scoring.collator(encoder, DPO().groups, features=cache)
    sums = []
    for seen in (False, True):
        batch = collator([Item(example) for example in examples()])
        assert batch.images is not None
        assert (batch.images.new is None) == seen
        with torch.no_grad():
            rows = scoring.log_probs(model, scoring.with_features(model, batch, cache))
        sums.append(rows["chosen"].log_probs.sum(1))
    assert torch.equal(*sums)


def test_an_image_is_decoded_once_a_batch_and_never_with_kept_features(family: Family, monkeypatch: Any):
    model, encoder = tiny(family)
    model.requires_grad_(False)
    decoded: list[str] = []
    monkeypatch.setattr(Picture, "load", lambda image: decoded.append(image.key) or picture(image.height, image.width))
    cache = MemoryFeatures(1 << 30)
    collator = SharedPrefix().collator(encoder, MDPO().groups, corruption=Crop(), features=cache)
    ways = {(image.key, family.together(len(one.images))) for one in examples() for image in one.images}
    for expected in (sorted([key for key, _ in ways] * 2), []):  # whole, and for its crop
        batch = collator([Item(example) for example in [*examples(), *examples()]])
        assert sorted(decoded) == expected
        SharedPrefix().with_features(model, batch, cache)
        decoded.clear()


def test_features_are_kept_only_where_no_trained_connector_made_them(family: Family):
    llava, options = of_family(family), VisionCache(store="memory")
    if "connector" in family.tower_parts:
        with pytest.raises(UserError, match=r"vision_cache: .* choose vision_cache=none, or model\.train\.projector=f"):
            feature_cache(options, llava, "32-true")
        llava = dataclasses.replace(llava, source=ModelOptions(train=Trained(projector=False)))
    assert feature_cache(options, llava, "32-true") is not None


def test_greedy_answers_are_those_of_generate(family: Family):
    model, encoder = tiny(family)
    processor, prompts = encoder.processor, examples()
    expected = []
    for prompt in prompts:
        text = [encoder.prompt_text(prompt)]
        images = {"images": [[image.load() for image in prompt.images]]} if prompt.images else {}
        whole = dict(processor(text=text, **images, return_tensors="pt"))
        whole.pop("num_crops", None)
        if whole["input_ids"][0, 0] != processor.tokenizer.bos_token_id:
            for name, first in (("input_ids", processor.tokenizer.bos_token_id), ("attention_mask", 1)):
                whole[name] = torch.nn.functional.pad(whole[name], (1, 0), value=first)
            for name in ("token_type_ids", "mm_token_type_ids"):
                if name in whole:
                    whole[name] = torch.nn.functional.pad(whole[name], (1, 0))
        ids = model.generate(**whole, max_new_tokens=6, do_sample=False)[0, whole["input_ids"].shape[1] :].tolist()
        expected.append(ids)
    inputs = left_padded(encoder, prompts, model.config)
    ids = model.generate(**inputs, max_new_tokens=6, do_sample=False)[:, inputs["input_ids"].shape[1] :].tolist()
    assert ids == expected


def test_a_processor_of_another_checkpoint_is_told_in_one_line():
    llava = of_family(family_of("smolvlm"))
    llava.processor.image_seq_len += 1
    prompts = [Prompt(example) for example in examples()]
    for run in (
        lambda: scored(llava, Padded(), DPO()),
        lambda: scored(llava, SharedPrefix(), DPO()),
        lambda: list(generate(llava, prompts, Generation(max_new_tokens=2))),
    ):
        with pytest.raises(UserError, match=r"processor and weights do not fit: .*get both of one checkpoint"):
            run()


def test_an_unknown_family_is_told_with_those_that_are_known():
    with pytest.raises(UserError, match=r"model_type fuyu: .*gemma3, idefics3, internvl, llava, "):
        family_of("fuyu")


def test_samples_that_share_a_prompt_are_those_of_passes_of_their_own(family: Family):
    llava = of_family(family)
    settings = Generation(max_new_tokens=8, batch_size=9)
    prompts = [Prompt(example, draw) for example in examples() for draw in range(2)] + [Prompt(examples()[0], 2)]
    passes: list[torch.Size] = []
    llava.model.register_forward_pre_hook(
        lambda module, args, kwargs: passes.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    shared = dict(next(iter(generate(llava, prompts, settings))))
    assert [shape[0] for shape in passes] == [4, *[9] * (len(passes) - 1)]
    alone = {
        number: response
        for number, prompt in enumerate(prompts)
        for _, response in next(iter(generate(llava, [prompt], settings)))
    }
    assert shared == alone
