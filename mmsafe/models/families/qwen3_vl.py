"""Qwen3-VL: as Qwen2.5-VL, with features of earlier vision layers added in the first layers of the language model."""

from typing import Any, ClassVar

from mmsafe.models.families.qwen2_5_vl import TOWER, Qwen25, config_tokens, tiny_processor
from mmsafe.models.parts import Parts
from mmsafe.models.tiny_parts import sized


class Qwen3(Qwen25):
    """DeepStack's mergers belong to the connector, as the merger does."""

    model_types = ("qwen3_vl",)
    processors = ("Qwen3VLProcessor",)
    parts: ClassVar[Parts] = Parts(
        vision=("model.visual",), connector=("model.visual.merger", "model.visual.deepstack_merger_list")
    )

    def tiny(self) -> tuple[Any, Any]:
        from transformers import Qwen3VLConfig, Qwen3VLProcessor

        processor = tiny_processor(Qwen3VLProcessor)
        rope: dict[str, Any] = {"rope_type": "default", "mrope_section": [4, 2, 2], "rope_theta": 1e4}
        config = Qwen3VLConfig(
            vision_config={**TOWER, "depth": 3, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64},
            text_config={**sized(processor.tokenizer), "head_dim": 16, "rope_parameters": rope},
            **config_tokens(processor.tokenizer),
        )
        return config, processor
