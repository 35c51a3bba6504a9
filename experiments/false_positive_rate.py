"""Are the claims honest where there is nothing to find?

Command:  python experiments/false_positive_rate.py [--simulations 200] [--seed 0]
Cost:     about a minute on one core; pure simulation, no model is read.
Outcome:  where no set is about its tag, all three tests together call at most 0.1 % of the pairs of tags a strong
          dissociation and find none in any study after correction, also with skewed effects; both contrasts have to
          pass, so that is far below 5 %. Flips of the signs of clusters alone call nearly every cell significant, as
          every set has some effect. Against random sets, three quarters of the cells of sets that are merely strong
          are significant; against the sets of the other tags 5 % are, or 8 % with skewed effects. All three together
          keep to 5 % for cells where effects are normal; where they are skewed, correct cells by "by". The rank
          among 20 random sets never survives a correction. Sets that are 6 spreads higher on their own tag are found.

A study has a set for each tag, matched random sets for each, and words in clusters. The true effect of a set on a tag
is random; half of its variance is the set's strength, the same for all tags. What is measured adds noise of words.
`rates` takes any studies of this form, measured ones too.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from posneurons.dissociation import crawford_howell_p, rank_p, within_tag_contrasts
from posneurons.significance import intersection_union, q_values, sign_flip_p

ALPHA = 0.05


class Study(NamedTuple):
    """What a lesion study measures."""

    sums: Float[ndarray, "cluster tag tag"]
    """[cluster, lesioned tag, measured tag] rises of the loss, summed over words."""
    counts: Float[ndarray, "cluster tag"]
    """[cluster, measured tag] words."""
    controls: Float[ndarray, "draw tag tag"]
    """[draw, lesioned tag, measured tag] rise per word under each matched random set."""


class Rate(NamedTuple):
    """How often one kind of test calls something significant, over studies."""

    claim: str
    test: str
    share: float
    """Of cells, or of pairs of tags, with p <= ALPHA."""
    error: float
    """Standard error of the share over studies."""
    any_bh: float
    """Share of studies in which any cell or pair has q <= ALPHA, Benjamini and Hochberg."""
    any_by: float
    """The same, Benjamini and Yekutieli."""


class Scenario(NamedTuple):
    """Where sets come from; effects in nats per word."""

    name: str
    strength: float = 1.0
    """Effect and spread of the tags' sets, in those of the random sets."""
    own: float = 0.0
    """What a set does to its own tag beyond that, in spreads of the tags' sets; 0 where there is nothing to find."""
    skewed: bool = False
    """Effects follow an exponential distribution in place of a normal one."""


SCENARIOS = (
    Scenario("(a) random sets"),
    Scenario("(b) ranking on shuffled tags: 3 times as strong", strength=3),
    Scenario("(c) as (a), skewed effects", skewed=True),
    Scenario("(d) as (b), skewed effects", strength=3, skewed=True),
    Scenario("for comparison: as (b), own tag 6 spreads higher", strength=3, own=6),
)


def simulate(
    scenario: Scenario, rng: np.random.Generator, *, tags: int, clusters: int, controls: int, noise: float
) -> Study:
    """One study; effects of random sets have mean 0.2 and standard deviation 0.1, words deviate by `noise`."""

    def effects(n: int) -> Float[ndarray, "draw tag tag"]:
        shapes = (n, tags, 1), (n, tags, tags)
        own, each = (rng.exponential(size=s) - 1 if scenario.skewed else rng.normal(size=s) for s in shapes)
        return 0.2 + 0.1 * (own + each) / np.sqrt(2)

    counts = rng.poisson(2.0, (clusters, tags)).astype(float)
    counts[0] += 1  # no tag without words
    true = scenario.strength * (effects(1)[0] + 0.1 * scenario.own * np.eye(tags))
    sums = counts[:, None] * true + noise * np.sqrt(counts)[:, None] * rng.normal(size=(clusters, tags, tags))
    drawn = effects(controls)
    return Study(sums, counts, drawn + noise / np.sqrt(counts.sum(0)) * rng.normal(size=drawn.shape))


