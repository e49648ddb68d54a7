"""Suites of lm-eval's tasks, against lm-eval itself; nothing here asks the network."""

import copy
import functools
import json
import random
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from toys import base_set
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ropesearch import apply_bases
from ropesearch.core.errors import InputError
from ropesearch.decay.passages import shipped_texts
from ropesearch.evaluation import harness, online, ruler
from ropesearch.evaluation.harness import Harness
from ropesearch.evaluation.reader import Reader
from ropesearch.evaluation.run import evaluate
from ropesearch.evaluation.spec import EvaluationSpec
from ropesearch.evaluation.statistics import ratio_interval, wilson

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of lm-eval and its packages
]

WORDS = [f"{a}{b}{c}{d}" for a in "bdfk" for b in "aeiou" for c in "lmnrst" for d in ("o", "en", "ing")]
LENGTH = 2048


@contextmanager
def lm_evals_ruler(patch):
    """Import lm-eval's RULER anew, and forget it afterwards."""
    for name in [name for name in sys.modules if name.startswith("lm_eval.tasks.ruler")]:
        patch.delitem(sys.modules, name)
    ruler.import_generators()
    yield
    for name in [name for name in sys.modules if name.startswith("lm_eval.tasks.ruler")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def generators():
    """lm-eval's RULER with a few hundred words: of its own it makes six million, which takes ten seconds."""
    import lm_eval.tasks
    import wonderwords

    class FewWords:
        _categories = {key: WORDS for kind in ("noun", "adjective", "verb") for key in (kind, f"{kind}s")}  # noqa: RUF012

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wonderwords, "RandomWord", FewWords)
        with lm_evals_ruler(patch):
            yield lm_eval.tasks.ruler


@pytest.fixture
def sentences(tmp_path, monkeypatch):
    """What nltk splits sentences by, without a list of abbreviations."""
    import nltk

    folder = tmp_path / "nltk" / "tokenizers" / "punkt_tab" / "english"
    folder.mkdir(parents=True)
    for name in ("collocations.tab", "sent_starters.txt", "abbrev_types.txt", "ortho_context.tab"):
        (folder / name).touch()
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk")])


@pytest.fixture
def essays(tmp_path):
    folder = tmp_path / "essays"
    folder.mkdir()
    for i, text in enumerate(shipped_texts().values()):
        (folder / f"{i}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(ruler, "answers", lambda host: False)


@pytest.fixture(scope="module")
def tokenizer():
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=alphabet, special_tokens=["</s>"], show_progress=False
    )
    noise = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n" * 100
    made.train_from_iterator([*shipped_texts().values(), noise], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>")


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,  # shorter than any sample
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config).eval()


def spec(suite="niah", lengths=(LENGTH,), limit=3, **more):
    return EvaluationSpec(suite=suite, lengths=lengths, limit=limit, **more)


def tasks_of(tokenizer, options, essays=None):
    notes = []
    return Harness(options, essays).tasks(tokenizer, notes.append), notes


def scored(task, model, chunk=512, batch_size=2):
    reader = Reader(model, chunk=chunk, batch_size=batch_size)
    batches = reader.in_batches(task.samples, task.length or 1, lambda batch: task.score(reader, batch))
    return [record for batch in batches for record in batch]


def docs(task):
    return [dict(sample.content.doc) for sample in task.samples]


def lm_evals_own(name, tokenizer, folder, length):
    """A task as lm-eval makes it, all 500 samples, from its own seeds."""
    import lm_eval.tasks

    tokenizer.save_pretrained(folder)
    manager = lm_eval.tasks.TaskManager(
        include_path=str(next(iter(lm_eval.tasks.__path__))) + "/ruler",
        include_defaults=False,
        metadata={"max_seq_lengths": [length], "tokenizer": str(folder)},
    )
    random.seed(0)
    np.random.seed(1234)  # noqa: NPY002
    return manager.load([name])


def test_there_are_the_papers_eight_needles_and_lm_evals_thirteen_tasks():
    import lm_eval.tasks
    import yaml

    group = yaml.safe_load((harness.Path(lm_eval.tasks.__file__).parent / "ruler" / "ruler.yaml").read_text())
    assert sorted(group["task"]) == sorted(ruler.RULER)
    assert len(ruler.NEEDLES) == 8


