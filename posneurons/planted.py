"""Models with known answers: the record of one, and one built by hand.

`markov_model` predicts a Markov source: each tag's neurons carry ln(P(tag | tag before) / P(tag)), so that next-word
probabilities are Bayes-optimal and every lesion has a closed form. The residual stream is [tag of this token | logits
of the next tag | word flags | sharpness | unread | a huge constant]; the constant makes the norms linear and holds the
gates open. Beside the neurons that work stand decoys that only look like it. A trained model with neurons grafted in is
the matter of `grafts`, and how methods fare on either that of `scoring`; this module knows no ranking.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from posneurons import models
from posneurons.display import Shown
from posneurons.errors import NeuronError
from posneurons.markov import MarkovSource, expected_lesion_matrix, expected_rise, markov_source
from posneurons.neurons import NeuronSet
from posneurons.records import Corpus
from posneurons.words import At

if TYPE_CHECKING:
    import plotly.graph_objects as go

CONSTANT = 2.0**20
"""The constant of the residual stream; its square swallows the others in float32, so norms are linear exactly."""

OPEN = 64.0
"""Gate before its activation function: silu(64) is 64, to the last bit of a float64."""

NEVER = -100.0
"""Logit of BOS, which is never predicted."""


@dataclass(frozen=True, repr=False)
class Planted(Shown):
    """A model of which is known what some neurons do.

    Attributes:
        name: for tables.
        model: a HookedTransformer.
        corpus: words with the splits "train" and "test".
        at: where the neurons do their work.
        truth: each tag's neurons that work for it.
        effect: rise of each tag's loss in the split "test", in nats (columns: the corpus' tags), when the neurons of
            one tag of `truth` (rows, in its order) are set to 0; NaN for a tag without words.
        decoys: neurons that do nothing for any one tag, by kind.
        copies: those of the decoys that read what one tag's neurons read and write nothing, by tag.
        redundant: pairs of `truth` of which each does less alone than both together, by kind.
        ignored: neither right nor wrong to name.
        source: where sentences come from, if the model was built by hand.
    """

    name: str
    model: Any
    corpus: Corpus
    at: At
    truth: Mapping[str, NeuronSet]
    effect: Float[ndarray, "lesion tag"]
    decoys: Mapping[str, NeuronSet]
    copies: Mapping[str, NeuronSet] = field(default_factory=dict)
    redundant: Mapping[str, NeuronSet] = field(default_factory=dict)
    ignored: NeuronSet = field(default_factory=lambda: NeuronSet.parse([]))
    source: MarkovSource | None = None

    def figure(self) -> go.Figure:
        """What lesions of each tag's neurons do, known beforehand."""
        from posneurons.effect_figures import expected

        return expected(self.effect, tuple(self.truth), self.corpus.tags)


class _Tokenizer:
    """Stands in for a tokenizer: the words of a constructed model have numbers and no text."""

    name_or_path, bos_token_id, padding_side = "markov", 0, "right"


@dataclass
class _Unit:
    """A neuron by the parts of the residual stream that its gate and its linear input read, and that it writes."""

    layer: int
    gate: ndarray
    linear: ndarray
    out: ndarray


class _Parts:
    """Which dimensions of the residual stream hold what; every method gives a vector over them."""

    def __init__(self, n_tags: int, n_flags: int, n_unread: int) -> None:
        sizes = {"tag": n_tags, "next": n_tags, "flag": n_flags, "sharp": 1, "unread": n_unread, "constant": 1}
        self.size = sum(sizes.values())
        stops = np.cumsum(list(sizes.values()))
        self.where = {name: slice(stop - size, stop) for (name, size), stop in zip(sizes.items(), stops, strict=True)}

    def of(self, name: str, values: Any) -> Float[ndarray, " d_model"]:
        vector = np.zeros(self.size)
        vector[self.where[name]] = values
        return vector

    def one(self, name: str, number: int, value: float = 1.0) -> Float[ndarray, " d_model"]:
        vector = np.zeros(self.size)
        vector[self.where[name].start + number] = value
        return vector


