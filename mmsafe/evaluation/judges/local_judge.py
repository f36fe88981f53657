"""The interface of judges that are checkpoints run on this run's own devices."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from mmsafe.core.options import options
from mmsafe.evaluation.judges.judge import Case, Verdict, unknown
from mmsafe.evaluation.judges.keywords import Keywords
from mmsafe.evaluation.judges.local_checkpoint import LocalCheckpoint, Reply


@options
class LocalJudge(LocalCheckpoint):
    """A checkpoint that says one thing of each conversation; greedy, and independent of how cases are batched.

    Control tokens in prompts and responses are read as plain text: what is judged cannot end its own turn. It can still
    imitate the plain words that a guard's prompt is made of; only the guard's training stands against that.
    """

    def read(self, reply: Reply) -> Verdict:
        """What a reply says; whatever is not exactly a verdict is unknown."""
        return self.published.read(reply.text)

    def verdicts(self, cases: Sequence[Case]) -> Iterator[tuple[int, Verdict]]:
        """By batches of similar length, the longest first."""
        from mmsafe.evaluation.judges.local_model import loaded

        for position, reply in loaded(self).replies(cases, self.batch_size, self.max_length):
            verdict = unknown(error=reply.error) if reply.error else self.read(reply)
            if not (verdict.unknown or self.published.tells_refusal):
                case = cases[position]
                verdict = replace(verdict, refused=Keywords()(case.example, case.response).refused)
            yield position, verdict

    def let_go(self) -> None:
        from mmsafe.evaluation.judges.local_model import let_go

        let_go()
