"""`python -m mmsafe.chat`: talk to a trained model beside its reference, in the terminal or on a local page."""

from mmsafe.experiment.chat_config import ChatConfig
from mmsafe.experiment.chat_job import chat
from mmsafe.runs.app import entry_point

main = entry_point("chat", ChatConfig, chat)
if __name__ == "__main__":
    main()