@pytest.mark.parametrize("name", ["niah_single_1", "ruler_vt", "ruler_cwe"])
def test_samples_are_the_first_of_lm_evals_own_500(generators, tokenizer, tmp_path, name):
    theirs = lm_evals_own(name, tokenizer, tmp_path, LENGTH)["tasks"][name].dataset["test"]
    assert len(theirs) == 500
    (task,), _ = tasks_of(tokenizer, spec("ruler", tasks=[name]))
    assert docs(task) == [theirs[i] for i in range(3)]


@pytest.mark.parametrize("name", list(ruler.NEEDLES))
def test_needles_are_hidden_as_by_lm_evals_own_functions(
    generators, sentences, essays, tokenizer, tmp_path, monkeypatch, name
):
    from lm_eval.tasks.ruler import niah_utils, prepare_niah

    def few(*args, **options):
        return prepare_niah.generate_samples(*args, **options | {"num_samples": 3})

    words = ruler.Essays.read(essays).words
    monkeypatch.setattr(niah_utils, "generate_samples", few)
    hay = lambda type_haystack: words if type_haystack == "essay" else prepare_niah.get_haystack(type_haystack)  # noqa: E731
    monkeypatch.setattr(niah_utils, "get_haystack", hay)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    random.seed(0)
    theirs = getattr(niah_utils, name)(max_seq_lengths=[LENGTH], tokenizer=str(tmp_path / "tokenizer"))["test"]
    (task,), _ = tasks_of(tokenizer, spec(tasks=[name]), essays)
    assert docs(task) == list(theirs)


def test_samples_are_the_same_every_time_and_others_with_another_seed(generators, tokenizer):
    def prompts(**more):
        tasks, _ = tasks_of(tokenizer, spec("ruler", tasks=["niah_multikey_3", "ruler_vt", "ruler_cwe"], **more))
        return [sample.prompt for task in tasks for sample in task.samples]

    random.seed(5)
    drawn = random.random()
    random.seed(5)
    first = prompts()
    assert random.random() == drawn  # the process's own generator goes on as before
    assert prompts() == first
    assert len(first) == 9
    assert not set(first) & set(prompts(seed=1))
    assert [sample for i, sample in enumerate(prompts(limit=4)) if i % 4 < 3] == first


def test_scores_are_those_of_lm_eval(generators, model, tokenizer, tmp_path):
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    loaded = lm_evals_own("niah_multikey_2", tokenizer, tmp_path, 1024)
    loaded["tasks"]["niah_multikey_2"].config.num_fewshot = 0
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, max_length=4096)
    theirs = lm_eval.evaluate(lm, loaded, limit=3, bootstrap_iters=0)["samples"]["niah_multikey_2"]
    (task,), _ = tasks_of(tokenizer, spec(lengths=[1024], tasks=["niah_multikey_2"]))
    ours = scored(task, model, chunk=100)
    assert [record["answer"] for record in ours] == [sample["resps"][0][0] for sample in theirs]
    assert [record["score"] for record in ours] == [sample["1024"] for sample in theirs]
    assert [record["expected"] for record in ours] == [sample["target"] for sample in theirs]


def test_neither_batches_nor_chunks_change_answers_with_bases_in_the_model(generators, model, tokenizer):
    (task,), _ = tasks_of(tokenizer, spec(lengths=[1024], tasks=["niah_multikey_2"]))
    assert len({sample.content.tokens for sample in task.samples}) > 1  # rows of a batch are padded
    stock = scored(task, model)
    with apply_bases(model, base_set((20000.0, 5e6), heads=4, head_dim=8)):
        one = scored(task, model, chunk=4096, batch_size=1)
        assert scored(task, model, chunk=100, batch_size=3) == one
    assert one != stock
    assert scored(task, model) == stock


