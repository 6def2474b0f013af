"""Loading models, and where each family keeps its head, its transform and its last block."""

import copy
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import NamedTuple
from warnings import warn

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.activations import ACT2FN

from .runs import WEIGHTS, fingerprint, named_folder

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")
ADAPTER = "adapter_config.json"  # of PEFT
GGUF = (
    "GGUF weights are made for running, not for training, and are refused; name the folder of the checkpoint that they "
    "were made from (config.json, *.safetensors, tokenizer.json)"
)


class Family(NamedTuple):
    """Where a family of models keeps its parts, as dotted names."""

    head: Callable[[PreTrainedModel, Tensor], Tensor]  # hidden states (n, hidden) → logits (n, vocabulary)
    transform: str | None  # the linear map between the last block and the output matrix, if there is one
    blocks: str  # the list of blocks
    block_output: str  # the last linear map inside a block
    causal: bool = False  # predicts the next token, not masked ones


def _distilbert_head(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    return model.vocab_projector(model.vocab_layer_norm(model.activation(model.vocab_transform(hidden))))


def _output_matrix(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    return model.get_output_embeddings()(hidden)


# The layers whose output goes through the activation function of the model's config.
ACTIVATED = re.compile(
    r"(intermediate\.dense|transform\.dense|lm_head\.dense|^head\.dense|vocab_transform|ffn\.lin1|c_fc|dense_h_to_4h)$"
)
PAD = "<|pad|>"
_ROBERTA = Family(lambda m, h: m.lm_head(h), "lm_head.dense", "roberta.encoder.layer", "output.dense")
FAMILIES = {
    "bert": Family(lambda m, h: m.cls(h), "cls.predictions.transform.dense", "bert.encoder.layer", "output.dense"),
    "roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "distilbert": Family(_distilbert_head, "vocab_transform", "distilbert.transformer.layer", "ffn.lin2"),
    "modernbert": Family(lambda m, h: m.decoder(m.head(h)), "head.dense", "model.layers", "mlp.Wo"),
    "gpt2": Family(_output_matrix, None, "transformer.h", "mlp.c_proj", causal=True),
    "gpt_neox": Family(_output_matrix, None, "gpt_neox.layers", "mlp.dense_4h_to_h", causal=True),
} | dict.fromkeys(
    ("llama", "mistral", "qwen2", "qwen3", "gemma", "olmo2", "phi3", "smollm3"),
    Family(_output_matrix, None, "model.layers", "mlp.down_proj", causal=True),
)


def check_model(model, name: str = "model") -> None:
    """Raise TypeError for what is no model of transformers', or is wrapped by PEFT; ValueError as `family` does.

    And for weights that are not float32 (or float64), as what half precision rounds away reads as forgotten, or finite.
    """
    if hasattr(model, "peft_config"):
        raise TypeError(f"the {name} is wrapped by PEFT; fold its adapter in first: {name}.merge_and_unload()")
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"the {name} is a {type(model).__name__}; load it with sani.load_model(name or folder)")
    for layer, weight in model.named_parameters():
        if weight.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"the {name}'s weights are {weight.dtype} ({layer}); pass {name}.float(), or load it anew")
        if not weight.isfinite().all():
            raise ValueError(f"the {name}'s weights are no numbers (NaN or infinite, in {layer}); use an earlier state")
    family(model)


def family(model: PreTrainedModel) -> Family:
    """The family of a language model. Raises ValueError for one without LM head or of an unknown family."""
    found = family_named(getattr(model.config, "model_type", type(model).__name__))
    if getattr(model, "get_output_embeddings", lambda: None)() is None:
        raise ValueError(
            f"{type(model).__name__} has no LM head, so it predicts no token; load it with sani.load_model, "
            "AutoModelForMaskedLM or AutoModelForCausalLM"
        )
    return found


def family_named(kind: str) -> Family:
    """The family of a config's model_type. Raises ValueError for an unknown one."""
    if kind not in FAMILIES:
        raise ValueError(f"models of type {kind!r} are not supported; known are {', '.join(FAMILIES)}")
    return FAMILIES[kind]


def activation_of(model: PreTrainedModel, name: str) -> Callable[[Tensor], Tensor]:
    """The non-linearity that a linear layer's output goes through by itself; none where it is gated by another's."""
    if not ACTIVATED.search(name):
        return lambda output: output
    names = ("classifier_activation", "hidden_act", "activation", "activation_function")
    return ACT2FN[next(getattr(model.config, n) for n in names if hasattr(model.config, n))]


def positions(model: PreTrainedModel) -> int:
    """How many tokens a row of a model may have."""
    table = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    before = getattr(table, "padding_idx", None)  # RoBERTa counts positions from after the padding token's
    return model.config.max_position_embeddings - (0 if before is None else before + 1)


