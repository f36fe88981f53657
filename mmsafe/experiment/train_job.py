"""`mmsafe.train`: make what training needs, train, save, evaluate."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mmsafe.core.errors import UserError
from mmsafe.core.ranks import is_first
from mmsafe.core.rates import rates_of
from mmsafe.core.run_record import maker_of
from mmsafe.data.data_source import Loaded, counted, need_images
from mmsafe.data.example import Example, fingerprint, sources
from mmsafe.evaluation.evaluating import check_lengths, evaluate, prepare_reference
from mmsafe.evaluation.measuring import EvaluationTask, flat
from mmsafe.evaluation.third_responses import Staleness, rated_by, tells, third_responses
from mmsafe.experiment.held_out import Show, ValidationAnswers, held_out
from mmsafe.experiment.job import alike, complete, declare, evaluation_task, note_trained_by, show, tell, training
from mmsafe.experiment.keeping import keep, keep_merged, load_part
from mmsafe.experiment.rounds import Round, clear, columns, in_rounds
from mmsafe.generation.blinding import with_all_responses
from mmsafe.generation.ranking import with_ranked_pairs
from mmsafe.models.adapters import add_lora
from mmsafe.models.compiling import compiled
from mmsafe.models.loading import to_train
from mmsafe.models.model_source import ModelSource
from mmsafe.models.vlm import VLM
from mmsafe.reporting import wandb_log
from mmsafe.reporting.csv_log import CsvLog
from mmsafe.reporting.logged_run import this_run
from mmsafe.reporting.run_samples import SampledRun
from mmsafe.reporting.table import headline, show_trained
from mmsafe.runs.run_context import RunContext
from mmsafe.runs.run_folder import RunFolder, score
from mmsafe.scoring.features import feature_cache
from mmsafe.scoring.slices import slices_of
from mmsafe.training.fit import check_accelerator, fit
from mmsafe.training.preference_data import PreferenceData
from mmsafe.training.recipe import Batching, Loss, Output, Recipe
from mmsafe.training.strategies.parallel import Parallel, loaded_for
from mmsafe.training.validation import Validation

if TYPE_CHECKING:
    from mmsafe.experiment.train_config import TrainConfig

log = logging.getLogger(__name__)


def train(config: TrainConfig, run: RunContext) -> float | None:
    """Load, blind, optimise, save, evaluate; returns the benchmark's score, or else the negative loss."""
    folder = RunFolder(run.folder, run.cfg)
    with rates_of(alike(config)):
        metrics = complete(folder, partial(in_rounds, config, partial(_logged, run)))
    if not is_first():
        return math.nan
    clear(folder, config)
    if config.evaluate:
        title = f"{run.choices['objective']} · seed {config.seed}"
        show(config.benchmark, metrics, folder, title, columns(folder, metrics))
    return score(folder.path)


def _logged(run: RunContext, this: Round, folder: RunFolder) -> dict[str, Any]:
    """Train and evaluate, with every step and the result told to the loggers."""
    config, status = this.config, 1
    try:
        check_accelerator(config.trainer, getattr(config.model, "attention", "sdpa"))
        added = [(options, options.open(this_run(folder, run))) for options in config.logger.values()]
        loggers: list[Any] = [CsvLog(folder.path), *(logger for _, logger in added)]

        def show(step: int, runs: Sequence[SampledRun]) -> None:
            for options, logger in added:
                options.show(logger, step, runs)

        metrics = _trained(this, folder, Output(folder.path, config.monitored, loggers), show)
        if is_first():
            for logger in loggers:
                logger.log_metrics(headline(metrics, folder.declared(metrics)), metrics["train/steps"])
            for options, logger in added:
                options.conclude(logger, metrics, folder.path)
            for logger in loggers:
                logger.finalize("success")
        status = 0
    finally:
        wandb_log.finish(exit_code=status)
    return metrics


