"""Two sides of a work in processes of their own, run in turn."""

import importlib
import multiprocessing
import platform
import re
import statistics
import time
from pathlib import Path

import torch
from tqdm.auto import tqdm

from .works import Work

STATUS = Path("/proc/self/status")  # where there is none (macOS, Windows), memory is left out


def memory(field: str) -> float:
    """VmRSS (now) or VmHWM (the peak) of this process in MB."""
    found = re.search(rf"{field}:\s+(\d+) kB", STATUS.read_text()) if STATUS.exists() else None
    return int(found.group(1)) / 1024 if found else float("nan")


def side(connection, module: str, name: str, options: dict) -> None:
    """One side of a comparison: prepares, then runs once for each message, and tells (amount per second, peak MB)."""
    run = getattr(importlib.import_module(f".{module}", __package__), name)(**options)
    if STATUS.exists():
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    start = memory("VmRSS")
    connection.send("ready")
    while connection.recv():
        began = time.perf_counter()
        amount = run()
        connection.send((amount / (time.perf_counter() - began), memory("VmHWM") - start))


def compare(work: Work, repetitions: int) -> dict:
    """Run both sides in turn, as a rule after one repetition each that does not count; returns a row."""
    context = multiprocessing.get_context("spawn")
    sides = []
    for name in (work.ours, work.theirs):
        here, there = context.Pipe()
        process = context.Process(target=side, args=(there, work.module, name, work.options), daemon=True)
        process.start()
        there.close()
        sides.append((process, here))
    try:
        for _, connection in sides:
            connection.recv()
        rates, peaks = ([], []), [0.0, 0.0]
        for repetition in tqdm(range(1 - work.warm, repetitions + 1), desc=work.name, leave=False):
            for i, (_, connection) in enumerate(sides):
                connection.send(True)
                rate, peaks[i] = connection.recv()
                if repetition:
                    rates[i].append(rate)
    finally:
        for process, _ in sides:
            process.kill()
            process.join()
    return row(work, rates, peaks)


def row(work: Work, rates: tuple[list[float], list[float]], peaks: list[float]) -> dict:
    """A row of the table, from the rates of both sides, repetition by repetition, and their peaks of memory in MB."""
    ratios = [ours / theirs for ours, theirs in zip(*rates)]
    ratio = statistics.median(ratios)
    share = peaks[0] / peaks[1] if peaks[1] else float("nan")
    return {
        "work": work.name, "device": f"CPU, {torch.get_num_threads()} threads, {platform.machine()}",
        "peer": work.peer, "unit": work.unit, "ours": statistics.median(rates[0]),
        "theirs": statistics.median(rates[1]), "ratio": ratio, "ratio_low": min(ratios), "ratio_high": max(ratios),
        "to_reach": work.to_reach, "reached": ratio >= work.to_reach,
        "memory_ours_mb": peaks[0], "memory_theirs_mb": peaks[1], "memory_ratio": share,
        "memory_limit_mb": work.limit_mb, "memory_to_reach": work.memory, "memory_reached": all(
            had <= most for had, most in ((share, work.memory), (peaks[0], work.limit_mb)) if most is not None
        ),
        "repetitions": len(ratios), "torch": torch.__version__,
    }  # fmt: skip
