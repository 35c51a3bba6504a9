"""A neuron page with numbers that are easily checked, and names that would like to be HTML."""

from dataclasses import replace
from typing import Any

from posneurons.neuron_pages import Effect, Excerpt, NeuronPage, Reason, Standing

EVIL = "<script>alert(1)</script>"
NAN = float("nan")


def excerpt(**changes: Any) -> Excerpt:
    """Six tokens of which " cat" is read, and the word of two tokens is predicted."""
    given = Excerpt(
        side="high",
        tokens=("The", " cat", " s", EVIL, " ", "\n"),
        activations=(0.5, 2.0, -1.0, 0.0, 4.0, -0.001),
        read=1,
        word=(2, 3),
        tag="VERB",
        form=f"s{EVIL}",
        sentence=7,
        cut=(False, True),
    )
    return replace(given, **changes)


def page(**changes: Any) -> NeuronPage:
    """Neuron 12 of layer 3: three tags, of which X has no word at all and the evil one is not in the test words."""
    given = NeuronPage(
        layer=3,
        neuron=12,
        n_neurons=4608,
        model="tiny",
        treebank="R&D",
        at="predict",
        split="train",
        effect_split="test",
        tags=("NOUN", EVIL, "X"),
        words=(10, 4, 0),
        means=(0.25, 1.5, NAN),
        edges=(-1.0, 0.0, 1.0, 2.0),
        counts=((1, 9, 0), (0, 0, 4), (0, 0, 0)),
        contexts=(excerpt(), excerpt(side="low", activations=(0.0, -1.0, 0.0, 0.0, 0.0, 0.0))),
        promoted=((" the", 1.25), (EVIL, 0.5)),
        suppressed=(("\n", -2.0),),
        ablation="mean",
        scope="all",
        effects=(Effect(0.004, 0.001, 0.0075, 9), Effect(NAN, NAN, NAN, 0), Effect(NAN, NAN, NAN, 0)),
        ranks=(
            Standing("correlation", (1, 321, None), (0.5, -0.25, NAN)),
            Standing("attribution", (40, 7, None), (2.0, 1.0, NAN)),
        ),
        of=(Reason("correlation", "NOUN", 1),),
        notes=("A note.",),
    )
    return replace(given, **changes)
