"""Two gloo processes, set up as `torchrun` does, do what one does: losses, weights, counts, run folders."""

import json
import os
import socket
from pathlib import Path

import pytest
import torch
from conftest import TEXTS, make_corpus, make_model, make_tokenizer, spans, started
from test_causal import byte_level, new_model

import sani
from sani.devices import processes
from sani.models import add_padding


def work(kind: str, objective: str, where: Path):
    torch.set_num_threads(1)
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
    blocks = sani.encode(corpus, tokenizer, sani.Blacklist.from_annotations(corpus), 32, run_dir=where / "blocks")
    epochs = []

    def measure(model, epoch):
        report = sani.evaluate(model, blocks, progress=False)
        epochs.append(report.counts.to_dict("list"))
        return {"utility": report.utility}

    trained = sani.fine_tune(
        model, blocks, objective, epochs=2, learning_rate=1e-3, batch_size=4, run_dir=where / "run", measure_at=(0, 2),
        measure=measure, progress=False,
    )  # fmt: skip
    if processes().is_main_process:
        weights = {n: t.flatten().tolist() for n, t in trained.state_dict().items()}
        out = {"losses": losses, "weights": weights, "counts": epochs, "processes": processes().num_processes}
        (where / "result.json").write_text(json.dumps(out))


def run(where: Path, count: int, kind: str, objective: str) -> dict:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = os.environ | {"SANI_HOME": str(where), "CUDA_VISIBLE_DEVICES": ""}
    if count > 1:
        common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    each = [common | ({"RANK": str(i), "LOCAL_RANK": str(i)} if count > 1 else {}) for i in range(count)]
    workers = [started(work, kind, objective, where, environment=environment) for environment in each]
    for worker in workers:
        worker.join(300)
        assert worker.exitcode == 0
    return json.loads((where / "result.json").read_text())


@pytest.mark.parametrize(("kind", "objective"), [("bert", "ppmlm"), ("gpt2", "clm")])
def test_two_processes_do_what_one_does(kind, objective, tmp_path):
    found = {}
    for count in (1, 2):
        (folder := tmp_path / str(count)).mkdir()
        found[count] = run(folder, count, kind, objective)
        assert found[count]["processes"] == count
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
