"""The loss of every word under every lesion, streamed to a parquet file that is there whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int
from numpy import ndarray

from posneurons.files import whole
from posneurons.records import Corpus
from posneurons.words import Measure


class LossTable:
    """A file with a row for each (condition, word): its labels, the word with its tag, form, sentence and document, and
    a column per loss.

    Used as a context; `add` takes what `lesions.stream_losses` hands out. The file gets its name when the context ends
    without an exception, and is removed when it does not.

    Args:
        path: of the file.
        corpus: whose words are numbered.
        labels: per condition its column values, such as lesion, set and draw; all with the same columns.
        intact: the same for the intact run.
        measures: names of the losses, in nats, float32.

    Raises:
        RunError: where the disk is full or the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        corpus: Corpus,
        labels: Sequence[dict[str, str | int]],
        intact: dict[str, str | int],
        measures: Sequence[Measure],
    ) -> None:
        self._path = path
        self._corpus, self._measures = corpus, tuple(f"loss_{measure}" for measure in measures)
        self._labels = [*labels, intact]  # so that -1, the number of the intact run, is the last
        columns: list[tuple[str, Any]] = [
            (name, pa.int32() if isinstance(value, int) else pa.dictionary(pa.int32(), pa.string()))
            for name, value in intact.items()
        ]
        columns += [("word", pa.int64()), ("tag", pa.dictionary(pa.int32(), pa.string())), ("form", pa.string())]
        columns += [("sentence", pa.int64()), ("document", pa.int64())]
        self._schema = pa.schema(columns + [(name, pa.float32()) for name in self._measures])
        self._open = ExitStack()
        self._writer: Any = None

    def __enter__(self) -> LossTable:  # noqa: PYI034 (the run-time checks of the tests take no Self)
        with ExitStack() as stack:
            part = stack.enter_context(whole(self._path))
            part.parent.mkdir(exist_ok=True)
            self._writer = stack.enter_context(pq.ParquetWriter(part, self._schema))
            self._open = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.__exit__(kind, error, at)

    def add(
        self, words: Int[ndarray, " word"], numbers: list[int], losses: Float[ndarray, "measure condition word"]
    ) -> None:
        """Write the losses of some words under some conditions as one row group."""
        tags = np.array(self._corpus.tags, dtype=object)[self._corpus.word_tag[words]]
        columns: dict[str, Any] = {
            name: np.repeat(np.array([self._labels[number][name] for number in numbers], dtype=object), len(words))
            for name in self._labels[-1]
        }
        columns |= {"word": np.tile(words, len(numbers)), "tag": np.tile(tags, len(numbers))}
        columns["form"] = np.tile(self._corpus.word_form[words].astype(object), len(numbers))
        columns["sentence"] = np.tile(self._corpus.word_sentence[words], len(numbers))
        columns["document"] = np.tile(self._corpus.row_document[self._corpus.word_row[words]], len(numbers))
        columns |= {name: values.ravel() for name, values in zip(self._measures, losses, strict=True)}
        arrays = [pa.array(columns[field.name], type=field.type) for field in self._schema]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
