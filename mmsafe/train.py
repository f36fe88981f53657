"""`python -m mmsafe.train`: train a policy, making first what it needs, and evaluate it at the end."""

from mmsafe.core.endings import show_results
from mmsafe.core.terminal import loading
from mmsafe.experiment.train_config import TrainConfig
from mmsafe.runs.app import entry_point, on_all_devices
from mmsafe.runs.run_context import RunContext
from mmsafe.runs.run_folder import score


def job(config: TrainConfig, run: RunContext) -> float | None:
    """One training job; returns the benchmark's score, or the negative loss without one."""
    if on_all_devices(config.trainer, run, "trainer.", exactly=True):
        return score(run.folder)
    with loading():
        from mmsafe.experiment.train_job import train
    result = train(config, run)
    show_results(run.folder, "python -m mmsafe.report runs={}")
    return result


main = entry_point("train", TrainConfig, job)
if __name__ == "__main__":
    main()
