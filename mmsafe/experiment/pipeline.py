"""What the commands do once their config has been checked."""

from __future__ import annotations

import logging
import math
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsafe.core.errors import UserError
from mmsafe.core.files import write_rows
from mmsafe.core.ranks import is_first
from mmsafe.data.example import fingerprint, sources
from mmsafe.data.reading import counted, need_images
from mmsafe.evaluation.benchmark import Part
from mmsafe.evaluation.evaluating import check_lengths, evaluate
from mmsafe.evaluation.pairwise import comparable, prepare_pairs
from mmsafe.experiment.weights import add_adapter, keep, keep_merged, load_again
from mmsafe.generation.blinding import BLIND, with_all_responses, with_generated_responses
from mmsafe.models.llava import Llava
from mmsafe.models.loading import from_checkpoint, on_device, own_device, to_train
from mmsafe.reference.cached import CachedLogProbs
from mmsafe.reference.policies import ReferencePolicy
from mmsafe.reporting import wandb_log
from mmsafe.reporting.csv_log import CsvLog
from mmsafe.reporting.logged_run import this_run
from mmsafe.reporting.table import headline, print_tables, result_table
from mmsafe.reporting.trained import show_trained
from mmsafe.runs.run_context import RunContext
from mmsafe.runs.run_folder import RunFolder, score
from mmsafe.scoring.features import feature_cache
from mmsafe.scoring.lengths import fitting, tell
from mmsafe.scoring.slices import slices_of
from mmsafe.training.fit import check_accelerator, fit
from mmsafe.training.strategies.parallel import loaded_for

if TYPE_CHECKING:
    from mmsafe.experiment.blind_config import BlindConfig
    from mmsafe.experiment.evaluate_config import EvaluateConfig
    from mmsafe.experiment.train_config import TrainConfig

log = logging.getLogger(__name__)
TERMINATED = 143
PRECISION = "32-true"
"""Of an evaluation by itself: as the weights are, nothing is cast."""


def train(config: TrainConfig, run: RunContext) -> float | None:
    """Load, blind, optimise, save, evaluate; returns the safety rate, or the negative loss where there is none."""
    folder = RunFolder(run.folder, run.cfg)
    if (metrics := folder.claim()) is None:
        status = 1
        try:
            metrics = _train(config, folder, run)
            status = 0
        finally:
            wandb_log.finish(exit_code=status)
    if not is_first():
        return math.nan
    title = f"{run.choices['objective']} · seed {config.seed}"
    if config.evaluate:
        table = result_table({"trained": metrics}, title, tags=True)
        print_tables([table, *config.benchmark.report(metrics, folder.path)])
    return score(metrics)


def _train(config: TrainConfig, folder: RunFolder, run: RunContext) -> dict[str, Any]:
    check_accelerator(config.trainer, getattr(config.model, "attention", "sdpa"))
    added = [(options, options.open(this_run(folder, run))) for options in config.logger.values()]
    loggers: list[Any] = [CsvLog(folder.path), *(logger for _, logger in added)]
    loaded = counted(config.data.train())
    if config.objective.needs_image:
        need_images(loaded.examples, "the objective")
    slices_of(loaded.examples, config.trainer.metrics_by)  # a tag that there is not is refused here
    if config.evaluate:
        _check_holdout(config)
    parallel = config.strategy.parallel(config.trainer)
    llava = to_train(loaded_for(parallel, config.model), config.peft, parallel.precision, config.trainer.accelerator)
    folder.note_inputs(model=llava.fingerprint())
    if config.evaluate:
        check_lengths(llava, config.benchmark, config.data, "holdout", config.lengths)
    made = config.objective, config.generation, config.corruption
    examples, lengths = with_all_responses(llava, loaded.examples, *made, config.lengths)
    folder.note_inputs(data=fingerprint(examples))
    folder.note(lengths=lengths)
    folder.note(seed=config.seed, examples=len(examples), sources=sources(examples), dropped=loaded.dropped)
    features = feature_cache(config.vision_cache, llava, parallel.precision)
    reference = _with_adapter(config, llava, parallel.precision)
    show_trained(llava.model, folder)
    module = fit(
        llava,
        examples,
        objective=config.objective,
        scoring=config.scoring,
        reference=reference,
        optimizer=config.optimizer,
        trainer=replace(config.trainer, accumulate_grad_batches=config.accumulate),
        strategy=config.strategy,
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
        load=partial(load_again, config, parallel, llava) if parallel.loads_in_parts(llava.source) else None,
    )
    metrics: dict[str, Any] = {**module.latest, "train/steps": module.trained_steps}
    llava = keep(config, parallel, llava, module, folder)
    if config.evaluate:
        metrics |= _evaluated(config, llava, reference, "holdout", folder, parallel.precision)
    if not is_first():
        return metrics
    keep_merged(llava, folder)
    for logger in loggers:
        logger.log_metrics(headline(metrics), module.trained_steps)
    for options, logger in added:
        options.conclude(logger, metrics, folder.path)
    for logger in loggers:
        logger.finalize("success")
    folder.finish(metrics)
    if not config.checkpoint.keep:
        shutil.rmtree(folder.path / "checkpoints", ignore_errors=True)
    return metrics


