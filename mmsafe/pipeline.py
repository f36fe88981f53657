"""What the commands do once their config has been checked."""

from __future__ import annotations

import logging
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pytorch_lightning.utilities.exceptions import SIGTERMException

from mmsafe.app import INTERRUPTED
from mmsafe.blinding import BLIND, with_generated_responses
from mmsafe.data.example import Example, fingerprint
from mmsafe.data.features import feature_cache
from mmsafe.data.lengths import fitting
from mmsafe.data.source import DataSource, Loaded
from mmsafe.errors import UserError
from mmsafe.evaluation.benchmark import Part
from mmsafe.evaluation.pairwise import prepare_pairs
from mmsafe.evaluation.run import evaluate
from mmsafe.models.adapters import add_lora, merge
from mmsafe.models.llava import Llava
from mmsafe.models.loading import from_checkpoint, on_device
from mmsafe.precision import resolved
from mmsafe.ranks import is_first
from mmsafe.reference.policies import Model, ReferencePolicy
from mmsafe.reporting import wandb_log
from mmsafe.reporting.csv_log import CsvLog
from mmsafe.reporting.files import write_rows
from mmsafe.reporting.runs import RunFolder
from mmsafe.reporting.table import headline, print_tables, result_table
from mmsafe.training import check_accelerator, fit

if TYPE_CHECKING:
    from mmsafe.blind import BlindConfig
    from mmsafe.evaluate import EvaluateConfig
    from mmsafe.train import TrainConfig

log = logging.getLogger(__name__)
TERMINATED = 143


def train(config: TrainConfig, cfg: DictConfig) -> float:
    """Load, blind, optimise, save, evaluate; returns the safety rate, or the negative loss where there is none."""
    folder = RunFolder(output_dir(), cfg)
    metrics = folder.claim()
    if metrics is None:
        status = 1
        try:
            metrics = _train(config, folder)
            status = 0
        except SystemExit as stop:
            sys.exit(_status(stop))
        finally:
            wandb_log.finish(exit_code=status)
    if not is_first():
        return math.nan
    title = f"{HydraConfig.get().runtime.choices['objective']} · seed {config.seed}"
    print_tables([result_table({"trained": metrics}, title, tags=True)] if config.evaluate else [])
    return float(metrics.get("eval/safety_rate", -metrics["train/loss"]))


def _status(stop: SystemExit) -> Any:
    """Lightning ends with 0 on SIGTERM and 1 on Ctrl-C, after a checkpoint; a scheduler expects 143 and 130."""
    if isinstance(stop, SIGTERMException):
        return TERMINATED
    return INTERRUPTED if isinstance(stop.__context__, KeyboardInterrupt) else stop.code


def _train(config: TrainConfig, folder: RunFolder) -> dict[str, Any]:
    check_accelerator(config.trainer, getattr(config.model, "attention", "sdpa"))
    loaded = _read(config.data)
    if config.evaluate:
        _check_holdout(config)
    llava = on_device(config.model.load(), config.trainer.accelerator)
    folder.note_inputs(model=llava.fingerprint())
    examples = prepare(config, llava, loaded.examples, folder)
    folder.note_inputs(data=fingerprint(examples))
    folder.note(seed=config.seed, examples=len(examples), dropped=loaded.dropped)
    features = feature_cache(config.vision_cache, llava, resolved(config.trainer))
    reference = _with_adapter(config, llava)
    loggers = [CsvLog(folder.path), *_loggers(config, folder)]
    module = fit(
        llava,
        examples,
        objective=config.objective,
        scoring=config.scoring,
        reference=reference,
        optimizer=config.optimizer,
        trainer=replace(config.trainer, accumulate_grad_batches=config.accumulate),
        batch_size=config.data.batch_size,
        num_workers=config.data.num_workers,
        group_by_length=config.data.group_by_length,
        max_length=config.lengths.max_length,
        corruption=config.corruption,
        features=features,
        seed=config.seed,
        folder=folder.path,
        checkpoint=config.checkpoint,
        loggers=loggers,
    )
    if not is_first():
        return dict(module.latest)  # the first process has it all: it saves and evaluates
    if llava.adapter is None:
        folder.save_model(llava)
    else:
        llava.adapter.save_pretrained(folder.path / "adapter")
    metrics: dict[str, Any] = {**module.latest, "train/steps": module.trained_steps}
    if config.evaluate:
        metrics |= _evaluated(config, llava, reference, "holdout", folder, resolved(config.trainer))
    if llava.adapter is not None:
        merge(llava)  # not before: the evaluation's reference may be the policy without its adapter
        folder.save_model(llava)
    for logger in loggers:
        logger.log_metrics(headline(metrics), module.trained_steps)
        logger.finalize("success")
    folder.finish(metrics)
    if not config.checkpoint.keep:
        shutil.rmtree(folder.path / "checkpoints", ignore_errors=True)
    return metrics