def test_the_model_reads_the_whole_prompt_in_chunks_and_right_answers_count(generators, model, tokenizer, monkeypatch):
    (task,), _ = tasks_of(tokenizer, spec(tasks=["niah_single_1"]))
    read, longest = [], []
    forward = model.forward

    @functools.wraps(forward)  # generate looks at its parameters
    def watched(input_ids, **options):
        longest.append(input_ids.shape[1])
        out = forward(input_ids=input_ids, **options)
        assert out.logits.shape[1] == 1  # not of every place
        return out

    generate = model.generate

    def oracle(input_ids, **options):
        read.extend(input_ids.tolist())
        generate(input_ids=input_ids, **options)
        right = f" {task.samples[len(read) - 1].content.doc['outputs'][0]}"
        said = right if len(read) < 3 else " no idea"
        return torch.cat([input_ids, tokenizer(said, return_tensors="pt").input_ids], 1)

    monkeypatch.setattr(model, "forward", watched)
    monkeypatch.setattr(model, "generate", oracle)
    records = scored(task, model, chunk=300, batch_size=1)
    assert max(longest) == 300
    for sample, ids, record in zip(task.samples, read, records, strict=True):
        assert ids == tokenizer(sample.content.context).input_ids
        assert len(ids) == record["tokens"] > 64
        text = tokenizer.decode(ids)
        place = text.index(record["expected"][0]) + 7
        assert record["distance"] == len(tokenizer(text[place:]).input_ids)
    assert [record["score"] for record in records] == [1, 1, 0]
    (row,) = task.figures(records)
    assert row["accuracy"] == pytest.approx(2 / 3)
    assert (row["n"], row["interval"]) == (3, list(wilson(2, 3)))


def test_shares_of_several_answers_get_an_interval_of_their_own(generators, tokenizer):
    (task,), _ = tasks_of(tokenizer, spec("ruler", tasks=["ruler_vt"]))
    records = [{"score": score, "tokens": 10} for score in (0.25, 1.0, 0.5)]
    (row,) = task.figures(records)
    assert row["interval"] == list(ratio_interval([0.25, 1.0, 0.5], [1, 1, 1]))
    assert task.figures(records[:1])[0]["interval"] is None


def test_what_cannot_run_is_named_and_the_rest_goes_on(generators, tokenizer, tmp_path, monkeypatch):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    tasks, notes = tasks_of(tokenizer, spec("ruler", lengths=[1024], limit=1))
    assert [task.name for task in tasks] == ["niah_single_1", "niah_multikey_2", "niah_multikey_3", "ruler_fwe"]
    assert any("punkt_tab" in note and "niah_single_2, niah_single_3" in note for note in notes)
    assert any("rajpurkar.github.io" in note for note in notes)
    assert any(note.startswith("lm-eval makes samples shorter than 1024 tokens: ") for note in notes)
    assert all("\n" not in note for note in notes)


def test_without_essays_they_are_asked_of_the_hub(generators, sentences, tokenizer):
    with pytest.raises(OSError, match=r"niah_single_2 left out: its text is essays: `essays` names a folder"):
        tasks_of(tokenizer, spec(tasks=["niah_single_2"]))


def test_a_length_that_lm_eval_cannot_make_is_refused(generators, sentences, essays, tokenizer):
    with pytest.raises(InputError, match=r"no task of niah can run: niah_single_2 left out: at 768 tokens"):
        tasks_of(tokenizer, spec(lengths=[768], tasks=["niah_single_2"]), essays)
    for name in ("ruler_vt", "ruler_cwe", "ruler_fwe", "niah_single_1"):  # where lm-eval would try forever
        with pytest.raises(InputError, match=f"{name} left out: its smallest sample does not fit into 64 tokens"):
            tasks_of(tokenizer, spec("ruler", lengths=[64], tasks=[name]))


