"""Parameters of LLaVA-1.5 7B and 13B and what of them is trained, counted by hand, without weights, by the doctor."""

import copy
import dataclasses
import types
from typing import Any

import pytest
import torch
from launching import launch
from omegaconf import OmegaConf
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from mmsafe.core.config import conf_dir
from mmsafe.core.settings import Peft
from mmsafe.estimate.memory import trained
from mmsafe.estimate.plan import MemoryPlan
from mmsafe.estimate.shape import measured
from mmsafe.models.adapters import add_lora
from mmsafe.models.model_options import Trained
from mmsafe.models.model_source import PretrainedLlava
from mmsafe.models.parameters import Count, count_parameters
from mmsafe.models.vlm import VLM, set_trained
from mmsafe.reporting.table import trained_table

VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
SIZES = {
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "13b": {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40},
}
# CLIP-L/14-336. Embeddings: class 1024, patches 3·14·14·1024 = 602,112, positions (24² + 1)·1024 = 590,848. A layer:
# attention 4·(1024² + 1024) = 4,198,400, MLP 2·1024·4096 + 4096 + 1024 = 8,393,728, two norms 4·1024 = 4,096, together
# 12,596,224, and 24 of them 302,309,376. The norms before and after the layers: 4·1024 = 4,096.
TOWER = 1_024 + 602_112 + 590_848 + 302_309_376 + 4_096  # 303,507,456
# Two layers with biases: 1024·d + d + d·d + d.
PROJECTOR = {"7b": 4_198_400 + 16_781_312, "13b": 5_248_000 + 26_219_520}  # 20,979,712 and 31,467,520
HEAD = {"7b": 32_064 * 4_096, "13b": 32_064 * 5_120}  # 131,334,144 and 164,167,680; as many in the embeddings
# A layer: attention 4·d², MLP 3·d·i, two norms 2·d. 7B: 67,108,864 + 135,266,304 + 8,192 = 202,383,360, 32 of them.
# 13B: 104,857,600 + 212,336,640 + 10,240 = 317,204,480, 40 of them. Then the last norm, d.
LANGUAGE = {
    "7b": 131_334_144 + 32 * 202_383_360 + 4_096,  # 6,607,605,760 without the head
    "13b": 164_167_680 + 40 * 317_204_480 + 5_120,  # 12,852,352,000
}
TOTAL = {"7b": 7_063_427_072, "13b": 13_351_494_656}
# LoRA of rank 1: inputs + outputs of q, k, v, o: 4·2d, of gate, up, down: 3·(d + i).
# 7B: 32·(32,768 + 45,312) = 32·78,080; 13B: 40·(40,960 + 56,832) = 40·97,792.
LORA = {"7b": 2_498_560, "13b": 3_911_680}
LARGE = pytest.mark.parametrize("size", ["7b", "13b"])


def on_meta(size: str, **trained: bool) -> VLM:
    """LLaVA-1.5 without its weights."""
    text = LlamaConfig(vocab_size=32_064, tie_word_embeddings=False, **SIZES[size])
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(LlavaConfig(vision_config=CLIPVisionConfig(**VISION), text_config=text))
    source = PretrainedLlava(path="nowhere/here", train=Trained(**trained))
    set_trained(model, source.train)
    nobody: Any = None
    return VLM(model, nobody, source)


def trainable(model: torch.nn.Module) -> dict[str, int]:
    return {part: count.trainable for part, count in count_parameters(model).items() if count.trainable}


def peft(name: str) -> Peft:
    """The options in `conf/peft/`, lists of defaults followed by hand."""
    options = OmegaConf.load(conf_dir() / "peft" / "lora.yaml")
    options.merge_with(OmegaConf.load(conf_dir() / "peft" / f"{name}.yaml"))
    return Peft(**{key: options[key] for key in ("method", "rank", "alpha")})


@LARGE
def test_every_part_is_counted(size: str):
    counts = {part: count.total for part, count in count_parameters(on_meta(size).model).items()}
    assert counts == {
        "vision tower": TOWER,
        "projector": PROJECTOR[size],
        "language model": LANGUAGE[size],
        "LM head": HEAD[size],
    }
    assert sum(counts.values()) == TOTAL[size]