def _with_adapter(config: TrainConfig, llava: Llava) -> ReferencePolicy | None:
    """Add what is trained; returns the reference of training and evaluation, the model before it is trained."""
    needed = config.objective.needs_reference
    reference = config.reference.policy(llava, config.scoring, resolved(config.trainer)) if needed else None
    if config.peft.method == "lora":
        add_lora(llava, config.peft)  # after the reference is keyed: a fresh adapter changes nothing
    if config.evaluate and reference is not None:
        pairs = config.benchmark.pairs(config.data, "holdout")
        prepare_pairs(reference, llava, pairs, config.scoring, config.evaluation.batch_size)
    return reference


def _check_holdout(config: TrainConfig) -> None:
    """Read what will be evaluated on before anything is trained: a bad row there must not cost a run."""
    prompts = config.benchmark.prompts(config.data, "holdout")
    if not prompts:
        raise UserError(
            "there is nothing to evaluate on: raise data.holdout_share, name a test file, or evaluate=false"
        )
    log.info("%d prompts to evaluate on", len(prompts))


def blind(config: BlindConfig, cfg: DictConfig) -> Path:
    """Make the missing blind responses and write them all to `blind.jsonl`; returns its path."""
    if config.generation.image_view == "corrupted":
        raise UserError("generation.image_view=corrupted: this command has no corruption; mmsafe.train has")
    folder = RunFolder(output_dir(), cfg)
    folder.claim()
    loaded = _read(config.data)
    llava = on_device(config.model.load())
    examples = with_generated_responses(llava, loaded.examples, {BLIND}, config.generation)
    path = folder.path / "blind.jsonl"
    write_rows(path, [{"id": example.id, BLIND: example.responses[BLIND]} for example in examples])
    folder.note(model=llava.fingerprint(), data=fingerprint(examples), dropped=loaded.dropped)
    log.info("wrote %d blind responses to %s", len(examples), path)
    return path


def measure(config: EvaluateConfig, cfg: DictConfig) -> dict[str, Any]:
    """Evaluate `config.checkpoint`, or the model of `config.model` where it is null."""
    folder = RunFolder(output_dir(), cfg)
    metrics = folder.claim()
    if metrics is None:
        metrics = _measure(config, folder)
    print_tables([result_table({"model": metrics}, str(config.checkpoint or "base"), tags=True)])
    return metrics


def _measure(config: EvaluateConfig, folder: RunFolder) -> dict[str, Any]:
    llava = on_device(from_checkpoint(config.checkpoint, "checkpoint", config.model))
    against = on_device(from_checkpoint(config.against, "against", config.model)).model if config.against else None
    reference = None if against is None else Model(against, config.scoring)
    folder.note(seed=config.seed, model=llava.fingerprint())
    metrics = _evaluated(config, llava, reference, "test", folder)
    folder.finish(metrics)
    return metrics


def _evaluated(
    config: TrainConfig | EvaluateConfig,
    llava: Llava,
    reference: ReferencePolicy | None,
    part: Part,
    folder: RunFolder,
    precision: str = "32-true",
) -> dict[str, Any]:
    return evaluate(
        llava,
        reference=reference,
        data=config.data,
        part=part,
        benchmark=config.benchmark,
        judge=config.judge,
        scoring=config.scoring,
        settings=config.evaluation,
        folder=folder.path,
        precision=precision,
    )


def output_dir() -> Path:
    """The run folder that Hydra chose."""
    return Path(HydraConfig.get().runtime.output_dir)


def prepare(config: TrainConfig, llava: Llava, examples: list[Example], folder: RunFolder) -> list[Example]:
    """Examples with every response that the objective reads, none longer than allowed."""
    examples = with_generated_responses(
        llava, examples, config.objective.responses, config.generation, config.corruption
    )
    kept, report = fitting(examples, llava.encoder(), config.objective.responses, config.lengths)
    folder.note(lengths=report)
    return kept


def _read(data: DataSource) -> Loaded:
    loaded = data.train()
    dropped = ", ".join(f"{count} {reason}" for reason, count in loaded.dropped.items()) or "none"
    log.info("%d training examples; dropped: %s", len(loaded.examples), dropped)
    return loaded


def _loggers(config: TrainConfig, folder: RunFolder) -> list[Any]:
    name = config.name or folder.path.name
    return [wandb_log.wandb_logger(options, folder.path, folder.config, name) for options in config.logger.values()]
