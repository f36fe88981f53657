"""`python -m mmsafe.export`: write a checkpoint in either format, a LoRA adapter merged into its base; and share it."""

from mmsafe.core.endings import show_results
from mmsafe.experiment.export_config import ExportConfig
from mmsafe.runs.app import entry_point
from mmsafe.runs.run_context import RunContext


def job(config: ExportConfig, run: RunContext) -> None:
    """Write `config.out`, which appears only when it is complete, and upload it where `config.push` says so."""
    from mmsafe.experiment.exporting import export, push

    if config.push and not config.push_dry_run:
        push(config.push)  # refused before work is done
    out = export(config.checkpoint, str(config.out), config.format, base=config.base, allow_pickle=config.allow_pickle)
    if config.push_dry_run:
        print(*(f"would upload {path.relative_to(out)}" for path in out.rglob("*") if path.is_file()), sep="\n")
    elif config.push:
        push(config.push, out)
    show_results(config.out, "python -m mmsafe.evaluate checkpoint={}")


main = entry_point("export", ExportConfig, job)
if __name__ == "__main__":
    main()