def p_values(study: Study, draws: int, rng: np.random.Generator) -> dict[tuple[str, str], Float[ndarray, "tag tag"]]:
    """P-values of one study by (claim, test): of all cells, and of both contrasts of all pairs of tags."""
    rises = study.sums.sum(0) / study.counts.sum(0)
    items = sign_flip_p(study.sums, draws=draws, rng=rng, one_sided=True)
    random = crawford_howell_p(rises, study.controls, "greater")
    others = np.array(
        [
            [
                crawford_howell_p(rises[n, [j]], np.delete(rises[:, [j]], [n, j], 0), "greater")[0]
                for j in range(len(rises))
            ]
            for n in range(len(rises))
        ]
    )
    found = within_tag_contrasts(study.sums, study.counts, draws=draws, rng=rng, controls=study.controls)
    p_items, p_controls, p_others = (
        intersection_union(p, p.T) for p in (found.p_items, found.p_controls, found.p_others)
    )
    return {
        ("cell", "items"): items,
        ("cell", "random sets"): random,
        ("cell", "rank among random sets"): rank_p(rises, study.controls),
        ("cell", "other tags' sets"): others,
        ("cell", "items and random sets"): intersection_union(items, random),
        ("cell", "all three"): intersection_union(items, random, others),
        ("dissociation", "items"): p_items,
        ("dissociation", "items and random sets"): intersection_union(p_items, p_controls),
        ("dissociation", "items and other tags' sets"): intersection_union(p_items, p_others),
        ("dissociation", "all three"): intersection_union(p_items, p_controls, p_others),
    }


def rates(studies: Iterable[Study], *, draws: int, rng: np.random.Generator) -> Iterator[Rate]:
    """How often each kind of test calls something significant.

    Args:
        studies: measured or simulated, of any size.
        draws: sign flips; after correction nothing can be significant where they are fewer than the pairs over ALPHA.
        rng: the source of randomness.
    """
    shares: dict[tuple[str, str], list[tuple[float, bool, bool]]] = {}
    for study in studies:
        for key, p in p_values(study, draws, rng).items():
            hits = [bool((q_values(p, method) <= ALPHA).any()) for method in ("bh", "by")]
            share = float((p[~np.isnan(p)] <= ALPHA).mean())
            shares.setdefault(key, []).append((share, hits[0], hits[1]))
    for (claim, test), each in shares.items():
        share, any_bh, any_by = np.mean(each, axis=0)
        error = np.std([first for first, _, _ in each]) / np.sqrt(len(each))
        yield Rate(claim, test, float(share), float(error), float(any_bh), float(any_by))


def table(found: Sequence[Rate]) -> str:
    """A Markdown table."""
    lines = [
        "| claim | test | p <= .05 | studies with any q <= .05 (BH) | (BY) |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for rate in found:
        share = f"{100 * rate.share:.2f} ± {100 * rate.error:.2f} %"
        lines.append(
            f"| {rate.claim} | {rate.test} | {share} | {100 * rate.any_bh:.1f} % | {100 * rate.any_by:.1f} % |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=200, help="studies per scenario")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tags", type=int, default=12)
    parser.add_argument("--clusters", type=int, default=100)
    parser.add_argument("--controls", type=int, default=20, help="random sets per tag")
    parser.add_argument("--noise", type=float, default=0.3, help="of a word, in nats")
    parser.add_argument("--draws", type=int, default=2000, help="sign flips")
    options = parser.parse_args()
    sys.stdout.write(
        f"{options.simulations} studies of {options.tags} tags, {options.clusters} clusters, "
        f"{options.controls} random sets per tag, {options.draws:,} sign flips, seed {options.seed}\n\n"
    )
    sizes = {name: getattr(options, name) for name in ("tags", "clusters", "controls", "noise")}
    for scenario in SCENARIOS:
        begin, rng = time.perf_counter(), np.random.default_rng(options.seed)
        studies = (simulate(scenario, rng, **sizes) for _ in range(options.simulations))
        found = list(rates(studies, draws=options.draws, rng=rng))
        sys.stdout.write(f"### {scenario.name}\n\n{table(found)}\n\n{time.perf_counter() - begin:.0f} s\n\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
