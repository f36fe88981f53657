"""Why a row of a data set cannot be used."""


class RowError(Exception):
    """Why a row cannot be used: a `reason` to count and a message, which quotes none of the row's text."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
