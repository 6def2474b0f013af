"""Loading: what is accepted, and what is refused with the way to mend it."""

import json
import re
import sys
import warnings

import pytest
import torch
from conftest import MAKERS, make_model, make_roberta, make_tokenizer
from test_causal import new_model
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    ByT5Tokenizer,
    T5Config,
    T5ForConditionalGeneration,
)

from sani import load_model
from sani.models import FAMILIES, hidden_states, logits_at, positions


@pytest.fixture
def folder(tmp_path):
    tokenizer = make_tokenizer("wordpiece")
    tokenizer.save_pretrained(tmp_path / "m")
    make_model(len(tokenizer)).save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def test_local_folder_in_float32_and_evaluation_mode(folder):
    model = make_model(160).half()
    model.save_pretrained(folder)
    loaded, tokenizer = load_model(folder)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32} and not loaded.training
    assert tokenizer.mask_token == "[MASK]" and tokenizer.is_fast
    assert torch.equal(loaded.get_output_embeddings().weight, model.get_output_embeddings().weight.float())


def test_only_scored_positions_reach_the_head():
    model = make_model(160)
    ids, mask = torch.randint(5, 160, (3, 9)), torch.ones(3, 9, dtype=torch.int64)
    mask[1, 6:] = 0
    chosen = torch.rand(3, 9) < 0.3
    seen = []
    model.get_output_embeddings().register_forward_hook(lambda m, a, out: seen.append(out.shape))
    with torch.no_grad():
        few = logits_at(model, ids, mask, chosen)
        assert seen == [(chosen.sum(), 160)]
        torch.testing.assert_close(few, model(ids, attention_mask=mask).logits[chosen])
        assert hidden_states(model, ids, mask).shape == (3, 9, 16)


def refuse_pickles(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04never unpickled")


def ask_for_code(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModelForMaskedLM": "evil.Model"}}))


def damage(folder):
    half = (folder / "model.safetensors").read_bytes()[:2000]
    (folder / "model.safetensors").write_bytes(half)


def lose_a_shard(folder):
    make_model(160).save_pretrained(folder, max_shard_size="10KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    sorted(folder.glob("model-*.safetensors"))[-1].unlink()


def no_number(folder):
    model = make_model(160)
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.weight[0, 0] = torch.inf
    model.save_pretrained(folder)


def change(file, **values):
    """What sets values of a JSON file; None deletes one."""

    def spoil(folder):
        found = json.loads((folder / file).read_text()) | values
        (folder / file).write_text(json.dumps({name: value for name, value in found.items() if value is not None}))

    return spoil


def no_tokenizer(folder):
    for path in folder.glob("*token*"):
        path.unlink()


def slow_tokenizer(folder):
    no_tokenizer(folder)
    ByT5Tokenizer().save_pretrained(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_tokenizer, r"the tokenizer \(tokenizer.json, vocab.txt, …\) is missing; save the model's own beside it"),
        (slow_tokenizer, "a ByT5Tokenizer is slow"),
        (change("tokenizer_config.json", mask_token=None), "a tokenizer without mask token; save the model's own"),
        (
            lambda f: (f / "tokenizer.json").write_text("{"),
            "AutoTokenizer cannot read .*missing, damaged or of another",
        ),
        (lambda f: make_model(40).save_pretrained(f), "a tokenizer of 160 tokens for a model of 40"),
        (damage, "AutoModelForMaskedLM cannot read .*SafetensorError.*a file is missing, damaged or of another model"),
        (lose_a_shard, "No such file or directory.*safetensors.*a file is missing, damaged"),
        (no_number, r"no numbers \(NaN or infinite, in bert.encoder.layer.1.output.dense.weight\)"),
        (change("config.json", num_hidden_layers=3), r"hold no such layer \(missing bert.encoder.layer.2.*be random"),
        (change("config.json", hidden_size=32), "AutoModelForMaskedLM cannot read .*of another model"),
        (lambda f: (f / "config.json").write_text("{"), "AutoConfig cannot read .*needed are config.json"),
        (refuse_pickles, r"weights are pickled \(pytorch_model.bin\).*refused; convert them"),
        (ask_for_code, "run code of its own"),
        (lambda f: (f / "model.safetensors").unlink(), "no file named model.safetensors.*needed are"),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
    ],
)
def test_spoiled_folders_are_refused(spoil, message, folder):
    spoil(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_model(folder)


def small(kind: str):
    """A model of random weights of any family."""
    sizes = {
        "vocab_size": 160, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2,
    }  # fmt: skip
    if kind == "distilbert":
        sizes = {
            "vocab_size": 160,
            "dim": 16,
            "hidden_dim": 16,
            "n_layers": 2,
            "n_heads": 2,
            "max_position_embeddings": 64,
        }
    torch.manual_seed(0)
    of = MODEL_FOR_CAUSAL_LM_MAPPING if FAMILIES[kind].causal else MODEL_FOR_MASKED_LM_MAPPING
    return of[CONFIG_MAPPING[kind]](CONFIG_MAPPING[kind](**sizes)).eval()


@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_shards_in_half_precision_of_every_family(kind, tmp_path):
    """Read whole, as float32, which is said; and the same bits again when saved and read back."""
    tokenizer, made = make_tokenizer("wordpiece"), small(kind)
    if FAMILIES[kind].causal:
        tokenizer = MAKERS["wordpiece"]()
        tokenizer.mask_token, tokenizer.bos_token, tokenizer.eos_token = None, "[CLS]", "[SEP]"
    made.bfloat16().save_pretrained(tmp_path / "a", max_shard_size="10KB")
    tokenizer.save_pretrained(tmp_path / "a")
    assert len(list((tmp_path / "a").glob("model-*.safetensors"))) > 1
    with pytest.warns(UserWarning, match="bfloat16 weights are loaded as float32"):
        model, known = load_model(tmp_path / "a")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    for name, weight in made.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight.float()), name
    model.save_pretrained(tmp_path / "b")
    known.save_pretrained(tmp_path / "b")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again, _ = load_model(tmp_path / "b")
    ids = torch.randint(5, 160, (1, 7))
    with torch.no_grad():
        assert torch.equal(model(ids).logits, again(ids).logits)


def test_a_lora_adapter_is_merged_first(folder, tmp_path, monkeypatch):
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text("{}")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "peft", None)
        with pytest.raises(ImportError, match="is a LoRA adapter, not a model; python -m pip install peft"):
            load_model(tmp_path / "lora")
    peft = pytest.importorskip("peft")
    with pytest.raises(ValueError, match="no adapter_model.safetensors"):
        load_model(tmp_path / "lora")
    base, _ = load_model(folder)
    config = peft.LoraConfig(
        r=2, target_modules=["query", "value"], init_lora_weights=False, base_model_name_or_path=str(folder)
    )
    wrapped = peft.get_peft_model(BertForMaskedLM.from_pretrained(folder), config)
    wrapped.save_pretrained(tmp_path / "lora")
    with pytest.warns(UserWarning, match="a LoRA adapter, merged into its base model m"):
        merged, tokenizer = load_model(tmp_path / "lora")
    ids = torch.randint(5, 160, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, wrapped.eval()(input_ids=ids).logits)
        assert not torch.allclose(merged(ids).logits, base(ids).logits)
    assert not hasattr(merged, "peft_config") and len(tokenizer) == 160
    merged.save_pretrained(tmp_path / "whole")
    assert (tmp_path / "whole" / "model.safetensors").exists()


