"""Steering: let a model write on with some neurons changed, and see which parts of speech it writes.

How tokens are drawn is the matter of `generation`, how words are tagged that of `taggers`; here stand the texts beside
those of the intact model and of matched random sets under the same change, all drawn by the same random numbers. This
module knows no statistics: it counts the random sets that moved a tag as far, and the p-values of several tags are not
corrected. It does not know whether a text is any good; the loss that the intact model gives it says how odd it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor
from tqdm.auto import tqdm

from posneurons import models
from posneurons.activations import BATCH_TOKENS
from posneurons.display import Shown
from posneurons.errors import ModelError, PosNeuronsError
from posneurons.generation import Change, ChangeKind, Ids, Sampling, generate, loss_per_token
from posneurons.neurons import NeuronSet
from posneurons.taggers import Tagger, spans

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

PROMPTS = ("The", "It was", "I think that", "She said", "We have", "There is a", "In the morning", "When they")
"""Beginnings that leave open what follows."""


@dataclass(frozen=True, repr=False)
class Steered(Shown):
    """Texts that a model wrote.

    Attributes:
        prompts: what they begin with.
        continuations: what was written after each prompt, the prompt itself left out.
        tokens: the same as ids.
        change: what was done to which neurons; None for the intact model.
        sampling: how tokens were drawn.
    """

    prompts: tuple[str, ...]
    continuations: tuple[tuple[str, ...], ...]
    tokens: tuple[tuple[Ids, ...], ...]
    change: Change | None
    sampling: Sampling


@dataclass(frozen=True, repr=False)
class TagShift(Shown):
    """Which tags a model writes when neurons are changed, beside the intact model and changed random sets.

    A condition is the intact model, the set in question, or one of the random sets, in this order.

    Attributes:
        tagger: who tagged the words.
        tags: every tag that was given, in alphabetical order.
        texts: what was written under each condition.
        words: words of each tag.
        losses: mean loss of a generated token under the intact model, in nats; NaN where nothing was generated.
    """

    tagger: str
    tags: tuple[str, ...]
    texts: tuple[Steered, ...]
    words: Int[ndarray, "condition tag"]
    losses: Float[ndarray, " condition"]

    @property
    def shares(self) -> Float[ndarray, "condition tag"]:
        """Share of each tag in the words of a condition; NaN where it has no words."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.words / self.words.sum(1, keepdims=True))

    @property
    def differences(self) -> Float[ndarray, "condition tag"]:
        """Shares less those of the intact model."""
        shares = self.shares
        return np.asarray(shares - shares[0])

    @property
    def as_far(self) -> Int[ndarray, " tag"]:
        """How many of the random sets moved a tag's share at least as far as the set in question, up or down."""
        size = np.abs(self.differences)
        return np.asarray((size[2:] >= size[1] - 1e-12).sum(0))  # ties, to within rounding, count

    @property
    def p_values(self) -> Float[ndarray, " tag"]:
        """(1 + random sets that moved the share as far) / (1 + random sets), two-sided; NaN without random sets."""
        controls = len(self.texts) - 2
        undefined = np.isnan(self.differences).any(0) | (controls == 0)
        return np.where(undefined, np.nan, (1 + self.as_far) / (1 + controls))

    def to_frame(self) -> pd.DataFrame:
        """One row per (set, draw, tag): words, share, difference, loss per token; p and the count of sets for the key.

        `set` is "intact", "key" or "matched"; draw is 0 for the first two and counts the matched ones from 1.
        """
        import pandas as pd

        n_conditions, n_tags = self.words.shape
        sets = ["intact", "key", *["matched"] * (n_conditions - 2)]
        frame = pd.DataFrame(
            {
                "set": np.repeat(np.array(sets, dtype=object), n_tags),
                "draw": np.repeat([0, *range(n_conditions - 1)], n_tags),
                "tag": np.tile(np.array(self.tags, dtype=object), n_conditions),
                "words": self.words.ravel(),
                "share": self.shares.ravel(),
                "difference": self.differences.ravel(),
                "loss_per_token": np.repeat(self.losses, n_tags),
                "controls_as_far": np.nan,
                "p_value": np.nan,
            }
        )
        key = frame["set"] == "key"
        frame.loc[key, "controls_as_far"] = self.as_far.astype(np.float64)
        frame.loc[key, "p_value"] = self.p_values
        return frame

    def figure(self) -> go.Figure:
        """How far each tag's share of the written words moves, beside the random sets."""
        from posneurons.effect_figures import shift

        return shift(self.to_frame())

    def texts_frame(self) -> pd.DataFrame:
        """One row per text: set, draw, prompt, number of the continuation, and the continuation."""
        import pandas as pd

        rows = [
            ("intact" if number == 0 else "key" if number == 1 else "matched", max(0, number - 1), prompt, nth, text)
            for number, each in enumerate(self.texts)
            for prompt, texts in zip(each.prompts, each.continuations, strict=True)
            for nth, text in enumerate(texts)
        ]
        return pd.DataFrame(rows, columns=["set", "draw", "prompt", "continuation", "text"])

    def lines(self) -> list[str]:
        """The shift in a few lines of text, the tag that moved furthest first."""
        shares, moved = self.shares, self.differences[1]
        controls = len(self.texts) - 2
        found = [f"{'tag':<8}{'intact':>8}{'changed':>9}{'shift':>8}   random sets that moved it as far"]
        order = np.argsort(-np.abs(moved), kind="stable")
        found += [
            f"{self.tags[tag]:<8}{shares[0, tag]:>8.3f}{shares[1, tag]:>9.3f}{moved[tag]:>+8.3f}   "
            f"{self.as_far[tag]} of {controls}"
            for tag in order
        ]
        random = f", random sets {np.mean(self.losses[2:]):.2f} on average" if controls else ""
        found.append(f"Nats per token in the intact model: {self.losses[0]:.2f}, changed {self.losses[1]:.2f}{random}")
        return found