def _with_adapter(config: TrainConfig, llava: Llava, precision: str) -> ReferencePolicy | None:
    """Add what is trained; returns the reference of training and evaluation, the model before it is trained."""
    needed = config.objective.needs_reference
    reference = config.reference.policy(llava, config.scoring, precision) if needed else None
    add_adapter(config, llava)  # after the reference is keyed: a fresh adapter changes nothing
    if config.evaluate and reference is not None:
        pairs = comparable(config.benchmark.pairs(config.data, "holdout"), llava, config.lengths)
        prepare_pairs(reference, llava, pairs, config.scoring, config.evaluation.batch_size)
    return reference


def _check_holdout(config: TrainConfig) -> None:
    """Read what will be evaluated on, and look for the judge, before anything is trained: neither must cost a run."""
    config.judge.check()
    prompts = config.benchmark.prompts(config.data, "holdout")
    if not prompts:
        raise UserError(f"there is nothing to evaluate on: {config.data.to_hold_out()}, or set evaluate=false")
    shown = sum(example.image is not None for example in prompts)
    log.info("%d prompts to evaluate on, %d of them with an image", len(prompts), shown)


def blind(config: BlindConfig, run: RunContext) -> Path:
    """Make the missing blind responses and write them all to `blind.jsonl`; returns its path."""
    if config.generation.image_view == "corrupted":
        raise UserError("generation.image_view=corrupted: this command has no corruption; mmsafe.train has")
    folder = RunFolder(run.folder, run.cfg)
    folder.claim()
    loaded = counted(config.data.prompts())
    need_images(loaded.examples, "a blind response")
    own_device(config.accelerator)  # refused before a model is loaded
    llava = on_device(config.model.load(), config.accelerator)
    prompts, lengths = fitting(loaded.examples, llava.encoder(), (), config.lengths)
    tell(lengths, config.lengths)
    examples = with_generated_responses(llava, prompts, {BLIND}, config.generation)
    path = folder.path / "blind.jsonl"
    if is_first():
        write_rows(path, [{"id": example.id, BLIND: example.responses[BLIND]} for example in examples])
    folder.note(model=llava.fingerprint(), data=fingerprint(examples), dropped=loaded.dropped, lengths=lengths)
    log.info("wrote %d blind responses to %s", len(examples), path)
    return path


def measure(config: EvaluateConfig, run: RunContext) -> dict[str, Any]:
    """Evaluate `config.checkpoint`, or the model of `config.model` where it is null."""
    folder = RunFolder(run.folder, run.cfg)
    metrics = folder.claim()
    if metrics is None:
        metrics = _measure(config, folder)
    if is_first():
        table = result_table({"model": metrics}, str(config.checkpoint or "base"), tags=True)
        print_tables([table, *config.benchmark.report(metrics, folder.path)])
    return metrics


def _measure(config: EvaluateConfig, folder: RunFolder) -> dict[str, Any]:
    own_device(config.accelerator)  # refused before a model is loaded, as is a judge or a file that is not there
    config.judge.check()
    config.benchmark.prompts(config.data, "test")
    llava = from_checkpoint(config.checkpoint, "checkpoint", config.model)
    folder.note(seed=config.seed, model=llava.fingerprint())
    reference = _against(config, llava) if config.against else None
    llava = on_device(llava, config.accelerator)
    metrics = _evaluated(config, llava, reference, "test", folder)
    folder.finish(metrics)
    return metrics


def _against(config: EvaluateConfig, llava: Llava) -> ReferencePolicy:
    """Log-probs of the benchmark's pairs under the model of `config.against`, which is there only while they are made.

    It is shown what `llava` is shown: both are scored on the same tokens and pixels.
    """
    model = from_checkpoint(config.against, "against", config.model).model
    against = on_device(replace(llava, model=model, adapter=None), config.accelerator)
    reference = CachedLogProbs(against, config.scoring, PRECISION)
    pairs = comparable(config.benchmark.pairs(config.data, "test"), llava, config.lengths)
    prepare_pairs(reference, against, pairs, config.scoring, config.evaluation.batch_size)
    reference.let_go()
    return reference


def _evaluated(
    config: TrainConfig | EvaluateConfig,
    llava: Llava,
    reference: ReferencePolicy | None,
    part: Part,
    folder: RunFolder,
    precision: str = PRECISION,
) -> dict[str, Any]:
    folder.note(dropped_prompts=config.benchmark.dropped(config.data, part))
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
        lengths=config.lengths,
    )
