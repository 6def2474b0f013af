"""How long a repair takes alone and beside busy processes, by GOMP_SPINCOUNT: `python tests/benchmarks/beside.py`.

A count is how often a thread of OpenMP asks for its partner before it sleeps. It is read once, when torch is loaded, so
that each time is of a process of its own. The hash shows that the weights are the same bits.
"""

import os
import subprocess
import sys

WORK = """
import time
import sani
from sani.checkpoints import model_fingerprint
corpus = sani.load_corpus("synthetic-clinical", records=60, seed=0)
model, tokenizer = sani.load_model("tiny-bert")
blocks = sani.encode(corpus, tokenizer, sani.Blacklist.from_annotations(corpus), progress=False)
started = time.monotonic()
clean = sani.repair(model, blocks, epochs=6, learning_rate=3e-3, batch_size=4, progress=False)
sani.evaluate(clean, blocks, progress=False)
print(f"{time.monotonic() - started:6.2f} s  {model_fingerprint(clean)}")
"""

if __name__ == "__main__":
    for count in (0, os.cpu_count()):
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
        try:
            for spins in sys.argv[1:] or ["300000", "2000", "0"]:
                environment, command = os.environ | {"GOMP_SPINCOUNT": spins}, [sys.executable, "-c", WORK]
                try:
                    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60).stdout
                except subprocess.TimeoutExpired:
                    done = "more than 60 s"
                print(f"beside {count} busy, {spins:>6} spins: {done.strip()}", flush=True)
        finally:
            for process in busy:
                process.kill()
