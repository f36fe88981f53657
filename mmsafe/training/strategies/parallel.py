"""What training asks of a strategy, and the answer where every device holds a whole model."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor

from mmsafe.core.precision import resolved
from mmsafe.core.settings import Trainer
from mmsafe.models.model_options import ModelOptions
from mmsafe.models.model_source import ModelSource, Pretrained
from mmsafe.models.vlm import VLM
from mmsafe.training.optimizers.optimizer import Optimizer


class Parallel:
    """A whole model on every device."""

    whole = True
    """Whether a device can run the model alone, in training and after it."""

    shards_optimizer = False
    """Whether a device updates a piece of the weights only."""

    half = False
    """Whether forward passes read bf16 weights, whose fp32 masters the optimiser keeps."""

    def __init__(self, trainer: Trainer, *, ddp: bool = False) -> None:
        self.trainer = trainer
        self.ddp = ddp
        self.precision = resolved(trainer)
        """Precision of a forward pass in training; the reference has to be scored in the same one."""

    @property
    def backend(self) -> str | None:
        """Backend of the process group; None leaves it to Lightning."""
        on_cpu = self.trainer.accelerator == "cpu" or not torch.accelerator.is_available()
        return "gloo" if on_cpu else None

    def lightning(self, batch_size: int) -> dict[str, Any]:
        """Arguments of Lightning's trainer, among them `precision` or a plug-in; `batch_size` is that of one device."""
        strategy = DDPStrategy(process_group_backend=self.backend, gradient_as_bucket_view=True)
        return {"strategy": strategy if self.ddp else "auto", "precision": self.precision}

    def loads_in_parts(self, source: ModelOptions) -> bool:
        """Whether each process reads its own part of a model for training, in place of splitting a whole one."""
        return False

    def load(self, strategy: Any, load: Callable[[], Any]) -> Any:
        """The model that is trained where it was not kept from the preparations."""
        return load()

    def shard(self, module: Any) -> None:
        """Split `module.policy`, before the optimiser is made."""

    def optimizer(self, model: Any, options: Optimizer) -> Any:
        """The optimiser of what is trained of `model`."""
        return options.build(model, sharded=self.shards_optimizer, precision=self.precision)

    def gradient_norm(self, module: Any) -> Tensor | None:
        """Norm of the whole gradient before clipping; None where it is known only after the step."""
        gradients = [p.grad for p in module.policy.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def stepped_norm(self, module: Any) -> float:
        """The norm of the last step, where `gradient_norm` gives None."""
        raise NotImplementedError

    def whole_weights(self, module: Any) -> dict[str, Tensor]:
        """The weights of `module.policy` on the CPU of the first process; empty on the others. All have to ask."""
        return {name: tensor.detach().cpu() for name, tensor in module.policy.state_dict().items()}


def loaded_for(parallel: Parallel, source: ModelSource) -> VLM:
    """The model with weights in the type that the forward passes of training read."""
    if not parallel.half:
        return source.load()
    if isinstance(source, Pretrained):
        source = replace(source, dtype="bfloat16")
    vlm = source.load()
    for parameter in vlm.model.parameters():  # not buffers: rotary frequencies in bf16 are wrong by 2e-4
        parameter.data = parameter.data.to(torch.bfloat16)
    vlm.model.config.dtype = torch.bfloat16
    return vlm