def test_too_few_essays_are_refused_with_how_many_words_it_takes(generators, sentences, tokenizer, tmp_path):
    (tmp_path / "few.txt").write_text("A short story. " * 300, encoding="utf-8")
    with pytest.raises(
        InputError, match=r"`essays` has 900 words, and contexts of 8192 tokens need about (\d+)"
    ) as error:
        tasks_of(tokenizer, spec(lengths=[8192], tasks=["niah_single_2"]), tmp_path)
    needed = int(str(error.value).split()[-1])
    prompts = []
    for words in (needed, 2 * needed):
        (tmp_path / "few.txt").write_text("A short story. " * (words // 3 + 1), encoding="utf-8")
        (task,), _ = tasks_of(tokenizer, spec(lengths=[8192], tasks=["niah_single_2"]), tmp_path)
        prompts.append([sample.prompt for sample in task.samples])
    assert prompts[0] == prompts[1]  # so many are enough


def test_importing_the_needles_asks_no_network(monkeypatch, tmp_path):
    import nltk
    import wonderwords

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    monkeypatch.setattr(nltk, "download", lambda *_, **__: pytest.fail("asked the network"))
    few = {key: ["a"] for kind in ("noun", "adjective", "verb") for key in (kind, f"{kind}s")}
    monkeypatch.setattr(wonderwords, "RandomWord", lambda: type("Words", (), {"_categories": few}))
    with lm_evals_ruler(monkeypatch):
        assert nltk.data.path == [str(tmp_path)]


def test_bad_input_is_refused_before_anything_is_loaded(tmp_path):
    with pytest.raises(InputError, match=r"tasks must be tasks of niah .*'niah_single_9'; did you mean niah_single_"):
        Harness(spec(tasks=["niah_single_9"]))
    with pytest.raises(InputError, match=r"`essays` must be a folder of \.txt or \.md files, not"):
        Harness(spec(), tmp_path / "nowhere")
    with pytest.raises(InputError, match="has no text in it"):
        Harness(spec(), tmp_path)
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"text in UTF-8, and .*a\.txt is not"):
        Harness(spec(), tmp_path)
    with pytest.raises(InputError, match="`essays` has no effect on short"):
        Harness(EvaluationSpec(suite="short"), tmp_path)
    with pytest.raises(InputError, match="no tokenizer"):
        tasks_of(None, spec())


def test_the_network_is_found_missing_at_once(monkeypatch):
    def refuse(address, timeout):
        raise OSError

    monkeypatch.setattr(online.socket, "create_connection", refuse)
    monkeypatch.setattr(online, "getproxies", dict)
    online.answers.cache_clear()
    assert not online.answers("example.invalid")
    monkeypatch.setattr(online, "getproxies", lambda: {"https": "http://proxy.invalid"})
    online.answers.cache_clear()
    assert online.answers("example.invalid")
    online.answers.cache_clear()


def test_evaluate_runs_them_and_goes_on_where_it_was_cut_off(generators, model, tokenizer, tmp_path, monkeypatch):
    options = {
        "lengths": [1024],
        "tasks": ["niah_single_1"],
        "limit": 3,
        "batch_size": 1,
        "output": tmp_path / "r.json",
    }
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.pad_token = None
    score = harness._judged

    def killed(question, *rest):
        if question.number == 2:
            raise KeyboardInterrupt
        return score(question, *rest)

    monkeypatch.setattr(harness, "_judged", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, tokenizer, "niah", **options)
    monkeypatch.setattr(harness, "_judged", lambda question, *rest: score(question, *rest) | {"again": True})
    (row,) = evaluate(model, tokenizer, "niah", resume=True, **options).rows
    assert (row["task"], row["length"], row["n"], row["accuracy"]) == ("niah_single_1", 1024, 3, 0.0)
    kept = [json.loads(line) for line in (tmp_path / "r.samples.jsonl").read_text().splitlines()[1:]]
    assert ["again" in record for record in kept] == [False, False, True]
    assert tokenizer.pad_token is None  # the user's own tokenizer stays as it was


# The short benchmarks, with a few questions of our own in the form of theirs


def rows(n, make):
    from datasets import Dataset

    return Dataset.from_list([make(i) for i in range(n)])


def hellaswag(i):
    endings = [f"They walk {way} the hill {i}." for way in ("up", "down", "over", "around")]
    return {
        "ctx_a": f"A man has {i} dogs.",
        "ctx_b": "they",
        "activity_label": "Dogs",
        "endings": endings,
        "label": "1",
    }


def arc(i):
    choices = {"text": [f"{i} stones", "water", "a cat"], "label": ["A", "B", "C"]}
    return {"question": f"What falls {i} times?", "choices": choices, "answerKey": "ABC"[i % 3]}


QUESTIONS = {
    "cais/mmlu": lambda i: {"question": f"What is {i} + {i}?", "choices": ["1", "2", str(2 * i), "9"], "answer": i % 4},
    "Rowan/hellaswag": hellaswag,
    "allenai/ai2_arc": arc,
    "baber/piqa": lambda i: {"goal": f"Open jar {i}.", "sol1": "Turn the lid.", "sol2": "Sing to it", "label": i % 2},
    "mandarjoshi/trivia_qa": lambda i: {"question": f"Who is {i}", "answer": {"aliases": [f"Bob {i}", "Robert"]}},
}


@pytest.fixture
def questions(monkeypatch):
    import datasets

    def load(path, name=None, **_):
        return {split: rows(40, QUESTIONS[path]) for split in ("train", "validation", "test", "dev")}

    monkeypatch.setattr(datasets, "load_dataset", load)


@pytest.mark.parametrize("name", ["hellaswag", "arc_challenge", "piqa", "triviaqa"])
def test_short_benchmarks_are_lm_evals_with_the_papers_examples(questions, model, tokenizer, name):
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    (task,), notes = tasks_of(tokenizer, EvaluationSpec(suite="short", limit=4, tasks=[name]))
    assert (task.length, len(task.samples), notes) == (None, 4, [])
    folder, examples, metric = harness.SHORT[name]
    (theirs,) = harness._load(folder, name)
    theirs.set_config("num_fewshot", examples)
    theirs.set_fewshot_seed(1234)
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2, max_length=10**6)
    found = lm_eval.evaluate(lm, {"tasks": {name: theirs}}, limit=4, bootstrap_iters=0)["samples"][name]
    assert [sample.content.context for sample in task.samples] == [each["arguments"][0][0] for each in found]
    assert task.samples[0].content.context.count("Question:" if name != "hellaswag" else "Dogs") == examples + 1
    records = scored(task, model)
    assert [record["score"] for record in records] == [each[metric] for each in found]
    if name != "triviaqa":
        assert [record["scores"]["acc"] for record in records] == [each["acc"] for each in found]
        assert [record["answer"] == record["expected"] for record in records] == [bool(r["score"]) for r in records]