def _trained(this: Round, folder: RunFolder, output: Output, show: Show) -> dict[str, Any]:
    """The metrics of the last step, and of the evaluation where there is one."""
    config, recipe = this.config, _recipe(this)
    asks = config.evaluate or config.validate.generate
    task = evaluation_task(config, "holdout", recipe.parallel.precision) if asks else None
    loss, data, vlm, validation, staleness = _prepared(this, recipe, task, folder, show)
    policy = vlm.model if vlm else partial(load_part, config, recipe.parallel)
    with compiled(policy) if config.model.compile else nullcontext():
        fitted = fit(policy, data, loss, recipe, output, validation=validation)
    metrics: dict[str, Any] = {**fitted.latest, "train/steps": fitted.steps, **folder.about["third"]}
    for value, step in fitted.best.ranked[:1]:
        metrics |= {"best/step": step, f"best/{config.checkpoint.monitor}": value}
    vlm = keep(config, recipe.parallel, vlm, fitted, folder)
    if staleness is not None:
        metrics |= flat(staleness(vlm), "sampled")
    if task is not None and config.evaluate:
        folder.note(dropped_prompts=task.dropped())
        metrics |= evaluate(vlm, task, folder.path, loss.reference)
        declare(task, metrics, folder)
    if is_first():
        keep_merged(vlm, folder)
    return metrics


def _prepared(
    this: Round, recipe: Recipe, task: EvaluationTask | None, folder: RunFolder, show: Show
) -> tuple[Loss, PreferenceData, VLM | None, Validation | None, Staleness | None]:
    """All that has to be there before the first step; no model where each process is to load its part of one."""
    config, parallel = this.config, recipe.parallel
    loaded, held = _read(config, task)
    vlm = _loaded(config, parallel, config.model)
    folder.note_inputs(model=vlm.fingerprint())
    if task is not None:
        check_lengths(vlm, task)
    examples = _with_responses(config, vlm, loaded, folder)
    if held:
        held, _ = _completed(config, vlm, held)
    ask = None
    if task is not None and (count := config.validate.generate):
        ask = ValidationAnswers(vlm, task, count, config.seed, folder.path, show)
    loss = _loss(this, vlm, task, parallel)
    show_trained(vlm.model, folder)
    data = PreferenceData(vlm, examples, loss, recipe)
    folder.note(third=flat(third_responses(vlm, data.items, loss, config.judge, config.lengths.max_length), "third"))
    validation = None
    if held:
        validation = Validation(PreferenceData(vlm, held, loss, _for_validation(recipe, held)), ask)
    parts, staleness = parallel.loads_in_parts(vlm.source), None
    if config.rounds > 1:
        brought = _brought(config, loaded.examples)
        sampled = [example for example in examples if example.id not in brought]
        staleness = Staleness(vlm, sampled, loss, recipe.batching, parallel.precision)
    if loss.reference is not None and (parts or this.reference):
        loss.reference.let_go()
    return loss, data, None if parts else vlm, validation, staleness


def _loaded(config: TrainConfig, parallel: Parallel, source: ModelSource) -> VLM:
    """A model that training starts from, as it is trained or as its reference sees it."""
    return to_train(loaded_for(parallel, source), config.peft, parallel.precision, config.trainer.accelerator)


def _for_validation(recipe: Recipe, held: Sequence[Example]) -> Recipe:
    """The same batches, of which each is measured by itself, told by the tags that held-out examples have."""
    tags = recipe.trainer.metrics_by
    known = None if tags is None else [tag for tag in tags if any(tag in example.tags for example in held)]
    return replace(recipe, trainer=replace(recipe.trainer, accumulate_grad_batches=1, metrics_by=known))


def _recipe(this: Round) -> Recipe:
    config, data = this.config, this.config.data
    return Recipe(
        config.optimizer,
        replace(config.trainer, accumulate_grad_batches=config.accumulate),
        Batching(
            data.batch_size,
            data.num_workers,
            data.group_by_length,
            data.max_tokens,
            config.lengths.max_length,
            config.corruption,
        ),
        this.seed,
        config.strategy,
        config.early_stopping,
    )


