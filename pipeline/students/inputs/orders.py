"""Order of images and random draws for each, as pure functions of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int64

RNG_STREAMS = {"order": 0, "view": 1, "flip": 2, "caption": 3, "bank": 4, "caption_set": 5, "bank_set": 6}
"""Each kind of draw has its own stream, so that an additional kind does not change the others."""
Rows = Int64[np.ndarray, " b"]


class Order(Protocol):
    """Interface of orders."""

    @property
    def epoch_rows(self) -> int:
        """The number of positions of an epoch."""
        ...

    def rows_at(self, epoch: int, start: int, stop: int) -> Rows:
        """Return the rows at positions `start` to `stop` − 1 of an epoch."""
        ...

    def views(self, epoch: int, count: int, rows: Rows) -> Rows:
        """Return the view of each row in an epoch; all views are used before any repeats."""
        ...

    def draw(self, epoch: int, kind: str, rows: Rows) -> Float[np.ndarray, " b"]:
        """Return a number in [0, 1) for each row."""
        ...


@dataclass(frozen=True)
class FullShuffle:
    """A uniform random permutation of all rows."""

    seed: int
    rows: int

    @property
    def epoch_rows(self) -> int:
        """The number of positions of an epoch: all rows."""
        return self.rows

    def rows_at(self, epoch: int, start: int, stop: int) -> Rows:
        """Return a part of the permutation."""
        return _permutation(self.seed, epoch, self.rows)[start:stop]

    def views(self, epoch: int, count: int, rows: Rows) -> Rows:
        """Return the views of some rows."""
        views: Rows = _all_views((self.seed,), epoch, count, self.rows)[rows]
        return views

    def draw(self, epoch: int, kind: str, rows: Rows) -> Float[np.ndarray, " b"]:
        """Return the draws of some rows."""
        draws: np.ndarray = _all_draws((self.seed, epoch, RNG_STREAMS[kind]), self.rows)[rows]
        return draws


@dataclass(frozen=True, eq=False)
class WindowShuffle:
    """Shards in random order, in windows whose rows are shuffled together.

    Only the shards of one window are read at a time, each once per epoch. A batch mixes rows of its window only; the
    shards of a window change with the epoch. Draws are made per shard, so memory does not grow with the data.

    With several groups, shard i belongs to group i mod `groups`, each group has windows of its own, and every batch is
    one equal part of each, in the order of the groups. Whoever needs one part reads no shard of another group. The
    order does not depend on how many processes share the groups. An epoch ends with the rows of the smallest group.
    """

    seed: int
    shard_rows: tuple[int, ...]
    buffer: int
    """Number of rows that the windows of all groups should have together."""
    groups: int = 1

    @cached_property
    def starts(self) -> Int64[np.ndarray, " shards_plus_1"]:
        """The first row of each shard, and the number of rows."""
        return np.concatenate([[0], np.cumsum(self.shard_rows)]).astype(np.int64)

    @cached_property
    def epoch_rows(self) -> int:
        """The number of positions of an epoch: the rows of the smallest group, once for each group."""
        return self.groups * min(sum(self.shard_rows[group :: self.groups]) for group in range(self.groups))

    @cached_property
    def window_shards(self) -> int:
        """Number of shards per window of a group."""
        return max(1, round(self.buffer / self.groups / max(1.0, float(np.mean(self.shard_rows)))))

    def windows(self, epoch: int, group: int = 0) -> list[Int64[np.ndarray, " shards"]]:
        """Return the shards of each window of a group in an epoch, in reading order."""
        own = np.arange(group, len(self.shard_rows), self.groups)
        order = own[self._generator(epoch, group).permutation(len(own))]
        return [order[at : at + self.window_shards] for at in range(0, len(order), self.window_shards)]

    def rows_at(self, epoch: int, start: int, stop: int) -> Rows:
        """Return the rows between two positions that are multiples of the number of groups."""
        bounds = start // self.groups, stop // self.groups
        return np.concatenate([self._group_rows(epoch, group, *bounds) for group in range(self.groups)])

    def _group_rows(self, epoch: int, group: int, start: int, stop: int) -> Rows:
        """Return the rows between two positions of a group, from one or several windows."""
        ends = self._window_ends(epoch, group)
        parts = []
        for window in range(int(np.searchsorted(ends, start, side="right")), len(ends)):
            first = int(ends[window - 1]) if window else 0
            if first >= stop:
                break
            parts.append(self._window_rows(epoch, group, window)[max(0, start - first) : stop - first])
        return np.concatenate(parts)

    @cached_property
    def _window_ends(self) -> Callable[[int, int], Int64[np.ndarray, " windows"]]:
        return lru_cache(maxsize=2 * self.groups)(partial(_find_window_ends, self))

    @cached_property
    def _window_rows(self) -> Callable[[int, int, int], Rows]:
        return lru_cache(maxsize=3 * self.groups)(partial(_shuffle_window, self))

    def _generator(self, epoch: int, group: int, window: int | None = None) -> np.random.Generator:
        """Return the random numbers for a group's order of shards, or for a window's order of rows."""
        key = () if window is None else (1 + window,)
        grouped = (*(key or (0,)), group) if self.groups > 1 else key
        return _generator(self.seed, epoch, RNG_STREAMS["order"], *grouped)

    def views(self, epoch: int, count: int, rows: Rows) -> Rows:
        """Return the views of some rows."""
        views = self._by_shard(rows, lambda shard, n: _shard_views((self.seed, 1 + shard), epoch, count, n))
        return views.astype(np.int64)

    def draw(self, epoch: int, kind: str, rows: Rows) -> Float[np.ndarray, " b"]:
        """Return the draws of some rows."""
        return self._by_shard(rows, lambda shard, n: _shard_draws((self.seed, epoch, RNG_STREAMS[kind], 1 + shard), n))

    def shards_of(self, rows: Rows) -> Int64[np.ndarray, " b"]:
        """Return the shard of each row."""
        shards: Int64[np.ndarray, " b"] = np.searchsorted(self.starts, rows, side="right") - 1
        return shards

    def _by_shard(self, rows: Rows, make: Callable[[int, int], np.ndarray]) -> Float[np.ndarray, " b"]:
        shards = self.shards_of(rows)
        values = np.empty(len(rows))
        for shard in np.unique(shards).tolist():
            mine = shards == shard
            values[mine] = make(shard, self.shard_rows[shard])[rows[mine] - self.starts[shard]]
        return values


def _find_window_ends(order: WindowShuffle, epoch: int, group: int) -> Int64[np.ndarray, " windows"]:
    sizes = np.asarray(order.shard_rows, np.int64)
    return np.cumsum([sizes[shards].sum() for shards in order.windows(epoch, group)])


def _shuffle_window(order: WindowShuffle, epoch: int, group: int, window: int) -> Rows:
    shards = order.windows(epoch, group)[window]
    rows = np.concatenate([np.arange(order.starts[shard], order.starts[shard + 1]) for shard in shards])
    return order._generator(epoch, group, window).permutation(rows)


def _generator(*key: int) -> np.random.Generator:
    return np.random.default_rng(list(key))


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, rows: int) -> Rows:
    return _generator(seed, epoch, RNG_STREAMS["order"]).permutation(rows)


def _draw(key: Sequence[int], rows: int) -> Float[np.ndarray, " n"]:
    return _generator(*key).random(rows)


def _views(key: Sequence[int], epoch: int, views: int, rows: int) -> Int64[np.ndarray, " n"]:
    """Return each row's view in an epoch: each row cycles through permutations of its views."""
    if views == 1:
        return np.zeros(rows, dtype=np.int64)
    cycle, turn = divmod(epoch, views)
    return _generator(key[0], cycle, RNG_STREAMS["view"], *key[1:]).random((rows, views)).argsort(axis=1)[:, turn]


_Drawn = Callable[..., np.ndarray]
_all_draws: _Drawn = lru_cache(maxsize=4)(_draw)
_all_views: _Drawn = lru_cache(maxsize=2)(_views)
"""Views of all rows; a small cache, because two consecutive epochs overlap in prefetching."""
_shard_draws: _Drawn = lru_cache(maxsize=512)(_draw)
_shard_views: _Drawn = lru_cache(maxsize=512)(_views)
