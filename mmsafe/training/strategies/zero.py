"""DeepSpeed's ZeRO under Lightning."""

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.precision import DeepSpeedPrecision
from pytorch_lightning.strategies import DeepSpeedStrategy
from torch import Tensor

from mmsafe.core.ranks import is_first
from mmsafe.core.settings import Trainer
from mmsafe.models.locate import format_at
from mmsafe.models.model_options import ModelOptions
from mmsafe.models.model_source import Pretrained
from mmsafe.training.checkpoint_files import readable
from mmsafe.training.optimizers.adamw import AdamW
from mmsafe.training.optimizers.optimizer import Optimizer
from mmsafe.training.strategies.parallel import Parallel

log = logging.getLogger(__name__)


class Precision(DeepSpeedPrecision):
    """Lightning's DeepSpeed precision plug-in, with two repairs (docs/adr/0013)."""

    def convert_input(self, data: Any) -> Any:
        """Leaves the batch alone: reference log-probs in bf16 would be wrong in the third digit."""
        return data

    def backward(self, tensor: Tensor, model: Any, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """Lightning has divided the loss by the number of micro-batches; DeepSpeed would do it again."""
        super().backward(tensor, model, optimizer, *args, scale_wrt_gas=False, **kwargs)


class LightningZeRO(DeepSpeedStrategy):
    """Lightning's DeepSpeed strategy, in which a damaged checkpoint is told in one line."""

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        """DeepSpeed reads pickles as they are: only those of one's own runs are safe to continue from."""
        with readable(Path(checkpoint_path)):
            return super().load_checkpoint(checkpoint_path, weights_only)


class ZeRO(Parallel):
    """Optimiser, gradients and weights are split over devices, as far as the stage says."""

    strategy: type[DeepSpeedStrategy] = LightningZeRO
    shards_optimizer = True

    def __init__(
        self, trainer: Trainer, stage: int, offload: bool, bucket_size: int, zero_optimization: dict[str, Any]
    ) -> None:
        super().__init__(trainer)
        self.stage = stage
        self.offload = offload
        self.bucket_size = bucket_size
        self.zero_optimization = zero_optimization
        self.whole = stage < 3
        self.half = self.precision == "bf16-mixed"
        self.engine_precision = self.precision
        self.precision = "bf16-true" if self.half else self.precision

    def lightning(self, batch_size: int) -> dict[str, Any]:
        """Precision comes as a plug-in."""
        strategy = self.strategy(
            config=self.config(batch_size),
            exclude_frozen_parameters=True,  # they come from the model that training starts from
            process_group_backend=self.backend,
        )
        return {"strategy": strategy, "plugins": [Precision(self.engine_precision)]}  # type: ignore[arg-type]

    def config(self, batch_size: int) -> dict[str, Any]:
        """DeepSpeed's config; Lightning adds precision, clipping and accumulation."""
        zero: dict[str, Any] = {
            "stage": self.stage,
            **dict.fromkeys(("contiguous_gradients", "overlap_comm", "reduce_scatter"), True),
            **dict.fromkeys(("reduce_bucket_size", "allgather_bucket_size"), self.bucket_size),
        }
        for part in ("offload_optimizer", "offload_param") if self.offload else ():
            zero[part] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
        return {
            "train_micro_batch_size_per_gpu": batch_size,
            "zero_allow_untested_optimizer": True,
            "zero_optimization": zero | self.zero_optimization,
            "steps_per_print": 1 << 30,
        }

    def loads_in_parts(self, source: ModelOptions) -> bool:
        """Weights are read in parts in stage 3, from a checkpoint that `transformers` reads itself."""
        return self.stage == 3 and isinstance(source, Pretrained) and format_at(source) == "hf"

    def load(self, strategy: Any, load: Callable[[], Any]) -> Any:
        """Weights are split as they are read: no process ever holds all of them."""
        from transformers.integrations.deepspeed import HfDeepSpeedConfig

        strategy._init_config_if_needed()
        in_force = HfDeepSpeedConfig(copy.deepcopy(strategy.config))  # as long as it lives
        model = load()
        del in_force
        parts = [
            (p.ds_tensor.numel(), p.ds_numel) if hasattr(p, "ds_id") else (p.numel(),) * 2 for p in model.parameters()
        ]
        held, whole = (sum(sizes) / 1e6 for sizes in zip(*parts, strict=True))
        log.info("this process holds %.2f M of %.2f M weights", held, whole)
        return model

    def optimizer(self, model: Any, options: Optimizer) -> Any:
        """DeepSpeed's own AdamW where the optimiser's state is offloaded."""
        if not self.offload:
            return super().optimizer(model, options)
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        assert isinstance(options, AdamW)  # no other works on shards
        return DeepSpeedCPUAdam(options.groups(model), lr=options.lr, betas=(options.beta1, options.beta2))

    def gradient_norm(self, module: Any) -> Tensor | None:
        """None: the engine computes the norm in its step."""
        return None

    def stepped_norm(self, module: Any) -> float:
        """The norm that the engine computed, before clipping."""
        engine: Any = module.trainer.strategy.model
        return float(engine.get_global_grad_norm())

    def whole_weights(self, module: Any) -> dict[str, Tensor]:
        """Gathers one weight after the other in stage 3."""
        if self.whole:
            return super().whole_weights(module)
        import deepspeed

        saved = module.policy.state_dict().keys()
        weights = {name: buffer.detach().cpu() for name, buffer in module.policy.named_buffers() if name in saved}
        for name, parameter in module.policy.named_parameters(remove_duplicate=False):  # a head may be tied
            with deepspeed.zero.GatheredParameters(parameter):
                if is_first():
                    weights[name] = parameter.detach().cpu().clone()
        return weights if is_first() else {}
