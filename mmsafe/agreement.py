"""`python -m mmsafe.agreement a=JUDGEMENTS b=LABELS`: how far judges agree with one another, or with people."""

from mmsafe.reporting.agreement import AgreementConfig, show_agreement
from mmsafe.runs.app import entry_point

main = entry_point("agreement", AgreementConfig, show_agreement)
if __name__ == "__main__":
    main()
