"""Answers that many plans share: a sweep's jobs ask for the same backbone, data and selection thousands of times."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from ptuning.errors import UserError

Answer = TypeVar("Answer")


class SharedAnswers:
    """Answers by all that decides them, refusals included: each question is asked once."""

    def __init__(self) -> None:
        self._answers: dict[Hashable, Any] = {}
        self._refusals: dict[Hashable, UserError] = {}

    def get(self, question: Hashable, ask: Callable[[], Answer]) -> Answer:
        """Return the answer to a question, asking only if it is a new one.

        Raises
        ------
        ptuning.UserError
            If asking raised one, each time again.
        """
        if question in self._refusals:
            raise self._refusals[question].with_traceback(None)
        if question not in self._answers:
            try:
                self._answers[question] = ask()
            except UserError as error:
                self._refusals[question] = error
                raise
        answer: Answer = self._answers[question]
        return answer
