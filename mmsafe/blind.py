"""`python -m mmsafe.blind`: generate the blind responses of a data set, and nothing else."""

from mmsafe.core.endings import show_results
from mmsafe.experiment.blind_config import BlindConfig
from mmsafe.runs.app import entry_point, on_all_devices
from mmsafe.runs.run_context import RunContext


def job(config: BlindConfig, run: RunContext) -> None:
    """Write `blind.jsonl` (`id`, `blind`) into the run folder; training finds the same responses in the cache."""
    if not on_all_devices(config, run):
        from mmsafe.experiment.blind_job import blind

        show_results(blind(config, run), "python -m mmsafe.train, with the same data and model")


main = entry_point("blind", BlindConfig, job)
if __name__ == "__main__":
    main()
