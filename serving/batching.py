"""Concurrent requests that share one call of the model."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Overloaded(Exception):
    """Raised if too many requests are waiting."""


class MicroBatcher:
    r"""
    Collects requests that arrive at about the same time and hands them to a function together. One batch is computed at a
    time, in a thread of its own; what arrives meanwhile is the next batch.

    Args:
        work (`Callable[[Sequence], Sequence]`): Returns one answer for each request.
        max_batch (`int`, *optional*, defaults to 64): Largest number of requests of a batch.
        max_wait (`float`, *optional*, defaults to 0.002): Seconds that a request waits for others, at most.
        max_waiting (`int`, *optional*, defaults to 2000): Largest number of requests that wait.
        on_batch (`Callable[[int], None]`, *optional*): Called with the size of each batch.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Any]], Sequence[Any]],
        max_batch: int = 64,
        max_wait: float = 0.002,
        max_waiting: int = 2_000,
        on_batch: Callable[[int], None] | None = None,
    ):
        self.work, self.max_batch, self.max_wait, self.max_waiting = work, max_batch, max_wait, max_waiting
        self.on_batch = on_batch

    async def __aenter__(self) -> "MicroBatcher":
        self._waiting: deque[tuple[float, Any, asyncio.Future]] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "unisrec-model")
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._task.cancel()
        self._thread.shutdown(wait=False)

    async def submit(self, request: Any) -> Any:
        """Returns the answer to a `request`. Raises [`Overloaded`] if too many are waiting."""
        if len(self._waiting) >= self.max_waiting:
            raise Overloaded
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append((time.monotonic(), request, answer))
        self._arrived.set()
        return await answer

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Returns the result of a `function` with arguments `args`, called between two batches."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            rest = self._waiting[0][0] + self.max_wait - time.monotonic()
            if rest > 0 and len(self._waiting) < self.max_batch:
                await asyncio.sleep(rest)
            batch = [self._waiting.popleft() for _ in range(min(self.max_batch, len(self._waiting)))]
            if not self._waiting:
                self._arrived.clear()
            batch = [each for each in batch if not each[2].done()]  # others were given up by their sender
            if not batch:
                continue
            if self.on_batch is not None:
                self.on_batch(len(batch))
            try:
                answers = await self.call(self.work, [request for _, request, _ in batch])
            except Exception as error:
                answers = [error] * len(batch)
            for (_, _, future), answer in zip(batch, answers, strict=True):
                if future.done():
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)


__all__ = ["MicroBatcher", "Overloaded"]
