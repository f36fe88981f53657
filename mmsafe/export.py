"""`python -m mmsafe.export`: write a checkpoint in either format, a LoRA adapter merged into its base."""

from mmsafe.core.endings import show_results
from mmsafe.experiment.export_config import ExportConfig
from mmsafe.runs.app import entry_point
from mmsafe.runs.run_context import RunContext


def job(config: ExportConfig, run: RunContext) -> None:
    """Write `config.out`, which appears only when it is complete."""
    from mmsafe.experiment.exporting import export

    export(config.checkpoint, str(config.out), config.format, base=config.base, allow_pickle=config.allow_pickle)
    show_results(config.out, "python -m mmsafe.evaluate checkpoint={}")


main = entry_point("export", ExportConfig, job)
if __name__ == "__main__":
    main()
