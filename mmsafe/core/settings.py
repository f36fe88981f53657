"""Options of the framework's own parts: sampling, trainer. Importing this imports no torch."""

from dataclasses import field
from importlib.util import find_spec
from typing import Annotated, Literal, cast

from pydantic import AfterValidator, Field

from mmsafe.core.options import Count, NonNegative, Positive, Seed, options

View = Literal["none", "real", "other", "corrupted"]


@options
class Generation:
    """How responses are sampled."""

    max_new_tokens: Count = 256
    temperature: NonNegative = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Seed = 0
    """Each sample draws its own noise from this seed and its prompt, whatever batch it falls into."""
    num_return_sequences: Count = 1
    batch_size: Count = 16
    image_view: Literal["auto"] | View = "auto"
    """`auto`: none for `blind` responses, corrupted for `weakened` ones. The others override it for all: `none` removes
    the image, `real` shows it (the sighted control), `other` shows another row's, `corrupted` shows it spoilt."""
    prompt: Literal["own", "other"] = "own"
    match: Literal["right", "wrong", "grounded", "as_none", "as_real", "as_other", "as_corrupted"] | None = None
    """Take only responses of which the judge says this; null: take all. `as_real`: only such as are right where the
    first sample beside the real image is right, and wrong where it is wrong; so the other views."""
    match_also: list[View] = field(default_factory=list)
    tries: Count = 16

    @property
    def matched_view(self) -> View | None:
        """The view whose first sample says whether a response has to be right; None: `match` itself says it."""
        return cast(View, self.match[3:]) if self.match and self.match.startswith("as_") else None

    @property
    def needs(self) -> frozenset[str]:
        """What a judge must tell of a response for `match`."""
        return frozenset({"grounded" if self.match == "grounded" else "right"} if self.match else ())

    @property
    def views(self) -> frozenset[str]:
        """All that are sampled beside, as far as they are chosen here."""
        return frozenset(view for view in (self.image_view, *self.match_also, self.matched_view) if view)

    def __post_init__(self) -> None:
        if self.match and self.temperature == 0:
            raise ValueError("match needs temperature > 0: greedy decoding says the same every time")
        if self.match_also and not self.match:
            raise ValueError(f"match_also={self.match_also}: needs match")
        if self.match and self.tries < self.num_return_sequences:
            raise ValueError(f"tries={self.tries} cannot give num_return_sequences={self.num_return_sequences}")
        if self.num_return_sequences > 1 and self.temperature == 0:
            count = f"num_return_sequences={self.num_return_sequences}"
            raise ValueError(f"{count} needs temperature > 0: greedy decoding says the same every time")


def _steps(value: int) -> int:
    if value == -1 or value >= 1:
        return value
    raise ValueError("should be at least 1, or -1 for no limit")


@options
class Devices:
    """The processes of a run, one for each device; names as in `pytorch_lightning.Trainer`."""

    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    devices: Count = 1
    num_nodes: Count = 1

    @property
    def processes(self) -> int:
        """Number of processes of the whole run."""
        return self.devices * self.num_nodes


@options
class Trainer(Devices):
    """The training loop; names as in `pytorch_lightning.Trainer`."""

    max_epochs: Count = 1
    max_steps: Annotated[int, AfterValidator(_steps)] = -1
    accumulate_grad_batches: Count = 1
    gradient_clip_val: NonNegative = 1.0
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    deterministic: bool | Literal["warn"] = "warn"
    log_every_n_steps: Count = 1
    """Only then does a step wait for the device; several processes also agree then on a request to stop."""
    validate_every: Count | Annotated[float, Field(gt=0, le=1)] | None = None
    metrics_by: list[str] | None = None
    progress_bar: bool = True


@options
class Checkpoint:
    """Checkpoints to resume from."""

    every_n_steps: Count = 100
    """Optimiser steps between two checkpoints; one more is written when the run is asked to stop."""
    keep: bool = False
    """Keep the last checkpoint, and the best, after the run has finished (they hold the optimiser: large)."""
    monitor: str | None = None
    mode: Literal["min", "max"] | None = None
    keep_best: Count = 1
    load_best: bool = False


@options
class Validate:
    """What is validated on while a policy trains."""

    examples: Count | None = None
    generate: Annotated[int, Field(ge=0)] = 0


@options
class EarlyStopping:
    """When training ends because it no longer gets better."""

    patience: Count | None = None
    min_delta: NonNegative = 0.0


@options
class Peft:
    """Adapters in place of training all weights of the language model (LoRA, 2106.09685)."""

    method: Literal["none", "lora", "qlora"] = "none"
    """`qlora`: the language model under the adapters in 4 bits (2305.14314)."""
    rank: Count = 128
    """r of every adapted matrix: all linear layers of the language model, none of the vision tower."""
    alpha: Count = 256
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    seed: Seed = 0
    """Seed of the adapters' initial weights."""

    def refusal(self) -> str:
        """Why this machine cannot do it; empty if it can."""
        if self.method == "qlora" and find_spec("bitsandbytes") is None:
            return "peft=qlora: bitsandbytes is not installed; run pip install 'mmsafe[qlora]', or choose peft=lora"
        return ""


@options
class VisionCache:
    """Whether later epochs find what the frozen vision tower made of an image."""

    store: Literal["none", "memory", "disk"] = "none"
    """`memory`: of this process; `disk`: for every later run with the same tower."""
    max_gib: Positive = 8.0


@options
class Lengths:
    """What happens to examples that are too long."""

    max_length: Count | None = 2048
    on_overlong: Literal["clip", "clip_others", "drop", "error"] = "clip"
    """`clip` takes from the end of the response; prompts are never cut. `clip_others` does so too, but drops an example
    whose chosen response is too long (the BPO paper's released code)."""


@options
class Evaluation:
    """How a model is asked in an evaluation: greedily, as in the paper, unless a temperature is given."""

    max_new_tokens: Count = 256
    batch_size: Count = 16
    temperature: NonNegative = 0.0
    seed: Seed = 0

    def generation(self) -> Generation:
        """With the image in view."""
        return Generation(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            seed=self.seed,
            batch_size=self.batch_size,
            image_view="real",
        )