class _Design:
    """The neurons of the constructed model, one list per kind and tag, before they are dealt to units."""

    def __init__(self, source: MarkovSource, n_layers: int, n_flags: int, n_unread: int, rng: np.random.Generator):
        self.source, self.n_layers, self.n_unread, self.rng = source, n_layers, n_unread, rng
        self.parts = _Parts(len(source.tags), n_flags, n_unread)
        self.opened = self.parts.of("constant", OPEN / CONSTANT)
        self.one = self.parts.of("constant", 1 / CONSTANT)

    def _layer(self) -> int:
        return int(self.rng.integers(self.n_layers))

    def _unread(self, size: float) -> ndarray:
        direction = self.rng.normal(size=self.n_unread)
        return self.parts.of("unread", size * direction / np.linalg.norm(direction))

    def _job(self, tag: int, share: ndarray | float, layer: int) -> _Unit:
        linear = self.parts.of("tag", self.source.lift[:, tag] * share)
        return _Unit(layer, self.opened, linear, self.parts.one("next", tag, 1 / OPEN))

    def jobs(self, tag: int, per_tag: int) -> list[_Unit]:
        """Neurons that write the lift together, each in its own measure by the tag before; each helps where it can."""
        for _ in range(100):
            drawn = self.rng.dirichlet(np.full(per_tag, 2.0), size=len(self.source.tags))
            shares = 0.5 / per_tag + 0.5 * drawn
            if all(expected_rise(self.source, tag, share) > 0 for share in shares.T):
                return [self._job(tag, share, self._layer()) for share in shares.T]
        return [self._job(tag, 1 / per_tag, self._layer()) for _ in range(per_tag)]

    def halves(self, tag: int) -> list[_Unit]:
        """Two neurons that do half of the same each."""
        return [self._job(tag, 0.5, self._layer()) for _ in range(2)]

    def backup(self, tag: int) -> list[_Unit]:
        """One neuron that does half in the first layer, and one in the last that adds what is missing, be it all."""
        second = self._job(tag, 1.0, self.n_layers - 1)
        second.linear = second.linear - self.parts.one("next", tag)
        return [self._job(tag, 0.5, 0), second]

    def copy(self, unit: _Unit) -> _Unit:
        """The same activation, and nothing written."""
        return _Unit(unit.layer, unit.gate, unit.linear, np.zeros_like(unit.out))

    def loud(self) -> _Unit:
        """Always on, with a large activation that varies by word, written where nothing is read."""
        return _Unit(self._layer(), self.opened, self.one + self._unread(0.1), self._unread(0.5))

    def word(self, flag: int) -> _Unit:
        """On at one word only."""
        return _Unit(self._layer(), self.parts.one("flag", flag, OPEN), self.one, self._unread(0.05))

    def bos(self, flag: int) -> _Unit:
        """Huge at BOS, and exactly 0 elsewhere."""
        return _Unit(self._layer(), self.parts.one("flag", flag, 100 * OPEN), self.one, self._unread(0.001))

    def sharpener(self, share: float) -> _Unit:
        """Always on; makes frequent words of every tag more likely within their tag, for all tags alike."""
        return _Unit(self._layer(), self.opened, self.one, self.parts.one("sharp", 0, share / OPEN))

    def ordinary(self, layer: int) -> _Unit:
        """Gated by the word, and written where nothing that matters is read."""
        return _Unit(layer, self._unread(1.0), self._unread(1.0), self._unread(0.1))


def _deal(
    units: Mapping[tuple[str, str], list[_Unit]], design: _Design, width: int, rng: np.random.Generator
) -> tuple[list[list[_Unit]], dict[tuple[str, str], NeuronSet]]:
    """Give every neuron a random place in its layer, and fill the other places with ordinary ones."""
    layers = [[(key, unit) for key, each in units.items() for unit in each if unit.layer == la]
              for la in range(design.n_layers)]  # fmt: skip
    if (most := max(map(len, layers))) > width:
        raise NeuronError(
            f"markov_model: width={width}, but a layer holds {most} planted neurons; expected at least that"
        )
    dealt: list[list[_Unit]] = []
    pairs: dict[tuple[str, str], list[tuple[int, int]]] = {key: [] for key in units}
    for layer, special in enumerate(layers):
        places = rng.permutation(width)
        row = [design.ordinary(layer) for _ in range(width)]
        for (key, unit), place in zip(special, places, strict=False):
            row[place] = unit
            pairs[key].append((layer, int(place)))
        dealt.append(row)
    return dealt, {key: NeuronSet.from_pairs(each) for key, each in pairs.items()}


def _weights(
    source: MarkovSource, dealt: list[list[_Unit]], design: _Design, flagged: Int[ndarray, " flag"], sharpness: float
) -> dict[str, ndarray]:
    """All weights by TransformerLens's names; a normalised residual is the residual times sqrt(d) / CONSTANT."""
    parts, (n_tags, n_words), rng = design.parts, (len(source.tags), len(source.zipf)), design.rng
    scale, tag = CONSTANT / parts.size**0.5, np.repeat(np.arange(n_tags), n_words)
    embed = np.zeros((1 + n_tags * n_words, parts.size))
    embed[1 + np.arange(len(tag)), tag] = 1
    embed[flagged, parts.where["flag"].start + np.arange(len(flagged))] = 1
    embed[1:, parts.where["unread"]] = rng.normal(size=(len(tag), design.n_unread))
    embed[:, parts.where["constant"]] = CONSTANT
    lexical = np.tile(np.log(source.zipf), n_tags)
    unembed = np.zeros((parts.size, len(embed)))
    unembed[parts.where["next"].start + tag, 1 + np.arange(len(tag))] = scale
    unembed[parts.where["sharp"], 1:] = scale * lexical
    bias = np.append(NEVER, np.log(source.stationary)[tag] + (1 - sharpness) * lexical)
    weights = {"embed.W_E": embed, "unembed.W_U": unembed, "unembed.b_U": bias, "ln_final.w": np.ones(parts.size)}
    for layer, row in enumerate(dealt):
        block = f"blocks.{layer}"
        weights |= {f"{block}.{norm}.w": np.ones(parts.size) for norm in ("ln1", "ln2")}
        weights |= {f"{block}.attn.W_{name}": np.zeros((1, parts.size, 4)) for name in "QKV"}
        weights[f"{block}.attn.W_O"] = np.zeros((1, 4, parts.size))
        weights[f"{block}.mlp.W_gate"] = np.stack([unit.gate for unit in row], axis=1) * scale
        weights[f"{block}.mlp.W_in"] = np.stack([unit.linear for unit in row], axis=1) * scale
        weights[f"{block}.mlp.W_out"] = np.stack([unit.out for unit in row])
    return weights


