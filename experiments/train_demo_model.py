"""How is the embedded model made?  From nothing: tokenizer, data, training, export, in one seeded and resumable run.

Command:  python experiments/train_demo_model.py --text TEXT_DIR --treebank EWT_DIR --out posneurons/demo/model
Cost:     about an hour and 3 GB on two cores with AMX; minutes on a GPU.
Outcome:  a Hugging Face folder of 12 MB (config.json, tokenizer.json, model.safetensors, training_log.jsonl), at most
          1.50 bits per character on ebooks-valid. `experiments/demo_model_card.py` measures it and writes the card.

TEXT_DIR holds ebooks-01..06.txt.xz and ebooks-valid.txt.xz (public-domain books of Standard Ebooks); EWT_DIR holds
UD_English-EWT, of which only the plain text is read. A row is `<|begin_of_text|>` and 255 tokens that begin at a
paragraph (books) or at a sentence (EWT), so that a sentence after BOS, which is what posneurons runs, is what the
model was trained on. The embedded model is the command run twice: with --tokens 23e6, and again with --tokens 27e6,
which goes on from the saved state with the rate that the longer schedule has there.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
LLAMA3_SPLIT = (  # the splitting pattern of Llama 3's tokenizer, github.com/meta-llama/llama-models
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CONFIG = {
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
    "tie_word_embeddings": True,
}
ROWS, CONTEXT = 32, 256


def read_books(folder: Path, pattern: str) -> list[list[str]]:
    """Books as lists of paragraphs."""
    books: list[list[str]] = []
    for path in sorted(folder.glob(pattern)):
        with lzma.open(path, "rt", encoding="utf-8") as file:
            text = file.read()
        books += [[line for line in book.split("\n") if line] for book in text.split("<|doc|>\n") if book.strip()]
    if not books:
        raise SystemExit(f"{folder}: no file matches {pattern}")
    return books


def read_ewt(path: Path) -> list[list[str]]:
    """Documents as lists of sentences, from the `# text` and `# newdoc` lines alone."""
    documents: list[list[str]] = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        if line.startswith("# newdoc"):
            documents.append([])
        elif line.startswith("# text = "):
            documents[-1].append(line.removeprefix("# text = ").strip())
    return documents


def train_tokenizer(texts: Iterator[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE with Llama 3's splitting pattern; BOS is prepended where special tokens are asked for."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"],
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    raw.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=BOS, eos_token=EOS, model_max_length=CONTEXT)


class Rows:
    """One stream of tokens and the places where a row may begin; a row is a pure function of (seed, step)."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, documents: list[list[str]], joiner: str) -> None:
        backend = tokenizer.backend_tokenizer
        pieces: list[np.ndarray] = []
        starts: list[int] = []
        length = 0
        for units in documents:
            texts = [unit if i == 0 or joiner != " " else " " + unit for i, unit in enumerate(units)]
            texts = [text + "\n" for text in texts] if joiner == "\n" else texts
            for encoding in backend.encode_batch(texts, add_special_tokens=False):
                starts.append(length)
                pieces.append(np.array(encoding.ids, dtype=np.uint16))
                length += len(encoding.ids)
            pieces.append(np.array([1], dtype=np.uint16))
            length += 1
        self.tokens = np.concatenate(pieces)
        self.starts = np.array([start for start in starts if start + CONTEXT - 1 <= length])

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Rows that begin at the unit after a uniformly drawn token, so that long and short units weigh by length."""
        anchors = rng.integers(0, self.starts[-1], count)
        begins = self.starts[np.minimum(np.searchsorted(self.starts, anchors), len(self.starts) - 1)]
        body = self.tokens[begins[:, None] + np.arange(CONTEXT - 1)]
        return np.concatenate([np.zeros((count, 1), np.int64), body.astype(np.int64)], axis=1)

    def windows(self, limit: int) -> np.ndarray:
        """Consecutive windows of 255 tokens behind BOS, for validation."""
        count = min(limit, len(self.tokens) // (CONTEXT - 1))
        body = self.tokens[: count * (CONTEXT - 1)].reshape(count, CONTEXT - 1).astype(np.int64)
        return np.concatenate([np.zeros((count, 1), np.int64), body], axis=1)


def batch_at(step: int, seed: int, books: Rows, ewt: Rows, share: float) -> torch.Tensor:
    rng = np.random.default_rng([seed, step])
    from_ewt = int(rng.binomial(ROWS, share))
    parts = [books.draw(rng, ROWS - from_ewt)] + ([ewt.draw(rng, from_ewt)] if from_ewt else [])
    return torch.from_numpy(np.concatenate(parts))


def rate_at(step: int, steps: int, peak: float, warmup: int = 200, decay: float = 0.5) -> float:
    """Linear warm-up, a plateau, and a linear decay to zero over the last `decay` of the run."""
    return peak * min((step + 1) / warmup, 1.0, max(0.0, (steps - step) / (decay * steps)))


class Training:
    """The model, its optimiser and its log; goes on from `state` where a run was stopped."""

    def __init__(self, args: argparse.Namespace, log: Path) -> None:
        self.args, self.log, self.first = args, log, 0
        self.steps = math.ceil(args.tokens / (ROWS * CONTEXT))
        self.checkpoint = args.state / "checkpoint.pt"
        torch.manual_seed(args.seed)
        config = LlamaConfig(**CONFIG, bos_token_id=0, eos_token_id=1, attn_implementation="sdpa", use_cache=False)
        self.model = LlamaForCausalLM(config).to(args.device)
        groups = [
            {"params": [p for p in self.model.parameters() if p.ndim == 2], "weight_decay": 0.1},
            {"params": [p for p in self.model.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=args.rate, betas=(0.9, 0.95), fused=True)
        self.loss = torch.compile(self._loss)
        if self.checkpoint.exists():
            saved = torch.load(self.checkpoint, weights_only=True, map_location=args.device)
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.first = saved["step"]
        else:
            log.write_text("")

    def _loss(self, rows: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.args.device.split(":")[0], dtype=torch.bfloat16):
            logits = self.model(rows).logits
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), rows[:, 1:].flatten())

    def record(self, **fields: object) -> None:
        with self.log.open("a") as file:
            file.write(json.dumps(fields) + "\n")
        sys.stdout.write(json.dumps(fields) + "\n")

    def save(self, step: int) -> None:
        part = self.checkpoint.with_suffix(".part")
        torch.save({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": step}, part)
        part.replace(self.checkpoint)

    @torch.no_grad()
    def validate(self, step: int, valid: dict[str, np.ndarray]) -> None:
        losses = {}
        for name, rows in valid.items():
            parts = torch.from_numpy(rows).to(self.args.device).chunk(3)
            losses[name] = float(np.mean([self.loss(part).item() for part in parts]))
        self.record(step=step, tokens=step * ROWS * CONTEXT, valid_nats=losses)

    def step(self, step: int, rows: torch.Tensor) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(step, self.steps, self.args.rate)
        loss = self.loss(rows.to(self.args.device))
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()

    def run(self, books: Rows, ewt: Rows, valid: dict[str, np.ndarray]) -> None:
        begin, recent = time.time(), []
        for step in range(self.first, self.steps):
            recent.append(self.step(step, batch_at(step, self.args.seed, books, ewt, self.args.ewt_share)))
            done = step + 1
            if done % 50 == 0:
                speed = (done - self.first) * ROWS * CONTEXT / (time.time() - begin)
                self.record(step=done, train_nats=round(float(np.mean(recent)), 4), tokens_per_second=round(speed))
                recent.clear()
            if done % 300 == 0 or done == self.steps:
                self.validate(done, valid)
                self.save(done)


def make_tokenizer(folder: Path, books: list[list[str]], ewt: list[list[str]]) -> PreTrainedTokenizerFast:
    """The tokenizer of a run: trained on a third of the books and on EWT four times over, or read where it exists."""
    if not (folder / "tokenizer.json").exists():
        sample = [unit for book in books[::3] for unit in book] + [unit for doc in ewt * 4 for unit in doc]
        train_tokenizer(iter(sample)).save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--treebank", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--state", type=Path, default=Path("runs/demo_training"), help="where a stopped run resumes from"
    )
    parser.add_argument("--tokens", type=float, default=23e6)
    parser.add_argument("--ewt-share", type=float, default=0.12, help="share of the rows that come from EWT")
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    args.state.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    books_text = read_books(args.text, "ebooks-[0-9]*.txt.xz")
    ewt_text = read_ewt(args.treebank / "en_ewt-ud-train.conllu")
    tokenizer = make_tokenizer(args.state / "tokenizer", books_text, ewt_text)
    books, ewt = Rows(tokenizer, books_text, "\n"), Rows(tokenizer, ewt_text, " ")
    valid = {
        "ebooks-valid": Rows(tokenizer, read_books(args.text, "ebooks-valid.txt.xz"), "\n").windows(96),
        "ewt-dev": Rows(tokenizer, read_ewt(args.treebank / "en_ewt-ud-dev.conllu"), " ").windows(96),
    }
    training = Training(args, args.out / "training_log.jsonl")
    training.record(
        config=CONFIG, first_step=training.first, tokens=training.steps * ROWS * CONTEXT, steps=training.steps,
        rate=args.rate, ewt_share=args.ewt_share, seed=args.seed, device=args.device, torch=torch.__version__,
        threads=torch.get_num_threads(), book_tokens=len(books.tokens), ewt_tokens=len(ewt.tokens),
    )  # fmt: skip
    training.run(books, ewt, valid)
    training.model.to(torch.bfloat16).save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)


if __name__ == "__main__":
    main()
