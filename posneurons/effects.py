"""Per-tag sums of per-word effects, and the contrast of a tag with the rest, standardised over clusters.

An effect is what a method estimates that a neuron does for one word, such as the rise of its loss if the neuron were
silenced. Words of one sentence are not independent, so the contrast is divided by its cluster-robust standard error:
m_k - m_rest is a difference of ratio estimates, and a cluster's share in its error is
u_s = (E_sk - n_sk m_k) / n_k - (E_sr - n_sr m_r) / n_r, with E and n the cluster's sums and counts (Liang and Zeger
1986, doi.org/10.1093/biomet/73.1.13). The sum of u_s squared needs only sums that stream, O(tags x neurons).
This module knows tensors and tag numbers, and neither models nor files.
"""

from __future__ import annotations

import warnings
from copy import copy

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from posneurons.records import Scored


class EffectAccumulator:
    """Streaming sums of effects per (layer, tag, neuron), and of their products within clusters.

    Every layer must be given the same words, and all words of a cluster in one update. Sums over the words of a cluster
    are made in float32, their products in float64.
    """

    def __init__(self, n_tags: int, n_layers: int, n_neurons: int, device: torch.device | str = "cpu") -> None:
        self._device = torch.device("cpu") if torch.device(device).type == "mps" else torch.device(device)
        self._n_tags = n_tags

        def table(*sizes: int) -> Tensor:
            return torch.zeros(n_layers, *sizes, dtype=torch.float64, device=self._device)

        # With E a cluster's effect sum, n its words, k a tag and . all tags, per layer and neuron: sums over clusters
        # of E_k | E_k n_k | E_k n_. | E. n_k and E_k E_k | E_k E_. per tag, and of E_., E_. E_., E_. n_. once.
        self._linear = table(4, n_tags, n_neurons)
        self._square = table(2, n_tags, n_neurons)
        self._whole = table(3, n_neurons)
        self._counts = table(n_tags)  # n_k
        self._pairs = table(2, n_tags)  # n_k n_k | n_k n_.
        self._all = table(2)  # n_. n_. | clusters

    def update(
        self,
        layer: int,
        tags: Int[Tensor, " word"],
        clusters: Int[Tensor, " word"],
        effects: Float[Tensor, "word neuron"],
    ) -> None:
        """Add the effects of one batch of words in one layer."""
        if not len(tags):
            return
        cells, cell = torch.unique(clusters * self._n_tags + tags, return_inverse=True)
        words = torch.bincount(cell, minlength=len(cells)).float()
        sums = torch.zeros(len(cells), effects.shape[1], device=effects.device).index_add_(0, cell, effects.float())
        self.update_cells(layer, cells % self._n_tags, cells // self._n_tags, words, sums)

    def update_cells(
        self,
        layer: int,
        tags: Int[Tensor, " cell"],
        clusters: Int[Tensor, " cell"],
        words: Float[Tensor, " cell"],
        sums: Float[Tensor, "cell neuron"],
    ) -> None:
        """Add effects that are summed already over the words of each (cluster, tag)."""
        tags, sums, words = tags.to(self._device), self._exact(sums), self._exact(words)
        _, cluster = torch.unique(clusters.to(self._device), return_inverse=True)
        n_clusters = int(cluster.max()) + 1
        whole = sums.new_zeros(n_clusters, sums.shape[1]).index_add_(0, cluster, sums)
        everyone = sums.new_zeros(n_clusters).index_add_(0, cluster, words)
        onehot = torch.nn.functional.one_hot(tags, self._n_tags).T.double()
        counts = onehot * words  # n_k of each cell; a (cluster, tag) has one cell, so its cluster's n_k too
        by_cluster = sums.new_zeros(self._n_tags, n_clusters).index_add_(1, cluster, counts)
        self._linear[layer, :3] += torch.stack([onehot, counts, onehot * everyone[cluster]]) @ sums
        self._linear[layer, 3] += by_cluster @ whole
        self._square[layer, 0] += onehot @ sums.square()
        self._square[layer, 1] += onehot @ (sums * whole[cluster])
        self._whole[layer] += torch.stack([whole.sum(0), whole.square().sum(0), everyone @ whole])
        self._counts[layer] += counts.sum(1)
        self._pairs[layer] += torch.stack([by_cluster.square().sum(1), by_cluster @ everyone])
        self._all[layer] += torch.stack([everyone.square().sum(), everyone.new_tensor(n_clusters)])

    def merged(self, other: EffectAccumulator) -> EffectAccumulator:
        """The sums over the words of both, which must share no cluster."""
        both = copy(self)
        for name in ("_linear", "_square", "_whole", "_counts", "_pairs", "_all"):
            setattr(both, name, getattr(self, name) + getattr(other, name))
        return both

    def _exact(self, values: Tensor) -> Tensor:
        return values.to(self._device).double()

    def count(self) -> Int[ndarray, " tag"]:
        """Words of each tag. Raises RuntimeError where layers were given different words."""
        if not (self._counts == self._counts[0]).all():
            raise RuntimeError("the layers have seen different words")
        return self._counts[0].cpu().numpy().round().astype(np.int64)

    def mean(self) -> Scored:
        """Mean effect over each tag's words; NaN for a tag without words."""
        count = self.count()
        sums = rearrange(self._linear[:, 0], "layer tag neuron -> tag layer neuron").cpu().numpy()
        with np.errstate(invalid="ignore", divide="ignore"):
            return Scored(sums / count[:, None, None].astype(np.float64), count)

    def contrast(self, *, floored: bool = True) -> Scored:
        """The t of the mean effect on the tag's words minus that on all others, over clusters; NaN where undefined.

        Undefined are tags with no word or every word, and neurons without any effect. With few clusters of a tag the
        standard error is too small, so a score is for ranking, not a test.

        Args:
            floored: add the tag's mean standard error over all neurons to each one's own, so that neurons whose
                effect is tiny but steady do not come first (after the constant of Tusher, Tibshirani and Chu 2001,
                doi.org/10.1073/pnas.091062498). Without it the score is the plain t.
        """
        count = self.count()
        parts = [self._contrast_of_layer(layer) for layer in range(len(self._linear))]
        difference, error = (torch.stack(each, dim=1).cpu().numpy() for each in zip(*parts, strict=True))
        if floored and not np.isnan(error).all():
            with warnings.catch_warnings():  # a tag without words has no mean
                warnings.simplefilter("ignore", RuntimeWarning)
                error = error + np.nanmean(error, axis=(1, 2), keepdims=True)
        return Scored(difference / error, count)

    def _contrast_of_layer(self, layer: int) -> tuple[Float[Tensor, "tag neuron"], Float[Tensor, "tag neuron"]]:
        """The difference of means and its standard error."""
        e_k, e_k_n_k, e_k_n, e_n_k = self._linear[layer]
        e_k2, e_k_e = self._square[layer]
        e, e2, e_n = self._whole[layer]
        n_k = self._counts[layer][:, None]
        n_k2, n_k_n = self._pairs[layer][..., None]
        n2, clusters = self._all[layer]
        n = n_k.sum()
        rest = n - n_k
        mean_k, mean_r = e_k / n_k, (e - e_k) / rest
        # u_s = p E_sk - q E_s. - a n_sk + b n_s., because E_sr = E_s. - E_sk and n_sr = n_s. - n_sk.
        p, q = 1 / n_k + 1 / rest, 1 / rest
        a, b = mean_k / n_k + mean_r / rest, mean_r / rest
        variance = (
            p**2 * e_k2 + q**2 * e2 + a**2 * n_k2 + b**2 * n2
            - 2 * p * q * e_k_e - 2 * p * a * e_k_n_k + 2 * p * b * e_k_n
            + 2 * q * a * e_n_k - 2 * q * b * e_n - 2 * a * b * n_k_n
        )  # fmt: skip
        variance = variance.clamp(min=0) * clusters / (clusters - 1)
        defined = (n_k > 0) & (rest > 0) & (variance > 0)
        return torch.where(defined, mean_k - mean_r, torch.nan), torch.where(defined, variance.sqrt(), torch.nan)
