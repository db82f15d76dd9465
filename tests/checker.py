"""What every judge of an exercise must do; test modules inherit it and say which judges."""

from typing import Any, ClassVar

import pytest

from attnlab.teaching.core import CheckFailed, unseen_mistakes


class CheckerTests:
    """``CHECKS`` by name: the check, the right answer, its cases (or what makes them), mistakes."""

    CHECKS: ClassVar[dict[str, tuple[Any, ...]]]

    def test_the_right_answer_passes(self, judged, capsys):
        check, right, _, _ = judged
        check(right)
        assert "Correct" in capsys.readouterr().out

    def test_every_mistake_is_seen_and_named(self, judged):
        _, right, cases, mistakes = judged
        cases = cases() if callable(cases) else cases
        assert len(mistakes) >= 3
        assert unseen_mistakes(reference=right, cases=cases, mistakes=mistakes) == []

    def test_a_mistake_gets_its_sentence(self, judged):
        check, _, _, mistakes = judged
        for mistake in mistakes:
            with pytest.raises(CheckFailed) as failure:
                check(mistake.wrong)
            assert mistake.sentence in str(failure.value)

    def test_an_empty_body_waits_for_the_learner(self, judged):
        def unsolved(*args):
            raise NotImplementedError("Return something.")

        with pytest.raises(NotImplementedError):
            judged[0](unsolved)