@LARGE
@pytest.mark.parametrize(
    ("language", "projector", "vision"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_what_model_train_names_is_trained_and_the_doctor_agrees(
    size: str, language: bool, projector: bool, vision: bool
):
    llava = on_meta(size, language=language, projector=projector, vision=vision)
    expected = {"vision tower": TOWER * vision, "projector": PROJECTOR[size] * projector}
    expected |= {"language model": LANGUAGE[size] * language, "LM head": HEAD[size] * language}
    assert trainable(llava.model) == {part: count for part, count in expected.items() if count}
    plan = MemoryPlan(
        batch_size=1,
        responses=(2,),
        prompt=640,
        response=64,
        train_language=language,
        train_projector=projector,
        train_vision=vision,
    )
    assert trained(measured(llava.model), plan) == sum(expected.values())


@LARGE
@pytest.mark.parametrize(
    ("name", "rank", "alpha", "projector"),
    [("lora", 128, 256, False), ("lora_paper", 256, 512, True), ("qlora", 128, 256, True)],
)
def test_adapters_and_the_projector_are_trained_and_the_doctor_agrees(
    size: str, name: str, rank: int, alpha: int, projector: bool
):
    options = peft(name)
    assert (options.rank, options.alpha) == (rank, alpha)
    llava = on_meta(size, projector=projector)
    shape = measured(llava.model)
    if name == "qlora":
        pack(llava.model)
    with torch.device("meta"):
        add_lora(llava, options)
    expected = {"LoRA": rank * LORA[size]} | ({"projector": PROJECTOR[size]} if projector else {})
    assert trainable(llava.model) == expected
    counts = count_parameters(llava.model)
    assert sum(count.total for count in counts.values()) == TOTAL[size] + rank * LORA[size]
    plan = MemoryPlan(
        batch_size=1,
        responses=(2,),
        prompt=640,
        response=64,
        train_projector=projector,
        peft=options.method,
        lora_rank=options.rank,
    )
    assert trained(shape, plan) == sum(expected.values())


def pack(model: Any) -> None:
    """Matrices of the language model as bitsandbytes holds them: two weights to a byte, beside their shape."""
    for module in model.model.language_model.layers.modules():
        if isinstance(module, torch.nn.Linear):
            shape = module.weight.shape
            packed = torch.empty(shape.numel() // 2, 1, dtype=torch.uint8, device="meta")
            module.weight = torch.nn.Parameter(packed, requires_grad=False)
            module.weight.quant_state = types.SimpleNamespace(shape=shape)  # type: ignore[attr-defined]
            module.requires_grad_(False)


def test_the_table_has_a_row_for_each_part_and_their_sum():
    table = trained_table({"projector": Count(40, 40), "language model": Count(160, 0)})
    assert [list(map(str, column.cells)) for column in table.columns] == [
        ["projector", "language model", "all"],
        ["40", "160", "200"],
        ["40", "0", "40"],
        ["100.00%", "0.00%", "20.00%"],
    ]


def test_the_doctor_says_so_too(tmp_path: Any):
    rank, words = 256, ("model=llava7b", "peft=lora_paper", "data.batch_size=1", "doctor.gpu_memory_gib=80")
    said = launch("doctor", *words, cwd=tmp_path, cache=tmp_path).out
    millions = (rank * LORA["7b"] + PROJECTOR["7b"]) / 1e6
    assert f"{millions:.2f} M trained" in said
    assert f"7.06 G parameters × 4 bytes, and LoRA of rank {rank}" in said


def test_a_copy_that_stands_in_for_a_part_counts_once(llava: VLM):
    adapted = dataclasses.replace(llava, model=copy.deepcopy(llava.model))
    before = count_parameters(adapted.model)["projector"]
    add_lora(adapted, Peft(method="lora", rank=4, alpha=8))
    assert count_parameters(adapted.model)["projector"] == before
