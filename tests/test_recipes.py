"""The paper's recipes: every number of its released code (arXiv 2503.14189), for both sizes."""

from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from mmsafe.core.config import conf_dir, typed, without_hydra
from mmsafe.data.example import Example, Turn
from mmsafe.data.readers.mmsafe_po import MMSafePO
from mmsafe.experiment.train_config import TrainConfig
from mmsafe.microworld.tiny import TinyModel
from mmsafe.models.model_source import PretrainedLlava
from mmsafe.objectives.bpo import BPO
from mmsafe.objectives.dpo import DPO
from mmsafe.training.module import PreferenceModule

MODELS = {"llava7b": "llava-hf/llava-1.5-7b-hf", "llava13b": "llava-hf/llava-1.5-13b-hf"}


def recipe(name: str, *overrides: str) -> TrainConfig:
    words = [f"experiment={name}", "data.path=train.json", *overrides]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return typed(without_hydra(compose("train", words, return_hydra_config=True)), TrainConfig)


@pytest.fixture(params=["paper_dpo", "paper_bpo"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=MODELS)
def config(name: str, request: pytest.FixtureRequest) -> TrainConfig:
    return recipe(name, f"model={request.param}")


@pytest.mark.parametrize("model", MODELS)
def test_the_model_can_be_chosen_and_is_the_smaller_one_otherwise(name: str, model: str):
    chosen = recipe(name, f"model={model}").model
    assert isinstance(chosen, PretrainedLlava)
    assert chosen.path == MODELS[model]
    assert recipe(name).model == recipe(name, "model=llava7b").model


RELEASED = {
    # the optimiser
    "optimizer.lr": 1e-6,
    "optimizer.schedule": "cosine",
    "optimizer.weight_decay": 0,
    "trainer.max_epochs": 1,
    "trainer.max_steps": -1,
    "trainer.gradient_clip_val": 1.0,
    "trainer.precision": "bf16-mixed",
    # eight pairs a step as four devices by one pair by two micro-steps
    "optimizer.global_batch_size": 8,
    "trainer.processes": 4,
    "data.batch_size": 1,
    "accumulate": 2,
    # all of language model and projector is trained under ZeRO-2
    "peft.method": "none",
    "model.train.language": True,
    "model.train.projector": True,
    "model.train.vision": False,
    "strategy.stage": 2,
    "strategy.offload": False,
    # 768 tokens with the image padded to a square and no end of sequence
    "lengths.max_length": 768,
    "lengths.on_overlong": "clip_others",
    "model.image_aspect_ratio": "pad",
    "model.append_eos": False,
    "model.chat_template": "bpo_v1",
    # all rows of the training file are trained on
    "data.path": Path("train.json"),
    "data.holdout_share": 0,
    "evaluate": False,
    # answers are greedy and up to 2048 tokens
    "evaluation.max_new_tokens": 2048,
}


def test_every_number_of_the_released_code(config: TrainConfig):
    assert {option: attrgetter(option)(config) for option in RELEASED} == RELEASED
    assert isinstance(config.data, MMSafePO)
    assert config.evaluation.generation().temperature == 0


def test_five_steps_of_warm_up_by_hand(config: TrainConfig):
    """The schedule moves on after each micro-step of 4 pairs, 10 of them to warm up; a step of 8 pairs uses every other
    value: after 1, 3, 5, 7, 9 of 10 micro-steps, then the peak, from which a cosine over many steps hardly falls."""
    module: Any = SimpleNamespace(
        options=config.optimizer,
        total_steps=1348,  # 2 x 5392 pairs, 8 a step
        policy=torch.nn.Linear(1, 1),
        parallel=SimpleNamespace(optimizer=lambda model, options: torch.optim.SGD(model.parameters(), options.lr)),
    )
    schedule = PreferenceModule.configure_optimizers(module)["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(6):
        rates.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    assert rates == pytest.approx([1e-7, 3e-7, 5e-7, 7e-7, 9e-7, 10e-7], rel=1e-6)


def test_the_conversation_is_v1_with_its_system_prompt_and_no_end_after_earlier_answers():
    encoder = TinyModel(pretraining=None, chat_template="bpo_v1").encoder()
    turns = (Turn("user", "What?"), Turn("assistant", "Yes."), Turn("user", "Why?"))
    system = (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. "
    )
    assert len(system) == 155, "with the space behind it"
    said = f"{system}USER: What? ASSISTANT: Yes. USER: Why? ASSISTANT:"
    example = Example("x", turns, (), {})
    assert encoder.prompt_text(example) == said
    assert encoder.tokenizer.eos_token_id not in encoder.prompt_ids(example)


BOTH = ("paper_dpo", "paper_bpo")
BLIND_SAMPLES = {"image_view": "none", "temperature": 1.0, "top_p": 1.0, "num_return_sequences": 1}
LORA = {"peft.method": "lora", "peft.rank": 256, "peft.alpha": 512, "peft.dropout": 0.0}
ON_ANY_MODEL = {"seed": 42, "generation.seed": 42, "model.chat_template": "bpo_v1"}


@pytest.mark.parametrize(
    ("name", "word", "expected"),
    [
        ("paper_dpo", "seed=42", {"objective.beta": 0.1}),
        # as released: DPO on both sets of pairs, with blind samples of the reference
        ("paper_bpo", "seed=42", {"objective.beta": 0.1, "objective.blind_weight": 1.0}),
        ("paper_bpo", "seed=42", {f"generation.{option}": value for option, value in BLIND_SAMPLES.items()}),
        ("paper_bpo", "seed=42", {"objective.mode": "concat"}),
        # the paper's equation is one override away
        ("paper_bpo", "objective=bpo", {"objective.mode": "joint", "lengths.max_length": 768}),
        *((name, "peft=lora_paper", LORA) for name in BOTH),
        *((name, "model=tiny", ON_ANY_MODEL) for name in BOTH),
        # a step is the same on other numbers of devices
        *((name, f"trainer.devices={n}", {"accumulate": 8 // n}) for n in (1, 2, 8) for name in BOTH),
    ],
)
def test_what_a_recipe_chooses(name: str, word: str, expected: dict[str, Any]):
    config = recipe(name, word)
    assert {option: attrgetter(option)(config) for option in expected} == expected
    assert type(config.objective) is (BPO if name == "paper_bpo" else DPO)
    if expected.get("objective.mode") == "concat":
        assert len(config.objective.groups) == 2
