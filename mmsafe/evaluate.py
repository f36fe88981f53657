"""`python -m mmsafe.evaluate`: measure a checkpoint on a benchmark."""

from mmsafe.core.endings import show_results
from mmsafe.experiment.evaluate_config import EvaluateConfig
from mmsafe.runs.app import entry_point, on_all_devices
from mmsafe.runs.run_context import RunContext


def job(config: EvaluateConfig, run: RunContext) -> None:
    """Generate, judge, measure; leaves generations.jsonl, judgements.jsonl and metrics.json in the run folder."""
    if not on_all_devices(config, run):
        from mmsafe.experiment.evaluate_job import evaluate_run

        evaluate_run(config, run)
        show_results(run.folder, "python -m mmsafe.samples runs={}")


main = entry_point("evaluate", EvaluateConfig, job)
if __name__ == "__main__":
    main()
