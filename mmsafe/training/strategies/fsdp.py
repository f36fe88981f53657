"""PyTorch's FSDP2 under Lightning."""

from typing import Any

import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from mmsafe.core.settings import Trainer
from mmsafe.models.family import family_of
from mmsafe.training.strategies.parallel import Parallel


class FullySharded(Parallel):
    """Every device holds a part of each weight, gradient and moment; layers are gathered as they run."""

    whole = False
    shards_optimizer = True

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(trainer)
        self.half = self.precision == "bf16-mixed"
        self.precision = "bf16-true" if self.half else self.precision

    def lightning(self, batch_size: int) -> dict[str, Any]:
        """Lightning is told fp32: the weights are cast when they are gathered."""
        strategy = ModelParallelStrategy(
            data_parallel_size=self.trainer.processes,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=self.backend,
        )
        return {"strategy": strategy, "precision": "32-true"}

    def shard(self, module: Any) -> None:
        """Every decoder layer is a unit, and what is left belongs to `module`, whose forward therefore has to run.

        The tower is left too: as a unit it would be of a class for which `transformers` records no hidden states.
        """
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if self.half else MixedPrecisionPolicy()
        assert module.device_mesh is not None
        model, mesh = module.policy, module.device_mesh["data_parallel"]
        if self.half:
            model.float()  # the masters; as precise as what was loaded
        parts = family_of(model.config.model_type).parts
        language, head = parts.language_model(model), model.lm_head
        tied = head.weight is language.get_input_embeddings().weight  # has to be in one unit, that of `module`
        heads = [] if tied else [head]
        for unit in (*language.layers, *parts.connectors(model).values(), *heads, module):
            fully_shard(unit, mesh=mesh, mp_policy=policy)

    def gradient_norm(self, module: Any) -> Tensor | None:
        norm = super().gradient_norm(module)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def whole_weights(self, module: Any) -> dict[str, Tensor]:
        return get_model_state_dict(module.policy, options=StateDictOptions(full_state_dict=True, cpu_offload=True))  # type: ignore[return-value]
