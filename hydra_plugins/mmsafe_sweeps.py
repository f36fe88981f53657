"""What Hydra finds: the launcher and the sweeper of mmsafe, which are in `mmsafe.sweeps`."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


def _sweep_name(words: Sequence[str]) -> str:
    from mmsafe.sweeps.job import sweep_name

    return sweep_name(words)


OmegaConf.register_new_resolver("sweep_name", _sweep_name, replace=True)


class LocalLauncher(Launcher):
    """Runs jobs as processes of this machine."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take the context and the config of the sweep; every job is a command, so no function is needed."""
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs, and return what came of each."""
        from mmsafe.sweeps.sweep import launch

        return launch(self.config, self.hydra_context.config_loader, job_overrides)


class JobSweeper(Sweeper):
    """Chooses the jobs: every combination once, or by Optuna."""

    def __init__(self, params: Mapping[str, str] | None = None) -> None:
        self.params = params  # read from the config, as the check of the command does

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take the config of the sweep, and set up its launcher."""
        from hydra.core.plugins import Plugins

        from mmsafe.sweeps.sweep import with_fixed_folder

        self.hydra_context, self.config = hydra_context, with_fixed_folder(config)
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=self.config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run the jobs; ends the process with status 1 if any failed."""
        from mmsafe.sweeps.sweep import sweep

        assert self.config is not None  # set up by now
        assert self.launcher is not None
        return sweep(self.config, self.launcher, arguments)