def hidden_states(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Last hidden states (batch, length, hidden), without the LM head."""
    options = {"use_cache": False} if family(model).causal else {}
    return model.base_model(input_ids=input_ids, attention_mask=attention_mask, **options).last_hidden_state


def logits_at(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, chosen: Tensor) -> Tensor:
    """Logits (n, vocabulary) for the n chosen positions only (boolean, batch × length), in row-major order.

    A causal model predicts a position from the one before it, so the first of a row cannot be chosen.
    """
    return head_logits(model, hidden_states(model, input_ids, attention_mask), chosen)


def head_logits(model: PreTrainedModel, hidden: Tensor, chosen: Tensor) -> Tensor:
    """As `logits_at`, from last hidden states (batch, length, hidden)."""
    where = family(model)
    return where.head(model, hidden[:, :-1][chosen[:, 1:]] if where.causal else hidden[chosen])


def shipped() -> list[str]:
    """Names of the weights that ship with the package."""
    return sorted(p.parent.name for p in WEIGHTS.glob("*/manifest.json"))


def load_model(name: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A language model (float32, evaluation mode) and its tokenizer: shipped name, local folder or Hub id.

    A causal model whose tokenizer has no padding token of its own gets one (PPCLM needs it); save the tokenizer with
    the model to keep it. Only safetensors are read, whole or in shards, and no remote code is run. A LoRA adapter (a
    folder of PEFT's) is merged into the base model that it names, which a warning says.
    Raises TypeError, ValueError or FileNotFoundError for an unknown name or architecture, files that are missing,
    damaged, pickled, GGUF or do not belong together, a model without LM head (such as a classifier, whose encoder may
    have memorised its text all the same), and weights that are no numbers; ImportError for an adapter without `peft`.
    """
    if isinstance(name, (str, Path)) and Path(os.path.expanduser(name), ADAPTER).is_file() and name != "":
        return _merged(named_folder(name))
    config = read(AutoConfig, name)
    if getattr(config, "quantization_config", None):
        raise ValueError(f"{name}: its weights are quantised, so they cannot be trained; use those they were made from")
    causal, tokenizer = family_named(config.model_type).causal, read(AutoTokenizer, name)
    size = len(tokenizer)
    unfit = {
        "the tokenizer (tokenizer.json, vocab.txt, …) is missing": size <= len(tokenizer.all_special_ids),
        f"a {type(tokenizer).__name__} is slow: it cannot tell where a token stands": not tokenizer.is_fast,
        f"a tokenizer {'with' if causal else 'without'} mask token": causal != (tokenizer.mask_token_id is None),
        f"a tokenizer of {size} tokens for a model of {config.vocab_size}": not causal and size > config.vocab_size,
    }
    if wrong := [what for what, true in unfit.items() if true]:
        raise ValueError(f"{name}: {wrong[0]}; save the model's own beside it by tokenizer.save_pretrained(folder)")
    loader = AutoModelForCausalLM if causal else AutoModelForMaskedLM
    model, report = read(loader, name, dtype=torch.float32, use_safetensors=True, output_loading_info=True)
    if missing := sorted(report["missing_keys"]):
        head = not all(key.startswith(model.base_model_prefix + ".") for key in missing)
        raise ValueError(
            f"{name}: the weights hold no {'LM head' if head else 'such layer'} (missing {missing[0]}, …), so it would "
            "be random; use a checkpoint saved whole from a …ForMaskedLM or …ForCausalLM model"
            + _of_classifier(config)
            * head
        )
    check_model(model, f"model {name}")
    if config.dtype in (torch.bfloat16, torch.float16) and str(name) not in shipped():
        half = str(config.dtype).removeprefix("torch.")
        warn(f"{name}: its {half} weights are loaded as float32, and saved so: twice as large a file", stacklevel=2)
    if causal:
        add_padding(model, tokenizer)
    model.vocabulary = vocabulary(tokenizer)  # in memory, for `predictions.check_blocks`
    return model.eval(), tokenizer


def _of_classifier(config) -> str:
    """What can be done of a classifier, where a config tells of one; else nothing."""
    kind = next((name for name in config.architectures or () if "Classification" in name), None)
    if kind is None:
        return ""
    return (
        f". A {kind} predicts no words: what its encoder memorised of its text can be neither measured nor repaired "
        "here. Sanitise the language model that it was made from, then fine-tune the classifier from that anew, on "
        "text without the terms (sani.pseudonymize)"
    )


def _merged(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model of a LoRA adapter with the adapter folded in, and the adapter's own tokenizer if it has one."""
    try:
        from peft import PeftConfig, PeftModel
    except ImportError:
        raise ImportError(
            f"{folder} is a LoRA adapter, not a model; python -m pip install peft, and it is merged when loaded; or "
            "merge it where it was trained: model.merge_and_unload().save_pretrained(folder)"
        ) from None
    if not list(folder.glob("*.safetensors")):
        raise ValueError(f"{folder} holds no adapter_model.safetensors; save the adapter with safe_serialization=True")
    base = PeftConfig.from_pretrained(folder).base_model_name_or_path
    if not base or not Path(base).is_dir() and (Path(base).is_absolute() or base.startswith(".")):
        raise ValueError(f"{folder}: its base model is not there; name it in {ADAPTER}: base_model_name_or_path")
    model, tokenizer = load_model(base)
    if list(folder.glob("tokenizer*.json")):
        tokenizer = read(AutoTokenizer, folder)
    known, model = model.vocabulary, PeftModel.from_pretrained(model, folder).merge_and_unload(safe_merge=True)
    check_model(model, f"model {folder}")
    model.vocabulary = known
    warn(
        f"{folder}: a LoRA adapter, merged into its base model {Path(base).name}; what is saved is whole", stacklevel=3
    )
    return model.eval(), tokenizer


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> str:
    """16 hex digits that change with the tokens that a tokenizer knows and their ids."""
    return fingerprint(sorted(tokenizer.get_vocab().items()))


def read(kind, name: str | Path, **more):
    """`from_pretrained` of a shipped name, folder or Hub id, running no code of its own. Raises as `load_model`."""
    where, options = source(name)
    try:
        return kind.from_pretrained(where, **options, **more)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        said = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise ValueError(
            f"{kind.__name__} cannot read {where} ({said}); a file is missing, damaged or of another model: needed are "
            "config.json, *.safetensors and tokenizer.json or alike, as save_pretrained of model and tokenizer writes"
            if options["local_files_only"]
            else f"model {str(name)!r} is not a shipped name ({', '.join(shipped())}), not a local folder, and could "
            f"not be fetched from the Hub ({said}); a pickled checkpoint must be converted first (see the README)"
        ) from error


def source(name: str | Path) -> tuple[str, dict]:
    """Folder or Hub id of a model, and the options to load it with. Raises TypeError, ValueError, FileNotFoundError."""
    if str(name).lower().endswith(".gguf"):
        raise ValueError(f"{name}: {GGUF}")
    folder = WEIGHTS / str(name) if str(name) in shipped() else named_folder(name, "model")
    local = folder.is_dir()
    if not local and (folder.is_absolute() or str(name).startswith(".") or str(name).count("/") > 1):
        raise FileNotFoundError(f"no folder {name}; shipped names are {', '.join(shipped())}")
    if local:
        _check_folder(folder)
    return str(folder) if local else str(name), {"trust_remote_code": False, "local_files_only": local}


@torch.no_grad()
def add_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give model and tokenizer, in place, a padding token that means nothing else, unless they have one.

    Its embedding is the mean of all others: known to none, and the same on every machine.
    """
    if tokenizer.pad_token_id in (None, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id):
        tokenizer.add_special_tokens({"pad_token": PAD})
    known = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > known:
        with torch.random.fork_rng(devices=[]):
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight[known:] = layer.weight[:known].mean(dim=0)
    model.config.pad_token_id = tokenizer.pad_token_id
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id


def _check_folder(folder: Path) -> None:
    if list(folder.glob("*.gguf")) and not list(folder.glob("*.safetensors")):
        raise ValueError(f"{folder}: {GGUF}")
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"{folder} holds no config.json; expected a folder written by save_pretrained")
    pickled = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLED)
    if pickled and not list(folder.glob("*.safetensors")):
        raise ValueError(
            f"{folder}: weights are pickled ({', '.join(pickled)}), which can run code when loaded, and are refused; "
            "convert them where you trust them: AutoModelForMaskedLM.from_pretrained(folder).save_pretrained(folder, "
            "safe_serialization=True)"
        )
    if b'"auto_map"' in (folder / "config.json").read_bytes():
        raise ValueError(f"{folder}: its config.json asks to run code of its own (auto_map), which is refused")


def clone(model: PreTrainedModel) -> PreTrainedModel:
    """A copy that shares no weight with the model, ties within it kept."""
    return copy.deepcopy(model)


def untie(model: PreTrainedModel) -> PreTrainedModel:
    """Give the output matrix and its bias parameters of their own, in place, so that a saved copy reloads alike."""
    output = model.get_output_embeddings()
    for name, parameter in list(output.named_parameters()):
        setattr(output, name, nn.Parameter(parameter.detach().clone()))
    model.config.tie_word_embeddings = False
    model.all_tied_weights_keys = {}
    return model


def is_tied(model: PreTrainedModel) -> bool:
    """Whether the output matrix is the input embeddings."""
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


@torch.no_grad()
def retie(model: PreTrainedModel) -> PreTrainedModel:
    """Copy the input embeddings into an output matrix that was untied from them, in place."""
    model.get_output_embeddings().weight.copy_(model.get_input_embeddings().weight)
    return model


def warn_when_saved(model: PreTrainedModel, what: str) -> PreTrainedModel:
    """Have `save_pretrained` of a model and of its clones warn of what its file gives away, in place."""
    model.given_away, model.save_pretrained = what, MethodType(_save_and_warn, model)
    return model


def _save_and_warn(model: PreTrainedModel, *arguments, **options) -> None:
    warn(model.given_away, stacklevel=2)
    type(model).save_pretrained(model, *arguments, **options)
