"""An hour of mixed work with `smol`, and whether memory stays flat: `make soak MINUTES=60`.

Reads, asks, edits, saves and loads, chats, a store that prunes, and requests to a server in this process,
drawn with a seed. What is kept on purpose is bounded small, so that it is full long before the end: whatever
still grows then is a leak. Prints a line of CSV a minute, and at the end the slope of resident memory behind
the warm-up; exits with 1 if it is steeper than the limit.
"""

import argparse
import gc
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "serving")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from e2llm import ChatSession, ChunkStore, Context, Engine  # noqa: E402
from e2llm.errors import E2LLMError  # noqa: E402
from e2llm.measuring import resident_bytes, trim_heap  # noqa: E402
from served import Served, serving  # noqa: E402

BOOK = Path(__file__).parents[1] / "examples" / "anne_of_green_gables.txt"
WARM_UP = 0.4  # of the time: caches fill, libraries load what they load once
LIMIT_MB_PER_HOUR = 30.0
SETTINGS = {"prefix_cache_mb": 8, "context_memory_mb": 1, "store_mb": 2, "max_contexts": 50}


class Work:
    """What is done over and over; each method is one piece."""

    def __init__(self, engine: Engine, served: Served, folder: Path, seed: int) -> None:
        self.engine = engine
        self.served = served
        self.folder = folder
        self.draw = random.Random(seed)
        self.book = BOOK.read_text(encoding="utf-8")
        self.store = ChunkStore(folder / "store", max_bytes=2 * 2**20)
        self.context = engine.read(self.passage(20_000), store=self.store, progress=False)
        self.chat = ChatSession(engine, max_history_tokens=200)
        self.kept: list[str] = []

    def passage(self, length: int) -> str:
        """A new text: a piece of the book from anywhere, with a number that no other piece has."""
        start = self.draw.randrange(len(self.book) - length)
        return f"{self.draw.random()} {self.book[start : start + length]}"

    def question(self) -> str:
        return f"What is said about {self.draw.choice(self.passage(300).split())}?"

    def read(self) -> None:
        store = self.draw.choice([None, self.store])
        self.context = self.engine.read(
            self.passage(self.draw.choice([500, 5_000, 20_000])), store=store, progress=False
        )

    def ask(self) -> None:
        self.engine.ask(self.context, self.question(), expand=2, overflow="select", max_new_tokens=8)

    def stream(self) -> None:
        pieces = self.engine.stream(self.context, self.question(), overflow="select", max_new_tokens=8)
        for number, _ in enumerate(pieces):
            if number == self.draw.randrange(8):
                break
        pieces.close()

    def edit(self) -> None:
        self.context.append(self.passage(400))
        self.context.edit(0, 0, 5, self.passage(30))
        if len(self.context.documents) > 3:
            self.context.delete(1)

    def save_and_load(self) -> None:
        self.context.save(self.folder / "kept.e2llm")
        self.context = Context.load(self.folder / "kept.e2llm", self.engine)

    def talk(self) -> None:
        if len(self.chat.turns) > 40:
            self.chat = ChatSession(self.engine, max_history_tokens=200)
        self.chat.ask(self.question(), max_new_tokens=8)

    def fail(self) -> None:
        for wrong in (lambda: self.engine.read("", progress=False), lambda: Context.load(BOOK, self.engine)):
            try:
                wrong()
            except E2LLMError:
                continue
            raise AssertionError("a wrong call went through")

    def serve(self) -> None:
        with self.served.http() as http:
            made = (
                http.post("/v1/contexts", json={"text": self.passage(4_000)}).raise_for_status().json()["id"]
            )
            self.kept.append(made)
            about = self.draw.choice(self.kept)
            http.post(f"/v1/contexts/{about}/documents", json={"text": self.passage(100)}).raise_for_status()
            messages = [{"role": "user", "content": self.question()}]
            body = {"model": "smol", "messages": messages, "context_ids": [about], "max_tokens": 8}
            http.post("/v1/chat/completions", json=body).raise_for_status()
            with http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as response:
                for _ in zip(range(self.draw.randrange(8)), response.iter_lines(), strict=False):
                    pass
            assert http.post("/v1/chat/completions", content=b"[" * 10_000).status_code >= 400
            if len(self.kept) > 6:
                http.delete(f"/v1/contexts/{self.kept.pop(0)}").raise_for_status()


def resident_mb() -> float:
    """Resident memory without garbage and holes of the heap."""
    gc.collect()
    trim_heap()
    return (resident_bytes() or 0) / 1e6


def slope(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Least-squares slope of y over x, and its standard error."""
    count = len(points)
    mean_x, mean_y = (sum(point[i] for point in points) / count for i in (0, 1))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    rise = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    rest = sum((y - mean_y - rise * (x - mean_x)) ** 2 for x, y in points)
    return rise, (rest / max(count - 2, 1) / spread) ** 0.5


def run(minutes: float, seed: int, every_seconds: float) -> int:
    """Work for so long; returns the exit code."""
    points: list[tuple[float, float]] = []
    done: Counter[str] = Counter()
    engine, served_engine = (Engine.from_pretrained("smol") for _ in range(2))
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(served_engine, model_name="smol", **SETTINGS) as served,
    ):
        work = Work(engine, served, Path(folder), seed)
        names = ("read", "ask", "ask", "stream", "edit", "save_and_load", "talk", "fail", "serve")
        pieces: list[Callable[[], None]] = [getattr(work, name) for name in names]
        print("minute,resident_mb,threads,open_files,pieces_of_work", flush=True)
        started = noted = time.monotonic()
        while (now := time.monotonic()) - started < minutes * 60:
            if now - noted >= every_seconds or not points:
                noted = now
                points.append(((now - started) / 60, resident_mb()))
                files = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
                row = (f"{points[-1][0]:.1f}", f"{points[-1][1]:.1f}", threading.active_count(), files)
                print(*row, done.total(), sep=",", flush=True)
            piece = work.draw.choice(pieces)
            piece()
            done[piece.__name__] += 1
    settled = [point for point in points if point[0] >= minutes * WARM_UP]
    if len(settled) < 3:
        print("too short for a slope; give it more minutes", file=sys.stderr)
        return 1
    rise, error = (60 * value for value in slope(settled))
    flat = rise - 2 * error < LIMIT_MB_PER_HOUR
    print(f"# {', '.join(f'{name} {count}' for name, count in sorted(done.items()))}")
    print(
        f"# {settled[0][1]:.0f} MB after the warm-up, {settled[-1][1]:.0f} MB at the end; slope "
        f"{rise:.1f} MB an hour, standard error {error:.1f}: {'flat' if flat else 'it grows'} (limit "
        f"{LIMIT_MB_PER_HOUR:.0f})"
    )
    return 0 if flat else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every-seconds", type=float, default=60)
    options = parser.parse_args()
    sys.exit(run(options.minutes, options.seed, options.every_seconds))
