"""The options of `mmsafe.train`."""

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar, Self

from pydantic import Field, model_validator

from mmsafe.core import settings
from mmsafe.core.options import Count, InputPath, Seed, options
from mmsafe.data.corruption import Corruption
from mmsafe.data.data_source import DataSource
from mmsafe.evaluation.benchmark import Benchmark
from mmsafe.evaluation.judges.judge import Judge
from mmsafe.generation.served import ServedGeneration
from mmsafe.models.model_source import ModelSource, Pretrained
from mmsafe.objectives.base import PAIR, Objective
from mmsafe.reference.reference import AdapterOff, Cached, Reference
from mmsafe.reporting.loggers import RunLogger
from mmsafe.runs.plan import refuse_unplanned
from mmsafe.scoring.ways import Scoring
from mmsafe.training.best import better
from mmsafe.training.optimizers.optimizer import Optimizer
from mmsafe.training.strategies.strategy import Strategy


@options
class TrainConfig:
    """`conf/train.yaml`, typed."""

    name: str | None
    seed: Seed
    plan: InputPath | None = None
    rounds: Count = 1
    evaluate: bool
    data: DataSource
    model: ModelSource
    peft: settings.Peft
    objective: Objective
    reference: Reference
    scoring: Scoring
    strategy: Strategy
    corruption: Corruption
    vision_cache: settings.VisionCache
    optimizer: Optimizer
    trainer: settings.Trainer
    lengths: settings.Lengths
    generation: settings.Generation
    checkpoint: settings.Checkpoint
    benchmark: Benchmark
    judge: Judge
    evaluation: settings.Evaluation
    logger: dict[str, RunLogger]
    validate: settings.Validate = Field(default_factory=settings.Validate)
    early_stopping: settings.EarlyStopping = Field(default_factory=settings.EarlyStopping)
    runs_here: ClassVar[bool] = True
    """Whether this machine has to be able to do it."""

    @property
    def accumulate(self) -> int:
        """Micro-batches of an optimiser step."""
        wanted, together = self.optimizer.global_batch_size, self.data.batch_size * self.trainer.processes
        if wanted is None:
            return self.trainer.accumulate_grad_batches
        if self.trainer.accumulate_grad_batches != 1:
            raise ValueError("optimizer.global_batch_size decides trainer.accumulate_grad_batches; leave that at 1")
        if wanted % together:
            why = f"is no multiple of data.batch_size x devices = {together}"
            raise ValueError(f"optimizer.global_batch_size={wanted} {why}")
        return wanted // together

    @property
    def monitored(self) -> settings.Checkpoint:
        """`checkpoint`, with what is better of its metric."""
        mode = self.checkpoint.mode or better(self.checkpoint.monitor or "", self.benchmark.measures)
        return replace(self.checkpoint, mode=mode)

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        for refusal in filter(None, self._refusals()):
            raise ValueError(refusal)
        return self

    def _refusals(self) -> Iterator[str]:
        """Which choices exclude one another, in the order in which they are told; what is empty is none."""
        refuse_unplanned(self.plan, self.name, self.seed)
        yield from self._of_batches()
        self.benchmark.check_data(self.data)
        self.benchmark.check_judge(self.judge)
        yield from self._of_responses()
        yield from self._of_rounds()
        yield from self._of_model()
        if isinstance(self.reference, AdapterOff) and self.peft.method == "none":
            yield "reference=adapter_off: there is no adapter; choose one by peft=lora, or reference=cached"
        yield from self._of_validation()
        yield from self._of_strategy()
        if self.runs_here:
            yield from (self.peft.refusal(), self.optimizer.missing(), *(one.refusal() for one in self.logger.values()))
        if self.peft.method == "qlora" and self.strategy.name not in ("auto", "ddp"):
            yield f"strategy={self.strategy.name}: 4-bit weights stay whole; peft=qlora needs auto or ddp"
        if self.vision_cache.store != "none" and self.model.train.vision:
            yield "vision_cache: a tower that is trained gives other features after every step"
        if self.vision_cache.store != "none" and not self.scoring.reads_features:
            yield "vision_cache: needs scoring=shared_prefix"

    def _of_batches(self) -> Iterator[str]:
        if self.data.max_tokens is not None:
            if not self.scoring.several_prompts:
                yield "data.max_tokens: several prompts in a line need scoring=shared_prefix"
            if self.data.group_by_length:
                yield "data.max_tokens: leaves no padding to group for; set data.group_by_length=false"
            if self.optimizer.global_batch_size is not None:
                yield "optimizer.global_batch_size: data.max_tokens takes as many items as fit; choose one of the two"
        _ = self.accumulate

    def _of_responses(self) -> Iterator[str]:
        sampling = self.generation
        self.judge.must_tell(sampling.needs, f"generation.match={sampling.match} needs")
        if self.objective.ranked:
            if sampling.temperature == 0:
                yield "generation.temperature=0: greedy samples are all the same, so none is better; raise it"
            if sampling.num_return_sequences > 1:
                yield "generation.num_return_sequences: objective.samples says how many; leave it at 1"
            if sampling.match or sampling.prompt != "own" or sampling.image_view not in ("auto", "real"):
                beside = "what is ranked is sampled beside its own image; leave out image_view, prompt and match"
                yield f"generation: {beside}"
        made = self.objective.sampled - PAIR.keys()
        if missing := ", ".join(sorted(self.objective.responses - made - self.data.brings())):
            yield f"data: has no {missing} responses, which the objective reads; objective=sft needs chosen ones"
        if self.objective.needs_image and not self.data.has_images():
            yield "data: has no images, which the objective needs; choose other data, or objective=dpo"

    def _of_rounds(self) -> Iterator[str]:
        moves = self.objective.needs_reference and self.reference.moves
        if self.rounds == 1:
            if moves:
                yield "reference.moves: there is one round, so nothing to move to; set rounds=3, say"
            return
        if isinstance(self.generation, ServedGeneration):
            yield f"generation=endpoint: serves one model, but rounds={self.rounds} sample from one each"
        sampled = self.objective.sampled if self.objective.ranked else self.objective.sampled - self.data.brings()
        if not (sampled or moves):
            why = "nothing is sampled and no reference moves, so they were epochs; raise trainer.max_epochs"
            yield f"rounds={self.rounds}: {why}"
        if isinstance(self.reference, AdapterOff) and not moves:
            why = "later adapters stand on the last round's model; set reference.moves=true, or reference=cached"
            yield f"reference=adapter_off: {why}"

    def _of_model(self) -> Iterator[str]:
        trained = self.model.train
        if not (trained.language or trained.projector or trained.vision):
            yield "model.train: nothing is trained; turn on language, projector or vision"
        if self.peft.method != "none" and (trained.vision or not trained.language):
            yield "peft: adapters train the language model and never the tower; see model.train"
        if self.model.compile and (not self.strategy.compiles or self.peft.method == "qlora"):
            yield "model.compile: needs strategy=auto or ddp, and weights that are not quantised"
        if isinstance(self.model, Pretrained):
            yield self.scoring.refusal(self.model.attention)
            if self.model.dtype == "float16":
                yield "model.dtype=float16: too narrow to train; use float32, with trainer.precision=16-mixed"

    def _of_validation(self) -> Iterator[str]:
        monitor, generated = self.checkpoint.monitor, self.validate.generate
        if monitor is None and (self.early_stopping.patience or self.checkpoint.load_best):
            yield "checkpoint.monitor: early stopping and load_best go by a metric; name it, as val/loss"
        if monitor is not None and self.monitored.mode is None:
            yield f"checkpoint.mode: it is not known what of {monitor} is better; say min or max"
        if self.trainer.validate_every is None and (monitor or generated):
            yield "checkpoint.monitor, validate.generate: need trainer.validate_every, such as 0.25 of an epoch"
        if generated and self.strategy.several_parts:
            yield "validate.generate: weights in parts give no answers while they train; set it to 0"
        on_devices = self.benchmark.judge_for(self.judge).on_devices
        if generated and on_devices and (self.trainer.processes > 1 or self.strategy.name != "auto"):
            yield "validate.generate: a judge on the devices that train takes one device, strategy=auto"

    def _of_strategy(self) -> Iterator[str]:
        if self.trainer.processes > 1 and not self.scoring.several_devices:
            yield "trainer.devices: several devices need scoring=shared_prefix"
        if self.runs_here:
            yield self.strategy.refusal(self.trainer)
        sharded_by = self.strategy.name if self.strategy.shards_optimizer else None
        yield self.optimizer.refusal(sharded_by, self.trainer, self.model, self.peft)
        if self.strategy.several_parts:
            if self.objective.needs_reference and not isinstance(self.reference, Cached):
                yield "reference: weights in parts need reference=cached"
            if self.vision_cache.store != "none":
                yield "vision_cache: with weights in parts, all devices have to run the tower together"
            if not self.scoring.several_devices:
                yield "scoring: weights in parts need scoring=shared_prefix"
