"""Which modules and weights of a model see images, which connect them to the language model, and which are that."""

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Parts:
    """Names of the modules and parameters of each part, under the whole model; every weight is in one."""

    vision: tuple[str, ...]
    connector: tuple[str, ...]
    language: tuple[str, ...] = ("model.language_model", "lm_head")

    def of(self, parameter: str) -> str:
        """`vision`, `connector` or `language`, whichever holds this parameter; the longest name that fits decides.

        Raises `KeyError` for a parameter outside all parts.
        """
        fitting = [
            (len(name), part)
            for part in ("vision", "connector", "language")
            for name in getattr(self, part)
            if parameter == name or parameter.startswith(f"{name}.")
        ]
        if not fitting:
            raise KeyError(parameter)
        return max(fitting)[1]

    def connectors(self, model: nn.Module) -> dict[str, nn.Module]:
        """Modules of the connector by name; a parameter outside them is not among them, and stays frozen under LoRA."""
        named = {name: module for name, module in model.named_modules() if name in self.connector}
        for name in [name for name, module in named.items() if isinstance(module, nn.ModuleList)]:
            named |= {f"{name}.{number}": module for number, module in named.pop(name).named_children()}
        return named

    def language_model(self, model: nn.Module) -> Any:
        """The decoder, without its head."""
        return model.get_submodule(self.language[0])
