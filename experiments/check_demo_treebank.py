"""Are the tags of the embedded treebank right?  A tagger trained on EWT tags it; every disagreement is listed.

Command:  python experiments/check_demo_treebank.py --treebank EWT_DIR [--demo FOLDER] [--splits train dev test]
Cost:     about three minutes on one core.
Outcome:  a list to read by eye, and the agreement, beside the tagger's own accuracy on EWT test. A disagreement is the
          tagger's error or ours; experiments/LOG.md says how many of ours were found and mended.

The tagger is NLTK's averaged perceptron (Honnibal 2013) on UPOS, trained on EWT train, five passes.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from pathlib import Path

from nltk.tag.perceptron import PerceptronTagger

from posneurons.treebank import load_treebank

DEMO = Path(__file__).parents[1] / "posneurons" / "demo" / "treebank"


def tagged(path: Path, split: str) -> list[list[tuple[str, str]]]:
    return [[(word.form, word.tag) for word in sentence.words] for sentence in load_treebank(path).split(split)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--treebank", type=Path, required=True)
    parser.add_argument("--demo", type=Path, default=DEMO)
    parser.add_argument("--splits", nargs="+", default=["train", "dev", "test"])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    random.seed(args.seed)  # nltk shuffles with the global generator
    tagger = PerceptronTagger(load=False)
    tagger.train(tagged(args.treebank, "train"), nr_iter=5)

    def agreement(sentences: list[list[tuple[str, str]]]) -> tuple[int, int]:
        pairs = [
            (tag, guess)
            for s in sentences
            for (_, tag), (_, guess) in zip(s, tagger.tag([w for w, _ in s]), strict=True)
        ]
        return sum(tag == guess for tag, guess in pairs), len(pairs)

    confusions: Counter[tuple[str, str]] = Counter()
    hits = words = 0
    for split in args.splits:
        for sentence in load_treebank(args.demo).split(split):
            forms = [word.form for word in sentence.words]
            for place, (word, (_, guess)) in enumerate(zip(sentence.words, tagger.tag(forms), strict=True)):
                words += 1
                hits += word.tag == guess
                if word.tag != guess:
                    confusions[word.tag, guess] += 1
                    before, after = " ".join(forms[max(0, place - 5) : place]), " ".join(forms[place + 1 : place + 6])
                    sys.stdout.write(
                        f"{sentence.id}\t{place + 1}\tours {word.tag}\ttagger {guess}\t{before} [{word.form}] {after}\n"
                    )
    test_hits, test_words = agreement(tagged(args.treebank, "test"))
    sys.stdout.write(f"most frequent (ours, tagger): {confusions.most_common(12)}\n")
    sys.stdout.write(f"agreement {hits} of {words}: {hits / words:.4f}; on EWT test {test_hits / test_words:.4f}\n")


if __name__ == "__main__":
    main()
