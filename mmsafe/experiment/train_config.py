"""The options of `mmsafe.train`."""

from dataclasses import replace
from typing import ClassVar, Self

from pydantic import Field, model_validator

from mmsafe.core import settings
from mmsafe.core.options import InputPath, Seed, options
from mmsafe.data.corruption import Corruption
from mmsafe.data.data_source import GENERATED, DataSource
from mmsafe.evaluation.benchmark import Benchmark
from mmsafe.evaluation.judges.judge import Judge
from mmsafe.models.model_source import ModelSource, Pretrained
from mmsafe.objectives.base import Objective
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
            raise ValueError(
                f"optimizer.global_batch_size={wanted} is no multiple of data.batch_size x devices = {together}"
            )
        return wanted // together

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        refuse_unplanned(self.plan, self.name, self.seed)
        self._check_batches()
        _ = self.accumulate
        self.benchmark.check_data(self.data)
        self.benchmark.check_judge(self.judge)
        self._check_responses()
        self._check_model()
        if isinstance(self.reference, AdapterOff) and self.peft.method == "none":
            raise ValueError("reference=adapter_off: there is no adapter; choose one by peft=lora, or reference=cached")
        self._check_validation()
        self._check_strategy()
        refusals = [
            self.peft.refusal(),
            self.optimizer.missing(),
            *(logger.refusal() for logger in self.logger.values()),
        ]
        if self.runs_here and any(refusals):
            raise ValueError(next(filter(None, refusals)))
        if self.peft.method == "qlora" and self.strategy.name not in ("auto", "ddp"):
            raise ValueError(f"strategy={self.strategy.name}: 4-bit weights stay whole; peft=qlora needs auto or ddp")
        if self.vision_cache.store != "none" and self.model.train.vision:
            raise ValueError("vision_cache: a tower that is trained gives other features after every step")
        if self.vision_cache.store != "none" and not self.scoring.reads_features:
            raise ValueError("vision_cache: needs scoring=shared_prefix")
        return self

    def _check_responses(self) -> None:
        self.judge.must_tell(self.generation.needs, f"generation.match={self.generation.match} needs")
        if missing := self.objective.responses - self.data.brings() - set(GENERATED):
            reads = ", ".join(sorted(missing))
            raise ValueError(
                f"data: has no {reads} responses, which the objective reads; objective=sft needs chosen ones"
            )
        if self.objective.needs_image and not self.data.has_images():
            raise ValueError("data: has no images, which the objective needs; choose other data, or objective=dpo")

    @property
    def monitored(self) -> settings.Checkpoint:
        """`checkpoint`, with what is better of its metric."""
        mode = self.checkpoint.mode or better(self.checkpoint.monitor or "", self.benchmark.measures)
        return replace(self.checkpoint, mode=mode)

    def _check_validation(self) -> None:
        monitor, asked = self.checkpoint.monitor, self.validate.generate
        if monitor is None and (self.early_stopping.patience or self.checkpoint.load_best):
            raise ValueError("checkpoint.monitor: early stopping and load_best go by a metric; name it, as val/loss")
        if monitor is not None and self.monitored.mode is None:
            raise ValueError(f"checkpoint.mode: it is not known what of {monitor} is better; say min or max")
        if self.trainer.validate_every is None and (monitor or asked):
            raise ValueError(
                "checkpoint.monitor, validate.generate: need trainer.validate_every, such as 0.25 of an epoch"
            )
        if asked and self.strategy.several_parts:
            raise ValueError("validate.generate: weights in parts give no answers while they train; set it to 0")
        on_devices = self.benchmark.judge_for(self.judge).on_devices
        if asked and on_devices and (self.trainer.processes > 1 or self.strategy.name != "auto"):
            raise ValueError("validate.generate: a judge on the devices that train takes one device, strategy=auto")

    def _check_batches(self) -> None:
        if self.data.max_tokens is None:
            return
        if not self.scoring.several_prompts:
            raise ValueError("data.max_tokens: several prompts in a line need scoring=shared_prefix")
        if self.data.group_by_length:
            raise ValueError("data.max_tokens: leaves no padding to group for; set data.group_by_length=false")
        if self.optimizer.global_batch_size is not None:
            raise ValueError(
                "optimizer.global_batch_size: data.max_tokens takes as many items as fit; choose one of the two"
            )

    def _check_strategy(self) -> None:
        if self.trainer.processes > 1 and not self.scoring.several_devices:
            raise ValueError("trainer.devices: several devices need scoring=shared_prefix")
        if self.runs_here and (refusal := self.strategy.refusal(self.trainer)):
            raise ValueError(refusal)
        sharded_by = self.strategy.name if self.strategy.shards_optimizer else None
        if refusal := self.optimizer.refusal(sharded_by, self.trainer, self.model, self.peft):
            raise ValueError(refusal)
        if not self.strategy.several_parts:
            return
        if self.objective.needs_reference and not isinstance(self.reference, Cached):
            raise ValueError("reference: weights in parts need reference=cached")
        if self.vision_cache.store != "none":
            raise ValueError("vision_cache: with weights in parts, all devices have to run the tower together")
        if not self.scoring.several_devices:
            raise ValueError("scoring: weights in parts need scoring=shared_prefix")

    def _check_model(self) -> None:
        trained = self.model.train
        if not (trained.language or trained.projector or trained.vision):
            raise ValueError("model.train: nothing is trained; turn on language, projector or vision")
        if self.peft.method != "none" and (trained.vision or not trained.language):
            raise ValueError("peft: adapters train the language model and never the tower; see model.train")
        if self.model.compile and (not self.strategy.compiles or self.peft.method == "qlora"):
            raise ValueError("model.compile: needs strategy=auto or ddp, and weights that are not quantised")
        if not isinstance(self.model, Pretrained):
            return
        if refusal := self.scoring.refusal(self.model.attention):
            raise ValueError(refusal)
        if self.model.dtype == "float16":
            raise ValueError("model.dtype=float16: too narrow to train; use float32, with trainer.precision=16-mixed")
