"""The contract's rows of few-shot and meta-learning."""

from rows import row

from jaxtl.terms import fewshot

_EPISODES = {"task": "episodes"}
ROWS = [
    row(fewshot.ProtoNet, **_EPISODES),
    row(fewshot.MatchingNet, {"scale": 1.0}, {"scale": 10.0}, **_EPISODES),
]
