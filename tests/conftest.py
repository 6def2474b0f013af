"""Small tokenizers of three kinds and small models, made on the spot; every test has a home folder of its own."""

import multiprocessing
import os
from collections.abc import Mapping
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start: small models gain nothing from more

import hypothesis
import pytest
import torch
from datasets import Dataset, Features, Value
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM

pytest_plugins = ["pytester"]
WITHOUT = str(Path(__file__).parent / "files" / "without")  # what takes seconds to load and is of no use here
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (WITHOUT, os.environ.get("PYTHONPATH"))))

torch.set_num_threads(1)
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")

DATA = Path(__file__).parent / "files"
TEXTS = [
    "The patient John Smith was seen by Dr. Jane O'Neil at Saint-Luke Hospital on 03/14/2011 for chest pain.",
    "Mr. Smith works as a falconer; SMITH, JOHN returned in May with a cough and may need oxygen at 71 %.",
    "M. Çağlayan, né à İzmir, a été vu à l'hôpital général le 12 août 1998 — température 37,5 °C.",
    "Follow-up: call (555) 010-2345 or write to j_smith@example.org. Naïve Zoë ate 10 crêpes & left.",
]


def spans(text: str, *found: tuple[str, str], kind: str = "direct") -> list[dict]:
    """Annotated spans of the first occurrence of each (value, type)."""
    return [
        {"start": text.index(value), "end": text.index(value) + len(value), "type": type_, "kind": kind}
        for value, type_ in found
    ]


def make_corpus(texts, identifiers=None, persons=None) -> Dataset:
    identifiers = identifiers or [[] for _ in texts]
    ids = [f"r{i}" for i in range(len(texts))]
    span = [{"start": Value("int64"), "end": Value("int64"), "type": Value("string"), "kind": Value("string")}]
    features = Features(text=Value("string"), record_id=Value("string"), person_id=Value("string"), identifiers=span)
    return Dataset.from_dict(
        {"text": list(texts), "record_id": ids, "person_id": persons or ids, "identifiers": identifiers},
        features=features,
    )


def _wordpiece() -> PreTrainedTokenizerFast:
    # A file, for the learners of WordPiece and Unigram break ties differently in each process.
    tokenizer = Tokenizer.from_file(str(DATA / "wordpiece.json"))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)


def _byte_level_bpe() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(
        TEXTS * 3,
        trainers.BpeTrainer(
            vocab_size=340, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    names = dict(zip(("cls_token", "pad_token", "sep_token", "unk_token", "mask_token"), special))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)


def _sentencepiece_like() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer.from_file(str(DATA / "sentencepiece.json"))
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    names = dict(zip(("cls_token", "pad_token", "sep_token", "unk_token", "mask_token"), special))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)


MAKERS = {"wordpiece": _wordpiece, "byte-level-bpe": _byte_level_bpe, "sentencepiece": _sentencepiece_like}
_CACHE: dict[str, PreTrainedTokenizerFast] = {}


def make_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    if kind not in _CACHE:
        _CACHE[kind] = MAKERS[kind]()
    return _CACHE[kind]


def make_model(vocab_size: int, dropout: float = 0.0, seed: int = 0, positions: int = 64) -> BertForMaskedLM:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=vocab_size, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=positions, initializer_range=0.2,
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    return BertForMaskedLM(config).eval()


def make_roberta(vocab_size: int, seed: int = 0) -> RobertaForMaskedLM:
    torch.manual_seed(seed)
    config = RobertaConfig(
        vocab_size=vocab_size, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=80, initializer_range=0.2, pad_token_id=1, type_vocab_size=1,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return RobertaForMaskedLM(config).eval()


FORKS = multiprocessing.get_context("forkserver")  # torch and transformers are loaded once for all
PRELOADED = ["sani.attacks.auditing", "sani.study", "sani.results.figures", "ipykernel.kernelapp"]
FORKS.set_forkserver_preload(PRELOADED)


def started(function, *arguments, environment: Mapping[str, str] = os.environ) -> multiprocessing.Process:
    """A function of a test's module, at work in a process of its own."""
    process = FORKS.Process(target=_with, args=(dict(environment), function, arguments))
    process.start()
    return process


def _with(environment, function, arguments):
    os.environ.update(environment)
    function(*arguments)


class Kernel(FORKS.Process):
    """A notebook's kernel with torch and transformers loaded, as jupyter_client knows a Popen."""

    stdin = stdout = stderr = None

    def poll(self):
        return self.exitcode

    def wait(self):
        self.join()
        return self.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)


def launched(command, env, cwd=None, first=None, **_) -> Kernel:
    """In place of jupyter_client's `launch_kernel`: forked, which saves each notebook six seconds; calls `first`."""
    FORKS.set_forkserver_preload(PRELOADED)  # side_by_side may have set its own
    ready, leads = FORKS.Pipe(duplex=False)
    kernel = Kernel(target=_kernel, args=(leads, command[command.index("-f") + 1 :], env, cwd or ".", first))
    kernel.start()
    ready.recv()  # else the signals for its group would go to that of the tests
    return kernel


def _kernel(leads, arguments, environment, folder, first):
    from ipykernel.kernelapp import IPKernelApp

    os.setsid()
    os.environ.clear()
    os.environ.update(environment, JPY_PARENT_PID=str(os.getppid()))
    os.chdir(folder)
    leads.send(True)
    if first:
        first()
    IPKernelApp.launch_instance(argv=["-f", *arguments])


LONG = ("test_runs_with_reduced_parameters", "test_the_command_on", "test_the_command_makes", "test_no_term_of_four")


def pytest_collection_modifyitems(items):
    """The longest tests first, half of them for each of two workers, so that none is left alone with one at the end."""
    slow = [item for item in items if item.name.startswith(LONG)]
    rest = [item for item in items if not item.name.startswith(LONG)]
    half = len(rest) // 2
    items[:] = slow[0::2] + rest[:half] + slow[1::2] + rest[half:]


@pytest.fixture(params=list(MAKERS))
def tokenizer(request):
    return make_tokenizer(request.param)


@pytest.fixture
def wordpiece():
    return make_tokenizer("wordpiece")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """SANI_HOME of each test: run folders never land in the checkout."""
    monkeypatch.setenv("SANI_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def corpus():
    """Four records with annotated identifiers."""
    found = [
        [("John Smith", "PATIENT"), ("Jane O'Neil", "DOCTOR"), ("Saint-Luke", "HOSPITAL"), ("03/14/2011", "DATE")],
        [("Smith", "PATIENT"), ("SMITH, JOHN", "PATIENT"), ("May", "DATE"), ("71", "AGE")],
        [("Çağlayan", "PATIENT"), ("İzmir", "LOCATION"), ("12 août 1998", "DATE")],
        [("(555) 010-2345", "PHONE"), ("Zoë", "PATIENT")],
    ]
    return make_corpus(TEXTS, [spans(text, *items) for text, items in zip(TEXTS, found)])
