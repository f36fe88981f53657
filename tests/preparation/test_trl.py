"""TRL trains on prepared sets as they are loaded, without a change."""

import math
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset
from reader_rows import READERS, ROWS, json_file, numbered, picture
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import models
from mmsafe.curation.preparation.preparing import PrepareConfig, prepare
from mmsafe.data.data_source import DataSource

trl = pytest.importorskip("trl", reason="TRL, which is to train on these sets, is not installed")
TEMPLATE = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + eos_token }}{% endfor %}"
TEXTS = {"prompt": "Hello there", "chosen": "Good day", "rejected": "Go away", "images": []}


def written(source: DataSource, folder: Path, form: Any) -> str:
    options: dict[str, Any] = {"splits": None, "format": form, "images": "embedded", "max_shard_size": 10**9}
    prepare(PrepareConfig(data=source, out=folder / "set", **options), {})
    return str(folder / "set")


def losses(trainer: type, config: type, model: Any, folder: Path, rows: Any, processor: Any) -> list[float]:
    """Of two optimiser steps."""
    arguments = config(
        str(folder / "run"),
        per_device_train_batch_size=4,
        max_steps=2,
        logging_steps=1,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        max_length=None,
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trained = trainer(model, args=arguments, train_dataset=rows, processing_class=processor)
    trained.train()
    assert trained.state.global_step == 2
    return [step["loss"] for step in trained.state.log_history if "loss" in step]


@pytest.mark.parametrize(("form", "streaming"), [("parquet", True), ("arrow", False)])
def test_dpo_on_pairs_beside_images(tmp_path: Path, form: str, streaming: bool) -> None:
    from transformers import AutoProcessor

    picture(tmp_path / "images/a.png")
    path = json_file(tmp_path / "d.json", [ROWS["trl"], ROWS["trl"], ROWS["trl"], ROWS["trl"] | TEXTS] * 2)
    source = READERS["trl"](path=path, holdout_share=0)
    models.write("tiny", source.train().examples, tmp_path / "model")
    rows = load_dataset(
        written(source, tmp_path, form), split="train", cache_dir=str(tmp_path / "hf"), streaming=streaming
    )
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    first, second = losses(trl.DPOTrainer, trl.DPOConfig, str(tmp_path / "model"), tmp_path, rows, processor)
    assert first == pytest.approx(math.log(2), abs=1e-6)  # policy and reference are the same
    assert second < first


def test_sft_on_answers_beside_images(tmp_path: Path) -> None:
    from transformers import AutoProcessor

    picture(tmp_path / "images/a.png")
    path = json_file(tmp_path / "d.json", numbered("vlguard", 4))
    source = READERS["vlguard"](path=path, holdout_share=0)
    models.write("tiny", source.train().examples, tmp_path / "model")
    rows = load_dataset(written(source, tmp_path, "parquet"), split="train", cache_dir=str(tmp_path / "hf"))
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    first, second = losses(trl.SFTTrainer, trl.SFTConfig, str(tmp_path / "model"), tmp_path, rows, processor)
    assert second < first


def test_dpo_on_pairs_in_words_with_a_text_model(tmp_path: Path) -> None:
    source = READERS["hh_text"](path=json_file(tmp_path / "d.json", numbered("hh_text", 8)), holdout_share=0)
    tokenizer = models.make_tokenizer(models.texts(source.train().examples), 512)
    tokenizer.chat_template = TEMPLATE
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(tmp_path / "model")
    rows = load_dataset(written(source, tmp_path, "parquet"), split="train", cache_dir=str(tmp_path / "hf"))
    first, second = losses(trl.DPOTrainer, trl.DPOConfig, str(tmp_path / "model"), tmp_path, rows, tokenizer)
    assert first == pytest.approx(math.log(2), abs=1e-6)
    assert second < first
