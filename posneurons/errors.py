"""What can go wrong, in words for the person at the keyboard.

Every error that a user can cause is a `PosNeuronsError`; its text says where, what was found, what was expected and
what to do next. The command line prints that text as one line and exits with status 2. Anything else is our own fault.
"""

from __future__ import annotations


class PosNeuronsError(Exception):
    """The input is wrong; the message is complete and needs no traceback."""


class TreebankError(PosNeuronsError):
    """A treebank cannot be found, read or understood."""


class AlignmentError(PosNeuronsError):
    """Words and tokens cannot be brought together."""


class ModelError(PosNeuronsError):
    """A model cannot be found, loaded, or has no MLP neurons to look at."""


class NeuronError(PosNeuronsError):
    """A neuron name, a set of neurons, or a request for random ones makes no sense."""


class RunError(PosNeuronsError):
    """A configuration or a run directory does not fit what was asked."""
