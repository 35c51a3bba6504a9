"""What the tests of generation and steering share: neurons, beginnings, and a model that is known."""

from functools import cache

import demo

from posneurons.neurons import NeuronSet
from posneurons.planted import Planted, markov_model
from posneurons.steering import encode

SOME = NeuronSet.from_pairs((layer, 7 * unit) for layer in range(6) for unit in range(20))
TEXTS = ("The", "When they came back to the", "She said", "")
QUICK = {"tokens": 6, "continuations": 2}


@cache
def markov() -> Planted:
    return markov_model(length=40, sentences=8)


@cache
def starts() -> list[tuple[int, ...]]:
    return encode(demo.model(), TEXTS)
