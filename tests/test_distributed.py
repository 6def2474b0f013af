"""Two gloo processes do what one does: losses, weights, counts, run folders (`torchrun` on a CPU)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys
import torch
sys.path.insert(0, sys.argv[1])
from conftest import TEXTS, make_corpus, make_model, spans, make_tokenizer
from test_causal import byte_level, new_model
import sani, sani.training
from sani.devices import processes
from sani.models import add_padding

kind, objective, where = sys.argv[2:]
found = [[("John Smith", "PATIENT")], [("Smith", "PATIENT")], [("Çağlayan", "PATIENT")], [("Zoë", "PATIENT")]]
corpus = make_corpus(TEXTS * 3, [spans(t, *f) for t, f in zip(TEXTS, found)] * 3)
if kind == "bert":
    tokenizer = make_tokenizer("wordpiece")
    model = make_model(len(tokenizer))
else:
    tokenizer = byte_level()
    model = new_model("gpt2", len(tokenizer))
    add_padding(model, tokenizer)
losses, share, backward, clip = [], [], torch.Tensor.backward, torch.nn.utils.clip_grad_norm_

def noted_backward(loss, *args, **options):
    share.append(loss.detach().clone())
    return backward(loss, *args, **options)

def noted_clip(*args, **options):  # once a step on every process; one without targets has no loss
    total = share.pop() if share else torch.zeros(())
    if processes().num_processes > 1:
        torch.distributed.all_reduce(total)
    losses.append(total.item())
    return clip(*args, **options)

torch.Tensor.backward, torch.nn.utils.clip_grad_norm_ = noted_backward, noted_clip
blocks = sani.encode(corpus, tokenizer, sani.Blacklist.from_annotations(corpus), 32, run_dir=where + "-blocks")
epochs = []
def measure(model, epoch):
    report = sani.evaluate(model, blocks, progress=False)
    epochs.append(report.counts.to_dict("list"))
    return {"utility": report.utility}
trained = sani.fine_tune(
    model, blocks, objective, epochs=2, learning_rate=1e-3, batch_size=4, run_dir=where, measure_at=(0, 2),
    measure=measure, progress=False,
)
if processes().is_main_process:
    weights = {n: t.flatten().tolist() for n, t in trained.state_dict().items()}
    out = {"losses": losses, "weights": weights, "counts": epochs, "processes": processes().num_processes}
    print("RESULT" + json.dumps(out))
"""


def run(tmp_path, processes: int, kind: str, objective: str) -> dict:
    script = tmp_path / "work.py"
    script.write_text(SCRIPT, encoding="utf-8")
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    done = subprocess.run(
        [sys.executable, *launch, str(script), str(Path(__file__).parent), kind, objective, str(tmp_path / "run")],
        capture_output=True, text=True, timeout=300,
        env=os.environ | {"SANI_HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    return json.loads(done.stdout.split("RESULT")[1].splitlines()[0])


@pytest.mark.parametrize(("kind", "objective"), [("bert", "ppmlm"), ("gpt2", "clm")])
def test_two_processes_do_what_one_does(kind, objective, tmp_path):
    found = {}
    for processes in (1, 2):
        (folder := tmp_path / str(processes)).mkdir()
        found[processes] = run(folder, processes, kind, objective)
        assert found[processes]["processes"] == processes
        assert (folder / "run" / "model" / "model.safetensors").exists()
        assert (folder / "run" / "metrics.parquet").exists() and not (folder / "run" / ".part").exists()
    one, two = found[1], found[2]
    assert len(one["losses"]) == len(two["losses"]) > 5
    assert max(abs(a - b) for a, b in zip(one["losses"], two["losses"])) < 1e-5
    assert one["losses"][0] != one["losses"][-1]
    # A key's bias has no gradient but rounding, whose sign AdamW follows.
    names = [name for name in one["weights"] if "key.bias" not in name and "c_attn.bias" not in name]
    assert len(names) > 20
    for name in names:
        assert max(abs(a - b) for a, b in zip(one["weights"][name], two["weights"][name])) < 1e-4, name
    assert one["counts"][0]["count"] == two["counts"][0]["count"]  # before training: the very same model
    assert sum(one["counts"][0]["total"]) > 0 and len(one["counts"]) == 2