def test_what_was_made_for_running_is_refused(folder, tmp_path):
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "model-Q4.gguf").write_bytes(b"GGUF")
    for name in (tmp_path / "g", tmp_path / "g" / "model-Q4.gguf", "some/model.gguf"):
        with pytest.raises(
            ValueError, match="GGUF weights are made for running, not for training.*the checkpoint that"
        ):
            load_model(name)
    change("config.json", quantization_config={"quant_method": "gptq", "bits": 4})(folder)
    with pytest.raises(ValueError, match="quantised, so they cannot be trained"):
        load_model(folder)


@pytest.mark.parametrize("kind", [BertForSequenceClassification, BertForTokenClassification])
def test_of_a_classifier_is_said_what_can_be_done(kind, folder):
    kind(BertConfig(vocab_size=160, hidden_size=16, num_attention_heads=2, num_hidden_layers=1)).save_pretrained(folder)
    with pytest.raises(
        ValueError, match=f"A {kind.__name__} predicts no words.*neither measured nor repaired.*made from"
    ):
        load_model(folder)


def test_names_that_are_nothing(tmp_path):
    for name in (tmp_path / "nowhere", "./nowhere", "a/b/c"):
        with pytest.raises(FileNotFoundError, match="no folder .*shipped names are .*tiny-bert"):
            load_model(name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    for name, message in (("empty", "holds no config.json"), ("notes.txt", "is a file; name a folder")):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            load_model(tmp_path / name)
    for name in (None, 3, ""):
        with pytest.raises(TypeError, match="model must be the path of a folder"):
            load_model(name)
    with pytest.raises(ValueError, match="is not a shipped name .*tiny-bert.*not a local folder"):
        load_model("tiny-bart")


def test_a_folder_without_the_tokenizer_of_a_causal_model(tmp_path):
    for kind in ("gpt2", "llama"):  # transformers makes an empty tokenizer for the one, and none for the other
        new_model(kind, 160).save_pretrained(tmp_path / kind)
        with pytest.raises(ValueError, match="tokenizer.json.*save"):
            load_model(tmp_path / kind)


def test_positions_are_the_rows_a_model_can_read():
    for model, limit in ((make_model(160), 64), (make_roberta(160), 78), (new_model("gpt2", 160), 64)):
        assert positions(model) == limit
        ids = torch.full((1, limit + 1), 5)
        with torch.no_grad():
            model(ids[:, 1:])
            with pytest.raises((IndexError, RuntimeError)):
                model(ids)


def test_models_without_an_lm_head(folder):
    config = BertConfig(vocab_size=160, hidden_size=16, num_attention_heads=2, num_hidden_layers=1)
    for other in (BertModel(config), BertForSequenceClassification(config)):
        other.save_pretrained(folder)
        with pytest.raises(ValueError, match="hold no LM head"):
            load_model(folder)
    T5ForConditionalGeneration(
        T5Config(vocab_size=160, d_model=16, d_kv=8, d_ff=16, num_heads=2, num_layers=1)
    ).save_pretrained(folder)
    with pytest.raises(ValueError, match="models of type 't5' are not supported; known are bert"):
        load_model(folder)


def test_unknown_families_are_named():
    from transformers import ElectraConfig, ElectraForMaskedLM

    model = ElectraForMaskedLM(
        ElectraConfig(vocab_size=50, hidden_size=16, embedding_size=16, num_attention_heads=2, num_hidden_layers=1)
    )
    with pytest.raises(ValueError, match=re.escape("models of type 'electra' are not supported; known are bert")):
        logits_at(model, torch.ones(1, 2), torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool))