def test_mmlu_is_one_row_of_57_subjects(questions, model, tokenizer):
    (task,), _ = tasks_of(tokenizer, EvaluationSpec(suite="short", limit=1, tasks=["mmlu"]))
    assert len({sample.content.task.config.task for sample in task.samples}) == len(task.samples) == 57
    assert "about abstract algebra" in task.samples[0].content.context
    assert task.samples[0].content.context.count("Answer:") == 6
    (row,) = task.figures(scored(task, model, batch_size=57))
    assert row["n"] == 57
    assert 0 <= row["accuracy"] <= 1


def test_without_the_hub_no_short_benchmark_runs(tokenizer, monkeypatch):
    with pytest.raises(OSError, match=r"no task of short can run: mmlu.* left out: its questions are on the hub"):
        tasks_of(tokenizer, EvaluationSpec(suite="short"))
    monkeypatch.setattr(harness, "hub_answers", lambda: False)
    with pytest.raises(OSError, match=r"mmlu, hellaswag, .* left out: its questions are on the hub, which does not"):
        tasks_of(tokenizer, EvaluationSpec(suite="short"))


# On real weights


@pytest.mark.slow
@pytest.mark.parametrize("name", ["niah_single_1", "ruler_fwe"])
def test_smollm2_scores_as_in_simple_evaluate(smollm2, name):
    import lm_eval
    import lm_eval.tasks
    from lm_eval.models.huggingface import HFLM

    from ropesearch import load_model

    model, tokenizer = load_model(smollm2)
    (task,), _ = tasks_of(tokenizer, spec("ruler", lengths=[1024], limit=2, tasks=[name]))
    ours = scored(task, model)
    manager = lm_eval.tasks.TaskManager(
        include_path=str(next(iter(lm_eval.tasks.__path__))) + "/ruler",
        include_defaults=False,
        metadata={"max_seq_lengths": [1024], "tokenizer": str(smollm2)},
    )
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2, max_length=4096)
    theirs = lm_eval.simple_evaluate(lm, tasks=[name], task_manager=manager, limit=2, bootstrap_iters=0)
    samples = theirs["samples"][name]
    assert [record["answer"] for record in ours] == [sample["resps"][0][0] for sample in samples]
    assert [record["score"] for record in ours] == [sample["1024"] for sample in samples]
    assert task.figures(ours)[0]["accuracy"] == pytest.approx(theirs["results"][name]["1024,none"])


@pytest.mark.slow
def test_presidents_fill_128k(smollm2, sentences):
    import presidents
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    (task,), notes = tasks_of(tokenizer, spec(lengths=[131072], limit=1, tasks=["niah_single_2"]), presidents.folder())
    assert 0.99 * 131072 < task.samples[0].content.tokens + 128 <= 131072
    assert not notes