def markov_model(
    source: MarkovSource | None = None,
    *,
    n_layers: int = 3,
    width: int = 96,
    per_tag: int = 4,
    decoys: int = 6,
    sentences: int = 400,
    length: int = 24,
    sharpness: float = 0.5,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Planted:
    """A gated Llama that predicts a Markov source as well as can be, with decoys. Its attention does nothing.

    The first tag's neurons are two halves, the second's a neuron and its backup (`redundant`); every other tag has
    `per_tag`. Decoys, by kind: "read_only" (copies), "loud", "word", "bos", and "frequency", which moves the losses of
    all tags alike. Float32 gives probabilities and lesions within 1e-6 of the closed forms.

    Args:
        source: the chain, of at least 2 tags; None for `markov_source(seed=seed)`.
        n_layers: at least 2.
        width: neurons of a layer.
        per_tag: neurons of a tag, and its copies.
        decoys: neurons of each other kind.
        sentences: of the corpus.
        length: words of a sentence.
        sharpness: the share of ln P(word | tag) that the frequency neurons write, in 0..1.
        dtype: of the weights.
        seed: of everything that is drawn.

    Raises:
        NeuronError: where the neurons do not fit into the layers.
    """
    source = source or markov_source(seed=seed)
    if n_layers < 2:
        raise NeuronError(f"markov_model: n_layers={n_layers}; expected at least 2, for a neuron and its backup")
    rng = np.random.default_rng(seed)
    n_words = len(source.tags) * len(source.zipf)
    flagged = np.append(0, 1 + rng.choice(n_words, size=min(decoys, n_words), replace=False))
    design = _Design(source, n_layers, len(flagged), 24, rng)
    jobs = [design.halves(0), design.backup(1), *(design.jobs(k, per_tag) for k in range(2, len(source.tags)))]
    units = {("truth", tag): each for tag, each in zip(source.tags, jobs, strict=True)}
    for tag, each in zip(source.tags, jobs, strict=True):
        units["read_only", tag] = [design.copy(each[number % len(each)]) for number in range(per_tag)]
    units["loud", ""] = [design.loud() for _ in range(decoys)]
    units["word", ""] = [design.word(flag) for flag in range(1, len(flagged))]
    units["bos", ""] = [design.bos(0) for _ in range(decoys)]
    units["frequency", ""] = [design.sharpener(sharpness / decoys) for _ in range(decoys)]
    dealt, places = _deal(units, design, width, rng)
    weights = _weights(source, dealt, design, flagged, sharpness)
    model = models.build_hooked(
        _fields(source, design, width, length, dtype),
        {name: torch.from_numpy(each).to(dtype) for name, each in weights.items()},
    )
    model.tokenizer = _Tokenizer()
    corpus = source.sample(sentences, length, seed)
    copies = {tag: places["read_only", tag] for tag in source.tags}
    return Planted(
        name="markov",
        model=model,
        corpus=corpus,
        at="predict",
        truth={tag: places["truth", tag] for tag in source.tags},
        effect=expected_lesion_matrix(source, corpus.split("test")),
        decoys={"read_only": NeuronSet.parse([]).union(*copies.values())}
        | {kind: places[kind, ""] for kind in ("loud", "word", "bos", "frequency")},
        copies=copies,
        redundant={"halves": places["truth", source.tags[0]], "backup": places["truth", source.tags[1]]},
        source=source,
    )


def _fields(source: MarkovSource, design: _Design, width: int, length: int, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "model_name": "markov",
        "init_weights": False,
        "device": "cpu",
        "dtype": dtype,
        "n_layers": design.n_layers,
        "d_model": design.parts.size,
        "d_mlp": width,
        "n_heads": 1,
        "d_head": 4,
        "n_ctx": length + 1,
        "d_vocab": 1 + len(source.tags) * len(source.zipf),
        "act_fn": "silu",
        "normalization_type": "RMS",
        "final_rms": True,
        "gated_mlp": True,
        "positional_embedding_type": "rotary",
        "rotary_dim": 4,
        "rotary_adjacent_pairs": False,
    }
