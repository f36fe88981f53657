"""What the commands do once their config has been checked."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mmsafe.blinding import COLUMN, with_blind_responses
from mmsafe.data.example import Example, fingerprint
from mmsafe.data.lengths import fitting
from mmsafe.data.source import DataSource, Loaded
from mmsafe.evaluation.run import evaluate
from mmsafe.models.llava import Llava
from mmsafe.reporting.csv_log import CsvLog
from mmsafe.reporting.runs import RunFolder
from mmsafe.reporting.table import print_tables, result_table
from mmsafe.training import fit

if TYPE_CHECKING:
    from mmsafe.train import TrainConfig

log = logging.getLogger(__name__)


def train(config: TrainConfig, cfg: DictConfig) -> float:
    """Load, blind, optimise, save, evaluate; returns the safety rate, or the negative loss where there is none."""
    folder = RunFolder(Path(HydraConfig.get().runtime.output_dir), cfg)
    folder.claim()
    metrics = folder.finished
    if metrics is None:
        metrics = _train(config, folder)
    else:
        log.info("%s is finished; nothing to do", folder.path)
    title = f"{HydraConfig.get().runtime.choices['objective']} · seed {config.seed}"
    print_tables([result_table({"trained": metrics}, title, tags=True)] if config.evaluate else [])
    return float(metrics.get("eval/safety_rate", -metrics["train/loss"]))


def _train(config: TrainConfig, folder: RunFolder) -> dict[str, Any]:
    loaded = _read(config.data)
    llava = config.model.load()
    examples = prepare(config, llava, loaded.examples, folder)
    folder.note(seed=config.seed, data=fingerprint(examples), examples=len(examples), dropped=loaded.dropped)
    loggers = [CsvLog(folder.path), *_loggers(config, folder)]
    module = fit(
        llava,
        examples,
        objective=config.objective,
        scoring=config.scoring,
        reference=config.reference,
        optimizer=config.optimizer,
        trainer=config.trainer,
        batch_size=config.data.batch_size,
        num_workers=config.data.num_workers,
        max_length=config.lengths.max_length,
        seed=config.seed,
        folder=folder.path,
        checkpoint=config.checkpoint,
        loggers=loggers,
    )
    folder.save_model(llava)
    metrics: dict[str, Any] = {**module.latest, "train/steps": module.trained_steps}
    if config.evaluate:
        metrics |= evaluate(
            llava,
            reference=module.reference_model,
            data=config.data,
            part="holdout",
            benchmark=config.benchmark,
            judge=config.judge,
            scoring=config.scoring,
            settings=config.evaluation,
            folder=folder.path,
        )
    for logger in loggers:
        logger.log_metrics({k: v for k, v in metrics.items() if k.startswith("eval/") and isinstance(v, float)}, module.trained_steps)
        logger.finalize("success")
    folder.finish(metrics)
    return metrics


def prepare(config: TrainConfig, llava: Llava, examples: list[Example], folder: RunFolder) -> list[Example]:
    """Examples with every response that the objective reads, none longer than allowed."""
    if COLUMN in config.objective.responses:
        examples = with_blind_responses(llava, examples, config.generation)
    kept, report = fitting(examples, llava.encoder(), config.objective.responses, config.lengths)
    folder.note(lengths=report)
    return kept


def _read(data: DataSource) -> Loaded:
    loaded = data.train()
    dropped = ", ".join(f"{count} {reason}" for reason, count in loaded.dropped.items()) or "none"
    log.info("%d training examples; dropped: %s", len(loaded.examples), dropped)
    return loaded


def _loggers(config: TrainConfig, folder: RunFolder) -> list[Any]:
    from mmsafe.reporting.wandb_log import wandb_logger

    name = folder.path.name
    return [wandb_logger(options, folder.path, folder.config, name) for options in config.logger.values()]
