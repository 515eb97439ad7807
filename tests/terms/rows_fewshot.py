"""The contract's rows of few-shot and meta-learning."""

from rows import row

from jaxtl.terms import fewshot

_EPISODES = {"task": "episodes"}
_RATES = [{"rate": 0.1}, {"rate": 0.2}]
ROWS = [
    row(fewshot.ProtoNet, **_EPISODES),
    row(fewshot.MatchingNet, {"scale": 1.0}, {"scale": 10.0}, **_EPISODES),
    row(fewshot.RelationNet, **_EPISODES),
    row(fewshot.FEAT, {"temperature": 64.0}, {"temperature": 8.0}, **_EPISODES),
    row(
        fewshot.RidgeHead,
        {"penalty": 1.0, "scale": 1.0},
        {"penalty": 0.5, "scale": 2.0},
        **_EPISODES,
    ),
    row(fewshot.MAML, *_RATES, steps=2, **_EPISODES),
    row(fewshot.FOMAML, *_RATES, steps=2, **_EPISODES),
    row(fewshot.ANIL, *_RATES, steps=2, **_EPISODES),
    row(fewshot.MetaSGD, *_RATES, **_EPISODES),
    row(fewshot.Reptile, *_RATES, steps=2, **_EPISODES),
    row(
        fewshot.IMAML,
        {"rate": 0.1, "strength": 1.0},
        {"rate": 0.2, "strength": 2.0},
        steps=2,
        **_EPISODES,
    ),
]
