"""The next expert is announced three whole steps before its first.

pytest tests/unit/test_ahead.py
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from wan_core.sampling import looking_ahead
from wan_core.sampling.experts import ExpertPlan


@pytest.mark.parametrize(
    ("experts", "told"),
    [
        ("hhhhhhll", {2: ["l"]}),  # after the third step, so during the last three
        ("hhhhll", {0: ["l"]}),
        ("hhhll", {0: ["l"]}),  # not before the first has been loaded and has done a step
        ("hl", {-1: ["l"]}),  # there is no step before: at once
        ("hhll", {0: ["l"]}),
        ("hhh", {}),
        ("lll", {}),
    ],
)
def test_the_next_expert_is_told_once_some_steps_before_it_comes(experts: str, told: dict[int, list[str]]):
    heard: dict[int, list[str]] = {}
    steps: list[int] = []

    def expect(name: str) -> None:
        heard.setdefault(steps[-1] if steps else -1, []).append(name)

    on_step = looking_ahead(ExpertPlan(tuple(experts), None), expect, lambda info: None)
    for index in range(len(experts)):
        steps.append(index)
        on_step(SimpleNamespace(index=index))
    assert heard == told


def test_the_steps_are_passed_on():
    seen: list[int] = []
    plan = ExpertPlan(("h", "l"), 1)
    on_step = looking_ahead(plan, lambda name: None, lambda info: seen.append(info.index))
    for index in range(2):
        on_step(SimpleNamespace(index=index))
    assert seen == [0, 1]