def _read(config: TrainConfig, task: EvaluationTask | None) -> tuple[Loaded, list[Example]]:
    """What is trained and validated on; what is wrong with data or judge must not cost a run, so it is found here."""
    loaded = counted(config.data.train())
    if config.objective.needs_image:
        need_images(loaded.examples, "the objective")
    slices_of(loaded.examples, config.trainer.metrics_by)  # a tag that there is not is refused here
    if config.objective.ranked or config.generation.match:
        config.judge.check()
    if task is not None:
        task.judge.check()
        prompts = task.prompts()
        if not prompts:
            raise UserError(f"there is nothing to evaluate on: {config.data.to_hold_out()}, or set evaluate=false")
        shown = sum(bool(example.images) for example in prompts)
        log.info("%d prompts to evaluate on, %d of them with an image", len(prompts), shown)
    if config.rounds > 1 and not config.reference.moves and not _samples(config, loaded.examples):
        raise UserError(f"rounds={config.rounds}: all rows bring what would be sampled, so rounds differ in nothing")
    tell(task if config.evaluate else None, training(config, loaded.examples))
    return loaded, [] if config.trainer.validate_every is None else held_out(config)


def _brought(config: TrainConfig, examples: Sequence[Example]) -> set[str]:
    """Ids of the examples for which nothing is sampled."""
    sampled = config.objective.sampled
    return set() if config.objective.ranked else {e.id for e in examples if sampled <= e.responses.keys()}


def _samples(config: TrainConfig, examples: Sequence[Example]) -> bool:
    """Whether anything is sampled for any of the examples."""
    return len(_brought(config, examples)) < len(examples)


def _with_responses(config: TrainConfig, vlm: VLM, loaded: Loaded, folder: RunFolder) -> list[Example]:
    """The examples with all that the objective reads; what is missing is generated."""
    examples, lengths = _completed(config, vlm, loaded.examples)
    chooses = config.objective.ranked or (config.generation.match and _samples(config, loaded.examples))
    note_trained_by(folder, maker_of(getattr(config.model, "path", None)), config.judge if chooses else None)
    folder.note_inputs(data=fingerprint(examples))
    folder.note(lengths=lengths)
    folder.note(seed=config.seed, examples=len(examples), sources=sources(examples), dropped=loaded.dropped)
    return examples


def _completed(config: TrainConfig, vlm: VLM, examples: Sequence[Example]) -> tuple[list[Example], dict[str, int]]:
    made, before = (config.objective, config.generation, config.corruption, config.lengths), dict[str, int]()
    if samples := config.objective.ranked:
        rates = rated_by(config.judge, vlm)
        examples, before = with_ranked_pairs(vlm, examples, samples, config.generation, config.lengths, rates)
    completed, counts = with_all_responses(vlm, examples, *made, tells(config.judge, config.generation, vlm))
    return completed, {name: counts.get(name, 0) + before.get(name, 0) for name in counts | before}


def _loss(this: Round, vlm: VLM, task: EvaluationTask | None, parallel: Parallel) -> Loss:
    """The loss, its reference being the model as it is now unless it stays; adds to the model what `peft` trains."""
    config, precision = this.config, parallel.precision
    features, reference = feature_cache(config.vision_cache, vlm, precision), None
    if config.objective.needs_reference:
        first = _loaded(config, parallel, this.reference) if this.reference else vlm
        reference = config.reference.policy(first, config.scoring, precision)
    add_lora(vlm, config.peft)  # after the reference is keyed: a fresh adapter changes nothing
    if task is not None and reference is not None:
        prepare_reference(reference, vlm, task)
    return Loss(config.objective, config.scoring, reference, features, starts_equal=this.reference is None)
