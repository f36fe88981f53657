"""`python -m mmsafe.train`: train a policy, making first what it needs, and evaluate it at the end."""

from __future__ import annotations

from omegaconf import DictConfig

from mmsafe.core import ranks
from mmsafe.core.errors import UserError
from mmsafe.experiment.train_config import TrainConfig
from mmsafe.runs.app import launch, on_all_devices
from mmsafe.runs.run_folder import score


def run(config: TrainConfig, cfg: DictConfig) -> float | None:
    """One training job; returns the benchmark's score, or the negative loss without an evaluation."""
    if config.trainer.processes > 1 and not ranks.started():
        return score(on_all_devices(config.trainer, "trainer."))
    if ranks.started() and ranks.world_size() != config.trainer.processes:
        wanted = f"{config.trainer.devices} x trainer.num_nodes={config.trainer.num_nodes}"
        raise UserError(f"trainer.devices={wanted}: torchrun or SLURM started {ranks.world_size()} processes instead")
    from mmsafe.experiment.train_job import train

    return train(config, cfg)


def main() -> None:
    """Entry point."""
    launch("train", TrainConfig, run)


if __name__ == "__main__":
    main()
