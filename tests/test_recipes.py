"""The paper's recipes: every number of its released code (arXiv 2503.14189), for both sizes."""

from __future__ import annotations

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


def test_optimiser(config: TrainConfig):
    assert config.optimizer.lr == 1e-6
    assert config.optimizer.schedule == "cosine"
    assert config.optimizer.weight_decay == 0
    assert config.trainer.max_epochs == 1
    assert config.trainer.max_steps == -1
    assert config.trainer.gradient_clip_val == 1.0
    assert config.trainer.precision == "bf16-mixed"


def test_eight_pairs_a_step_as_four_devices_by_one_pair_by_two_micro_steps(config: TrainConfig):
    assert config.optimizer.global_batch_size == 8
    assert (config.trainer.processes, config.data.batch_size, config.accumulate) == (4, 1, 2)


def test_five_steps_of_warm_up_by_hand(config: TrainConfig):
    """The schedule moves on after each micro-step of 4 pairs, 10 of them to warm up; a step of 8 pairs uses every other
    value: after 1, 3, 5, 7, 9 of 10 micro-steps, then the peak, from which a cosine over many steps hardly falls."""
    module: Any = SimpleNamespace(
        options=config.optimizer,
        total_steps=1348,  # 2 x 5392 pairs, 8 a step
        policy=torch.nn.Linear(1, 1),
        parallel=SimpleNamespace(optimizer=lambda parameters, options: torch.optim.SGD(parameters, options.lr)),
    )
    schedule = PreferenceModule.configure_optimizers(module)["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(6):
        rates.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    assert rates == pytest.approx([1e-7, 3e-7, 5e-7, 7e-7, 9e-7, 10e-7], rel=1e-6)


def test_the_conversation_is_v1_with_its_system_prompt_and_no_end_after_earlier_answers(config: TrainConfig):
    assert isinstance(config.model, PretrainedLlava)
    assert config.model.chat_template == "bpo_v1"
    encoder = TinyModel(pretraining=None, chat_template=config.model.chat_template).encoder()
    turns = (Turn("user", "What?"), Turn("assistant", "Yes."), Turn("user", "Why?"))
    system = (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. "
    )
    assert len(system) == 155, "with the space behind it"
    said = f"{system}USER: What? ASSISTANT: Yes. USER: Why? ASSISTANT:"
    example = Example("x", turns, None, {})
    assert encoder.prompt_text(example) == said
    assert encoder.tokenizer.eos_token_id not in encoder.prompt_ids(example)


def test_the_recipe_runs_on_any_model_and_its_seed_is_the_paper_s(name: str):
    config = recipe(name, "model=tiny")
    assert (config.seed, config.generation.seed, config.model.chat_template) == (42, 42, "bpo_v1")


@pytest.mark.parametrize(("devices", "micro_steps"), [(1, 8), (2, 4), (8, 1)])
def test_a_step_is_the_same_on_other_numbers_of_devices(name: str, devices: int, micro_steps: int):
    assert recipe(name, f"trainer.devices={devices}").accumulate == micro_steps


def test_all_of_language_model_and_projector_is_trained_under_zero_2(config: TrainConfig):
    assert config.peft.method == "none"
    assert (config.model.train.language, config.model.train.projector, config.model.train.vision) == (True, True, False)
    assert config.strategy.stage == 2  # type: ignore[attr-defined]
    assert not config.strategy.offload  # type: ignore[attr-defined]


def test_768_tokens_with_the_image_padded_to_a_square_and_no_end_of_sequence(config: TrainConfig):
    assert config.lengths.max_length == 768
    assert config.lengths.on_overlong == "clip_others"
    assert config.model.image_aspect_ratio == "pad"
    assert not config.model.append_eos


def test_all_rows_of_the_training_file_are_trained_on(config: TrainConfig):
    assert isinstance(config.data, MMSafePO)
    assert config.data.path == Path("train.json")
    assert config.data.holdout_share == 0
    assert not config.evaluate


def test_dpo_is_the_plain_loss():
    objective = recipe("paper_dpo").objective
    assert type(objective) is DPO
    assert objective.beta == 0.1


def test_bpo_is_dpo_on_both_sets_of_pairs_as_released_with_blind_samples_of_the_reference():
    config = recipe("paper_bpo")
    assert isinstance(config.objective, BPO)
    assert (config.objective.beta, config.objective.blind_weight, config.objective.mode) == (0.1, 1.0, "concat")
    assert len(config.objective.groups) == 2
    assert config.generation.image_view == "none"
    assert (config.generation.temperature, config.generation.top_p) == (1.0, 1.0)
    assert config.generation.num_return_sequences == 1


def test_the_paper_s_equation_is_one_override_away():
    config = recipe("paper_bpo", "objective=bpo")
    assert isinstance(config.objective, BPO)
    assert config.objective.mode == "joint"
    assert config.lengths.max_length == 768


def test_answers_are_greedy_and_up_to_2048_tokens(config: TrainConfig):
    asked = config.evaluation.generation()
    assert asked.temperature == 0
    assert asked.max_new_tokens == 2048


def test_the_released_lora_is_a_choice(name: str):
    peft = recipe(name, "peft=lora_paper").peft
    assert (peft.method, peft.rank, peft.alpha, peft.dropout) == ("lora", 256, 512, 0.0)
