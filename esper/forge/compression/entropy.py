"""Entropy coder: small whole numbers at the entropy of what came lately, in whole-number arithmetic alone.

Asymmetric numeral systems (Duda 2013), many states side by side: symbol i belongs to state i modulo their
number, so that NumPy decodes all states at once. Frequencies are learned on the way, from what both sides know by then.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from esper.errors import CheckpointError

_SYMBOLS_A_STATE = 1024  # a state costs two bytes, a step all the time
_SCALE_BITS = 14
_SCALE = 1 << _SCALE_BITS
_WORD_BITS = 16
_LOW = np.uint64(1 << _WORD_BITS)  # states stay in [2^16, 2^32)
_PERIOD = 256  # symbols between two looks at the frequencies, about
_COUNT = 64  # what one symbol adds to its count
_SHIFT = 3  # an eighth of every count is forgotten a period

Bytes = NDArray[np.uint8]


def encode_symbols(symbols: Bytes) -> bytes:
    """Bytes of at least one symbol [N]."""
    levels = int(symbols.max()) + 1
    table = _in_steps(symbols)
    models = []
    for start, stop, model in _learning(len(table), table.shape[1], levels):
        models.append((start, stop, model.frequencies, model.starts))
        model.learn(table[start:stop])
    states = np.full(table.shape[1], _LOW)
    words = []
    for start, stop, frequencies, starts in reversed(models):
        for symbols_now in table[start:stop][::-1]:
            frequency = frequencies[symbols_now]
            is_full = states >= frequency << np.uint64(2 * _WORD_BITS - _SCALE_BITS)
            words.append(states[is_full].astype("<u2"))
            states[is_full] >>= np.uint64(_WORD_BITS)
            quotient, rest = np.divmod(states, frequency)
            states = (quotient << np.uint64(_SCALE_BITS)) + rest + starts[symbols_now]
    head = bytes([levels - 1]) + states.astype("<u4").tobytes()
    return head + np.concatenate(words[::-1]).tobytes()


def coded_bytes(symbols: Bytes) -> int:
    """How many bytes `encode_symbols` makes of them, within a few."""
    table = _in_steps(symbols)
    bits = 0.0
    for start, stop, model in _learning(len(table), table.shape[1], int(symbols.max()) + 1):
        counts = np.bincount(table[start:stop].ravel(), minlength=len(model.frequencies))
        bits += float(counts @ (_SCALE_BITS - np.log2(model.frequencies.astype(np.float64))))
        model.learn(table[start:stop])
    return int(bits / 8) + 1 + 3 * table.shape[1]


def decode_symbols(data: bytes, count: int) -> Bytes:
    """The symbols [count]. Raises CheckpointError where the bytes are not what `encode_symbols` makes of so many."""
    steps, lanes = _sizes(count)
    if len(data) < 1 + 4 * lanes or (len(data) - 1) % 2:
        raise CheckpointError(f"an entropy-coded stream of {count} symbols is cut short")
    levels = data[0] + 1
    states = np.frombuffer(data, "<u4", lanes, 1).astype(np.uint64)
    words = np.frombuffer(data, "<u2", offset=1 + 4 * lanes).astype(np.uint64)
    table = np.empty((steps, lanes), np.uint8)
    position = 0
    mask, shift, word_bits = np.uint64(_SCALE - 1), np.uint64(_SCALE_BITS), np.uint64(_WORD_BITS)
    for start, stop, model in _learning(steps, lanes, levels):
        owners = np.repeat(np.arange(levels, dtype=np.uint8), model.frequencies.astype(np.int64))
        frequencies, starts = model.frequencies, model.starts
        for step in range(start, stop):
            slots = states & mask
            table[step] = symbols = owners[slots]
            states = frequencies[symbols] * (states >> shift) + slots - starts[symbols]
            (is_low,) = np.nonzero(states < _LOW)
            taken = words[position : position + len(is_low)]
            if len(taken) != len(is_low):
                raise CheckpointError(f"an entropy-coded stream of {count} symbols is cut short")
            states[is_low] = (states[is_low] << word_bits) | taken
            position += len(is_low)
        model.learn(table[start:stop])
    if position != len(words) or (states != _LOW).any():
        raise CheckpointError(f"an entropy-coded stream of {count} symbols is altered")
    return table.ravel()[:count]


class _Model:
    """Frequencies [levels] that add up to 2^14, none of them zero, and where each begins."""

    def __init__(self, levels: int) -> None:
        self._counts = np.ones(levels, np.int64)
        self._settle()

    def learn(self, symbols: Bytes) -> None:
        self._counts -= self._counts >> _SHIFT
        self._counts += _COUNT * np.bincount(symbols.ravel(), minlength=len(self._counts))
        self._settle()

    def _settle(self) -> None:
        counts = self._counts
        frequencies = 1 + counts * (_SCALE - len(counts)) // counts.sum()
        frequencies[counts.argmax()] += _SCALE - frequencies.sum()
        self.frequencies = frequencies.astype(np.uint64)
        self.starts = (np.cumsum(frequencies) - frequencies).astype(np.uint64)


def _learning(steps: int, lanes: int, levels: int) -> Iterator[tuple[int, int, _Model]]:
    """Periods of steps, ever longer, each with the model that holds in it; it is taught after each."""
    model = _Model(levels)
    start, period = 0, 1
    while start < steps:
        stop = min(start + period, steps)
        yield start, stop, model
        start, period = stop, min(2 * period, max(1, _PERIOD // lanes))


def _sizes(count: int) -> tuple[int, int]:
    """Steps and states."""
    lanes = -(-count // _SYMBOLS_A_STATE)
    return -(-count // lanes), lanes


def _in_steps(symbols: Bytes) -> Bytes:
    """Symbols [steps, states]; the last ones are repeated to fill a step."""
    steps, lanes = _sizes(len(symbols))
    return np.append(symbols, np.full(steps * lanes - len(symbols), symbols[-1])).reshape(steps, lanes)