def encode(model: Any, prompts: Sequence[str]) -> list[Ids]:
    """Prompts as token ids with BOS. Raises ModelError where the model's tokenizer reads no text."""
    if not callable(getattr(model, "tokenizer", None)):
        raise ModelError(
            f"{models.describe(model).name}: its tokenizer reads no text; give token ids to `steering.generate`"
        )
    bos = models.bos_id(model)
    found = model.tokenizer(list(prompts), add_special_tokens=False)["input_ids"] if prompts else []
    return [(bos, *ids) for ids in found]


def _decode(model: Any, start: Ids, ids: Ids) -> str:
    """A continuation as text; read after its prompt, because some tokenizers drop a space at the beginning."""

    def text(tokens: Ids) -> str:
        return str(model.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    before, whole = text(start), text(start + ids)
    return whole[len(before) :] if whole.startswith(before) else text(ids)


def steer(
    model: Any,
    prompts: Sequence[str],
    neurons: NeuronSet,
    *,
    change: ChangeKind = "scale",
    value: float | Sequence[float] = 2.0,
    steps: int | None = None,
    spread: Float[Tensor, "layer neuron"] | None = None,
    tokens: int = 32,
    continuations: int = 8,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
    batch_tokens: int = BATCH_TOKENS,
    progress: bool = False,
) -> Steered:
    """Let a model continue prompts while neurons are changed at every position after BOS.

    An empty prompt is BOS alone, which is never changed, so that its first token is the intact model's. A text ends
    where the model ends it.

    Args:
        model: what `load_model` gives.
        prompts: beginnings, no two the same.
        neurons: which are changed; with none the model is intact.
        change: "scale" by the value, "clamp" to it, or "add" it.
        value: one number, or one for each generated token, after the last of which the model is intact again.
        steps: change the prompt and the first so many generated tokens only; None for all.
        spread: for "add", each neuron's standard deviation (`activations.token_statistics(...).sd`): the value counts
            these. None adds the value as it is.
        tokens: how many are generated for each text.
        continuations: texts for each prompt.
        temperature: of the softmax; 0 takes the most likely token.
        top_k: draw among so many of the most likely tokens; None for all.
        seed: the same gives the same random numbers, whatever is changed.
        batch_tokens: size of a batch.
        progress: show a bar.

    Returns:
        The texts.

    Raises:
        NeuronError: where the change is unknown, a value is no finite number, or a neuron lies outside the model.
        PosNeuronsError: where a prompt comes twice or is too long, or a number is out of range.
        ModelError: where the model's tokenizer reads no text.
    """
    sampling = Sampling(tokens, continuations, temperature, top_k, seed)
    done = _change(neurons, change, value, steps, spread, tokens)
    return _steered(model, tuple(prompts), encode(model, prompts), done, sampling, batch_tokens, progress)


def _change(
    neurons: NeuronSet,
    kind: ChangeKind,
    value: float | Sequence[float],
    steps: int | None,
    spread: Float[Tensor, "layer neuron"] | None,
    tokens: int,
) -> Change:
    if steps is not None and steps < 1:
        raise PosNeuronsError(f"steering: steps={steps}; expected at least 1, or None for all")
    values = [value] * tokens if isinstance(value, int | float) else list(value)
    return Change(neurons, kind, tuple(map(float, values[:steps])), spread)


def _steered(
    model: Any,
    prompts: tuple[str, ...],
    starts: list[Ids],
    change: Change | None,
    sampling: Sampling,
    batch: int,
    progress: bool = False,
) -> Steered:
    end = getattr(model.tokenizer, "eos_token_id", None)
    how: dict[str, Any] = {"sampling": sampling, "batch_tokens": batch, "progress": progress}
    found = generate(model, starts, change, stop=() if end is None else (end,), **how)
    texts = tuple(tuple(_decode(model, start, ids) for ids in each) for start, each in zip(starts, found, strict=True))
    return Steered(prompts, texts, found, change, sampling)


def tag_shift(
    model: Any,
    prompts: Sequence[str],
    neurons: NeuronSet,
    tagger: Tagger,
    *,
    change: ChangeKind = "scale",
    value: float | Sequence[float] = 2.0,
    steps: int | None = None,
    spread: Float[Tensor, "layer neuron"] | None = None,
    controls: int = 20,
    exclude: NeuronSet | None = None,
    sampling: Sampling | None = None,
    batch_tokens: int = BATCH_TOKENS,
    progress: bool = False,
) -> TagShift:
    """Which tags a model writes with neurons changed, without, and with as many random neurons changed instead.

    Texts are tagged with their prompt before them, and only words that begin after the prompt are counted. A text that
    was cut off may end in a part of a word, which is counted too, under every condition alike.

    Args:
        model: what `load_model` gives.
        prompts: beginnings, no two the same.
        neurons: which are changed.
        tagger: who splits and tags the texts.
        change: "scale" by the value, "clamp" to it, or "add" it.
        value: as in `steer`.
        steps: as in `steer`.
        spread: as in `steer`.
        controls: random sets with as many neurons in each layer; they are not matched in size, so that loud neurons
            have quieter rivals.
        exclude: neurons that no random set may contain; None for those in question.
        sampling: how tokens are drawn, the seed also of the random sets; None for `Sampling()`.
        batch_tokens: size of a batch.
        progress: show a bar.

    Returns:
        The texts of all conditions with their counts of tags.

    Raises:
        NeuronError, PosNeuronsError, ModelError: as `steer`; NeuronError also where no matched sets are left.
    """
    if controls < 0:
        raise PosNeuronsError(f"steering: controls={controls}; expected at least 0")
    sampling = sampling or Sampling()
    info = models.describe(model)
    rng = np.random.default_rng(sampling.seed)
    random = neurons.matched_random(controls, rng, n_layers=info.n_layers, n_units=info.d_mlp, exclude=exclude)
    starts = encode(model, prompts)
    changes = [None, *(_change(each, change, value, steps, spread, sampling.tokens) for each in [neurons, *random])]
    texts = tuple(
        _steered(model, tuple(prompts), starts, each, sampling, batch_tokens, progress)
        for each in tqdm(changes, desc="steering", unit="set", disable=not progress)
    )
    counts = [_count(tagger, each) for each in texts]
    tags = tuple(sorted({tag for each in counts for tag in each}))
    read = tqdm(texts, desc="reading what was written", unit="set", disable=not progress)
    losses = [loss_per_token(model, starts, each.tokens, batch_tokens=batch_tokens) for each in read]
    words = np.array([[each[tag] for tag in tags] for each in counts], dtype=np.int64).reshape(len(texts), len(tags))
    return TagShift(tagger.name, tags, texts, words, np.array(losses))


def _count(tagger: Tagger, steered: Steered) -> Counter[str]:
    """Words of each tag that begin after the prompt."""
    pairs = [
        (len(p), p + text) for p, each in zip(steered.prompts, steered.continuations, strict=True) for text in each
    ]
    count: Counter[str] = Counter()
    for (begin, text), tagged in zip(pairs, tagger.tag([text for _, text in pairs]), strict=True):
        places = spans(text, [word for word, _ in tagged])
        count.update(tag for (start, _), (_, tag) in zip(places, tagged, strict=True) if start >= begin)
    return count
