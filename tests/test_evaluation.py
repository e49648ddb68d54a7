"""What evaluations measure, against slow and obvious twins."""

import gzip
import json
import math

import naive
import numpy as np
import pytest
import scipy.stats
import torch
import zstandard
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from toys import (
    BASE,
    HEAD_DIM,
    base_set,
    naive_log_probabilities,
    naive_logits,
    naive_sliding_nats,
    reader_toy,
    tokens,
    toy,
    word_tokenizer,
)
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from ropesearch import EvaluationSpec, Results, apply_bases, evaluate, load_model, parse_scheme, shipped_texts
from ropesearch.evaluation import needle, perplexity, recall, samples, spec, statistics
from ropesearch.evaluation.reader import Reader
from ropesearch.evaluation.self_extend import apply_self_extend
from ropesearch.evaluation.texts import Hay, Texts

pytestmark = pytest.mark.usefixtures("one_thread")
SENTENCES = " ".join(
    [needle.SENTENCE, needle.QUESTION, recall.PAIR, *needle.CITIES, *recall.KEYS, *recall.VALUES, *"0123456789"]
)


PACKED = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer(SENTENCES, *shipped_texts().values())


@pytest.fixture(scope="module")
def model(tokenizer):
    return reader_toy(tokenizer)


@pytest.fixture
def documents(tmp_path):
    """Three documents of some 1100, 150 and 800 tokens."""
    narrative, essay = shipped_texts()["narrative"], shipped_texts()["essay"]
    texts = [" ".join(essay.split()[:1000]), " ".join(essay.split()[:130]), " ".join(narrative.split()[:700])]
    path = tmp_path / "docs.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


# Intervals


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (7, 10), (10, 10), (263, 500)])
def test_wilsons_interval_is_that_of_scipy(hits, n):
    expected = scipy.stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(statistics.wilson(hits, n), [expected.low, expected.high], atol=1e-12)


def test_bootstrap_of_a_ratio_is_what_drawing_one_by_one_gives():
    random = np.random.default_rng(0)
    counts = random.integers(1, 30, 25)
    sums = counts * 2.0 + random.normal(size=25)
    found = statistics.ratio_interval(sums, counts)
    np.testing.assert_allclose(found, naive.bootstrap(sums, counts, draws=4000), rtol=0.02)
    assert found[0] < sums.sum() / counts.sum() < found[1]


def test_differences_are_taken_in_pairs():
    # Documents differ by far more than the two models do on each.
    random = np.random.default_rng(1)
    first = [(10.0 * i, 5) for i in range(1, 30)]
    second = [(total + 5 * (1 + 0.01 * random.normal()), n) for total, n in first]
    difference, (low, high) = statistics.paired_difference([(first, second)])
    assert difference == pytest.approx(1, abs=0.01)
    assert 0.98 < low < difference < high < 1.02
    assert statistics.paired_difference([(first[:1], second[:1])])[1] == (-math.inf, math.inf)


@pytest.mark.parametrize("n", [3, 6, 12])
def test_intervals_of_few_documents_hold_what_they_promise(n):
    random, held = np.random.default_rng(n), 0
    for seed in range(400):
        low, high = statistics.ratio_interval(random.normal(size=n), np.ones(n), seed)
        held += low <= 0 <= high
    assert 0.9 < held / 400 < 0.99


# Reading


@pytest.mark.parametrize("chunk", [64, 7, 1])
@pytest.mark.parametrize("name", ["llama-grouped", "qwen3-grouped", "mistral-grouped"])
def test_chunks_give_the_log_probabilities_of_one_pass(name, chunk):
    model, ids = toy(name), tokens(3, 40)
    with torch.no_grad():
        expected = naive_log_probabilities(model(ids).logits, ids)
    for last in (39, 5, 1):
        found = Reader(model, chunk=chunk).log_probabilities(ids, last)
        torch.testing.assert_close(found, expected[:, -last:], atol=2e-5, rtol=0)


def test_bases_in_memory_are_read_with():
    model, ids = toy("llama-grouped"), tokens(1, 40)
    stock = Reader(model).log_probabilities(ids, 39)
    with apply_bases(model, base_set((3.0, 50.0))):
        with torch.no_grad():
            expected = naive_log_probabilities(model(ids).logits, ids)
        found = Reader(model, chunk=9).log_probabilities(ids, 39)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    assert (found - stock).abs().max() > 0.01


@pytest.mark.parametrize("name", ["llama-grouped", "mistral-grouped"])
def test_questions_do_not_see_each_other(name):
    model, ids = toy(name), tokens(50)
    reader = Reader(model, chunk=16)
    cache = reader.context(ids[None, :40])
    for start in (40, 44):
        question = ids[start : start + 4]
        whole = torch.cat([ids[:40], question])[None]
        with torch.no_grad():
            expected = model(whole).logits[0, -1].log_softmax(-1)
        torch.testing.assert_close(reader.continue_from(cache, question), expected, atol=2e-5, rtol=0)


def test_greedy_goes_on_as_generate_does():
    model, ids = toy("llama-grouped"), tokens(2, 30)
    expected = model.generate(ids, do_sample=False, max_new_tokens=6)[:, 30:]
    assert Reader(model, chunk=8).greedy(ids, 6).tolist() == expected.tolist()


def test_batches_shrink_until_they_fit(monkeypatch):
    reader, sizes = Reader(toy("llama-grouped"), batch_size=8), []

    def score(batch):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.cuda.OutOfMemoryError
        return [{} for _ in batch]

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    assert [len(found) for found in reader.in_batches(range(5), 16, score)] == [2, 2, 1]
    assert sizes == [5, 4, 2, 2, 1]


def test_a_length_that_does_not_fit_names_one_that_does(monkeypatch):
    reader = Reader(toy("llama-grouped"))
    monkeypatch.setattr("ropesearch.evaluation.reader.available_memory", lambda: reader._bytes(1000))
    with pytest.raises(MemoryError, match=r"5000 tokens need .* free: 1000 tokens would fit"):
        list(reader.in_batches([1], 5000, lambda batch: [{}]))


# Perplexity


@pytest.mark.parametrize("truncate", [False, True])
def test_perplexity_is_that_of_windows_moved_by_hand(model, tokenizer, documents, truncate):
    found = evaluate(
        model, tokenizer, "perplexity", lengths=[64, 200], data=[documents], stride=32, truncate=truncate, limit=2
    )
    ids = [tokenizer(json.loads(line)["text"]).input_ids for line in documents.read_text().splitlines()]
    ids = [ids[0], ids[2]]  # the second is shorter than 200 tokens
    for row, length in zip(found.rows, (64, 200), strict=True):
        cut = [document[:length] for document in ids] if truncate else ids
        nats, positions = naive_sliding_nats(model, cut, length, 32)
        assert row["length"] == length
        assert row["n"] == 2
        assert row["tokens"] == len(nats)
        assert row["perplexity"] == pytest.approx(math.exp(np.mean(nats)), rel=1e-5)
        assert row["interval"][0] <= row["perplexity"] <= row["interval"][1]
        bands = row["by_position"]
        for first, last, figure in zip(bands["from"], bands["to"], bands["perplexity"], strict=True):
            own = nats[(positions >= first) & (positions <= last)]
            assert figure == pytest.approx(math.exp(np.mean(own)), rel=1e-5)
        assert bands["from"][0] == 1
        assert bands["from"][1:] == [last + 1 for last in bands["to"][:-1]]
    (note,) = found.notes
    assert note.startswith("left out as shorter than 200 tokens: docs.jsonl 1 (")


def test_bands_of_positions_tile_them_by_half_octaves():
    bands = [perplexity.band_of(position) for position in range(1, 5000)]
    assert bands == sorted(bands)
    for band in set(bands):
        first, last = perplexity.band_range(band)
        assert perplexity.band_of(first) == perplexity.band_of(last) == band
        if band > perplexity.FIRST_BAND:
            assert first == math.ceil(2 ** (band / 2))


def test_no_document_is_long_enough(model, tokenizer, documents):
    with pytest.raises(ValueError, match=r"no document has 99999 tokens; the longest, docs.jsonl 0, has \d+"):
        evaluate(model, tokenizer, "perplexity", lengths=[99999], data=[documents])


@pytest.mark.parametrize("suffix", PACKED)
@pytest.mark.parametrize("text", ["null\n", 'null\n{"text": "a"}\n', "text\n"])
def test_lines_that_are_no_objects_are_refused(model, tokenizer, tmp_path, text, suffix):
    path = tmp_path / f"docs.jsonl{suffix}"
    path.write_bytes(PACKED[suffix](text.encode()))
    with pytest.raises(ValueError, match=r"docs.jsonl\S* cannot be read: it begins with neither"):
        evaluate(model, tokenizer, "perplexity", lengths=[64], stride=32, data=[path])
    with pytest.raises(ValueError, match=r"xxx\.\.\. does not exist"):
        evaluate(model, tokenizer, "perplexity", lengths=[64], stride=32, data="x" * 5000)


# Recall


def test_distances_and_values_are_where_records_say(tokenizer):
    own = EvaluationSpec(suite="recall", lengths=[600], pairs=16, limit=3)
    (task,) = recall.Recall(own, Texts.find((), "text")).tasks(tokenizer, pytest.fail)
    for sample in task.samples:
        context = sample.content
        for question, value, distance in zip(context.questions, context.values, context.distances, strict=True):
            whole = context.tokens + question
            place = len(whole) - 1 - distance
            assert whole[place] == value
            assert whole[place - len(question) : place] == question
            assert 0 < distance < len(whole) <= 600
        assert len(context.tokens) + max(map(len, context.questions)) == 600
        assert len(set(context.values)) == 16
        # Spread over all distances: one in each sixteenth, or in the next.
        gaps = -np.diff(context.distances)
        assert gaps.min() > 0
        assert gaps.max() < 3 * 600 / 16


def test_recall_scores_as_a_pass_over_everything_does(model, tokenizer):
    found = evaluate(model, tokenizer, "recall", lengths=[300], pairs=8, limit=4, chunk=50)
    (task,) = recall.Recall(EvaluationSpec(**found.spec), Texts.find((), "text")).tasks(tokenizer, pytest.fail)
    right, nats, bands = [], [], []
    for sample in task.samples:
        context = sample.content
        for question, value, distance in zip(context.questions, context.values, context.distances, strict=True):
            with torch.no_grad():
                scores = model(torch.tensor([context.tokens + question])).logits[0, -1].log_softmax(-1)
            right.append(max(context.values, key=lambda token: scores[token]) == value)
            nats.append(-float(scores[value]))
            bands.append(min(int((distance - 1) // (300 / 8)), 7))
    (row,) = found.rows
    assert row["n"] == 32
    assert row["accuracy"] == pytest.approx(np.mean(right))
    assert row["nats"] == pytest.approx(np.mean(nats), abs=1e-4)
    by_distance = row["by_distance"]
    for i, band in enumerate(sorted(set(bands))):
        own = [j for j, other in enumerate(bands) if other == band]
        assert by_distance["n"][i] == len(own)
        assert by_distance["accuracy"][i] == pytest.approx(np.mean([right[j] for j in own]))
        assert by_distance["nats"][i] == pytest.approx(np.mean([nats[j] for j in own]), abs=1e-4)


def test_recall_refuses_what_its_pairs_do_not_fit_in(model, tokenizer):
    with pytest.raises(ValueError, match=r"lengths must be at least \d+ for its pairs, not 100; fewer `pairs`"):
        evaluate(model, tokenizer, "recall", lengths=[100])


# Needles


def test_prompts_have_the_length_and_the_depth(tokenizer):
    own = EvaluationSpec(suite="needle", lengths=[300], depths=5, limit=2)
    (task,) = needle.Needle(own, Texts.find((), "text")).tasks(tokenizer, pytest.fail)
    assert len(task.samples) == 10
    for sample in task.samples:
        prompt = sample.content
        assert len(prompt.tokens) + 5 == 300  # five digits
        digits = tokenizer(prompt.answer, add_special_tokens=False).input_ids
        places = [i for i in range(300) if prompt.tokens[i : i + 5] == digits]
        (place,) = places
        assert place / 290 == pytest.approx(prompt.depth, abs=0.1)
        end = len(prompt.tokens) - 1 - prompt.distance
        assert end - place - 5 in (0, 1)  # the digits, and the full stop
        assert prompt.tokens[0] == tokenizer.bos_token_id
    depths = [sample.content.depth for sample in task.samples]
    assert depths == [0, 0.25, 0.5, 0.75, 1] * 2
    # All depths of a repeat are in the same text: after a needle at the top, what stands above one at the bottom.
    top, bottom = task.samples[0].content.tokens, task.samples[4].content.tokens
    shift = next(i for i in range(1, 50) if top[1 + i : 100 + i] == bottom[1:100])
    assert shift == len(tokenizer(needle.SENTENCE.format(city="Paris", number=12345)).input_ids) - 1


@pytest.mark.parametrize(
    ("said", "score"), [(" 48213.\nQ", 1), ("48213", 1), (" 482131", 0), (" 48214", 0), ("", 0), (" is 48213", 0)]
)
def test_only_the_number_itself_is_right(said, score):
    prompt = needle.Prompt([1], "48213", 0.5, 10)
    assert needle._judged(prompt, said)["score"] == score


def test_text_that_is_too_short_is_repeated(tokenizer):
    hay = Hay.read(Texts.find((), "text"), tokenizer, 10**9, [].append)
    n = len(hay.tokens)
    assert hay.piece(0.5, n) == [*hay.tokens[n // 2 :], *hay.tokens[: n // 2]]


# Self-Extend


@pytest.mark.parametrize(("window", "group"), [(8, 4), (7, 3), (16, 1)])
@pytest.mark.parametrize("name", ["llama-grouped", "qwen3-grouped"])
def test_self_extend_is_one_score_at_a_time(name, window, group):
    model, ids = toy(name), tokens(1, 45)
    scheme = parse_scheme(f"self-extend:{window},group={group},head_dim={HEAD_DIM}")
    i, j = torch.arange(45)[:, None], torch.arange(45)
    distances = torch.where(i - j < window, i - j, i // group + window - window // group - j // group)
    with torch.no_grad():
        expected = naive_logits(model, [BASE] * 2, ids, distances=distances)
        stock = model(ids).logits
        with apply_self_extend(model, scheme):
            torch.testing.assert_close(model(ids).logits, expected, atol=2e-4, rtol=0)
            chunked = Reader(model, chunk=11).log_probabilities(ids, 44)
            torch.testing.assert_close(chunked, naive_log_probabilities(expected, ids), atol=2e-4, rtol=0)
        assert torch.equal(model(ids).logits, stock)
    if group == 1:
        torch.testing.assert_close(stock, expected, atol=2e-4, rtol=0)
    else:
        assert (stock - expected).abs().max() > 0.01


def test_self_extend_takes_padding_before_a_text():
    model, ids = toy("llama-grouped"), tokens(1, 40)
    scheme = parse_scheme(f"self-extend:8,group=4,head_dim={HEAD_DIM}")
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), ids], 1)
    mask = (torch.arange(45) >= 5)[None].long()
    with apply_self_extend(model, scheme), torch.no_grad():
        expected = model(ids).logits
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        found = model(padded, attention_mask=mask, position_ids=positions).logits[:, 5:]
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)


def test_self_extend_refuses_windows():
    scheme = parse_scheme(f"self-extend:8,group=4,head_dim={HEAD_DIM}")
    with pytest.raises(ValueError, match="layers that see a window only"):
        apply_self_extend(toy("mistral-grouped"), scheme)
    for name in ("glm", "nemotron"):
        scheme = parse_scheme("self-extend:8,group=4", model=toy(name).config.to_dict())
        with pytest.raises(ValueError, match="rotates a part of each head, or pairs of neighbouring channels, and se"):
            apply_self_extend(toy(name), scheme)


# Runs


def run(model, tokenizer, **options):
    own = {"lengths": [300], "pairs": 8, "limit": 3} | options
    return evaluate(model, tokenizer, "recall", **own)


def test_schemes_share_the_samples_and_leave_the_model(model, tokenizer, tmp_path):
    before = model.config.to_dict()
    path = tmp_path / "r.json"
    schemes = ["own", "yarn:4,original=64", "self-extend:64,group=4", "uniform"]
    found = run(model, tokenizer, schemes=schemes, output=path)
    assert model.config.to_dict() == before
    assert [row["scheme"] for row in found.rows] == [None, *schemes[1:]]
    assert len({row["nats"] for row in found.rows}) == 4
    head, *records = map(json.loads, (tmp_path / "r.samples.jsonl").read_text().splitlines())
    assert head["settings"].items() >= {"suite": "recall", "lengths": [300], "pairs": 8, "limit": 3, "seed": 0}.items()
    assert "stride" not in head["settings"]
    prompts = {}
    for record in records:
        prompts.setdefault(record["sample"], set()).add(record["prompt"])
    assert [len(digests) for digests in prompts.values()] == [1, 1, 1]
    assert Results.load(path) == found
    alone = run(model, tokenizer, schemes=["yarn:4,original=64"])
    assert alone.rows == (found.rows[1],)


@pytest.mark.parametrize(("lost", "again"), [(1, 0), (30, 1)])  # a line that lost its end only, and one cut off
def test_a_killed_run_goes_on(model, tokenizer, tmp_path, lost, again, monkeypatch):
    path, samples = tmp_path / "r.json", tmp_path / "r.samples.jsonl"
    whole = run(model, tokenizer, output=path, batch_size=1)
    text = samples.read_bytes()
    path.unlink()
    samples.write_bytes(text[:-lost])
    asked = []
    ask = recall.ask
    monkeypatch.setattr(recall, "ask", lambda *a: asked.append(1) or ask(*a))
    assert run(model, tokenizer, output=path, batch_size=1, resume=True) == whole
    assert len(asked) == again
    assert samples.read_bytes() == text
    assert run(model, tokenizer, output=path, batch_size=1, resume=True) == whole
    assert len(asked) == again


def test_files_are_not_replaced_or_mixed(model, tokenizer, tmp_path):
    path = tmp_path / "r.json"
    run(model, tokenizer, output=path)
    with pytest.raises(FileExistsError, match=r"r.json already exists"):
        run(model, tokenizer, output=path)
    with pytest.raises(ValueError, match=r"holds samples of other settings: seed was 0 and is 1$"):
        run(model, tokenizer, output=path, resume=True, seed=1)
    path.unlink()
    with pytest.raises(FileExistsError, match=r"r.samples.jsonl already exists"):
        run(model, tokenizer, output=path)
    run(model, tokenizer, output=path, overwrite=True, seed=1)


def test_samples_of_another_model_or_other_bases_are_not_taken_for_these(model, tokenizer, tmp_path):
    import copy

    path, bases = tmp_path / "r.json", tmp_path / "bases.json"
    base_set((3.0, 50.0), head_dim=8).save(bases)
    schemes = [f"harpe:{bases}"]
    run(model, tokenizer, output=path, schemes=schemes)
    base_set((30.0, 500.0), head_dim=8).save(bases, overwrite=True)
    with pytest.raises(ValueError, match="samples of other settings: schemes was"):
        run(model, tokenizer, output=path, schemes=schemes, resume=True)
    run(model, tokenizer, output=path, overwrite=True)
    other = copy.deepcopy(model)
    other.lm_head.weight.data[0, 0] += 1
    with pytest.raises(ValueError, match="samples of other settings: models was"):
        run(other, tokenizer, output=path, resume=True)


def test_a_run_that_fails_before_its_first_sample_leaves_nothing(model, tmp_path):
    with pytest.raises(ValueError, match="the model has no tokenizer"):
        run(model, None, output=tmp_path / "r.json")
    assert list(tmp_path.iterdir()) == []


def test_two_evaluations_of_one_output_take_turns(model, tokenizer, tmp_path):
    path = tmp_path / "r.json"
    refused = []

    def in_the_middle(*_):
        with pytest.raises(OSError, match=r"^another evaluation is writing .*r\.json$"):
            run(model, tokenizer, output=path, overwrite=True)
        refused.append(True)

    run(model, tokenizer, output=path, progress=in_the_middle)
    assert refused
    assert sorted(file.name for file in tmp_path.iterdir()) == ["r.json", "r.samples.jsonl"]


def test_a_disk_that_is_full_is_named(model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(samples.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match=r"r\.samples\.jsonl cannot be written: No space left on device$"):
        run(model, tokenizer, output=tmp_path / "r.json")


@pytest.mark.parametrize("suite", ["perplexity", "recall", "needle"])
def test_a_tokenizer_of_another_model_is_refused(model, documents, suite):
    larger = word_tokenizer("more", SENTENCES, *shipped_texts().values(), "and some words that nobody knows yet")
    small = reader_toy(word_tokenizer("a few words"))
    options = {"lengths": [256], "data": [documents], "limit": 1}
    options |= {"perplexity": {"stride": 64}, "recall": {"pairs": 8}, "needle": {"depths": 1}}[suite]
    with pytest.raises(ValueError, match=r"the tokenizer has a token \d+, and the model knows \d+"):
        evaluate(small, larger, suite, **options)


def test_a_tokenizer_that_cannot_read_is_one_line(model):
    bare = Tokenizer(models.WordLevel({"a": 0}, unk_token="<unk>"))
    with pytest.raises(ValueError, match=r"^the tokenizer cannot read a text: WordLevel error: Missing \[UNK\]"):
        run(model, PreTrainedTokenizerFast(tokenizer_object=bare))


def test_files_of_one_name_are_different_documents(model, tokenizer, tmp_path):
    paths = [tmp_path / name / "d.txt" for name in ("a", "b")]
    for path, text in zip(paths, shipped_texts().values(), strict=True):
        path.parent.mkdir()
        path.write_text(text)
    (row,) = evaluate(model, tokenizer, "perplexity", lengths=[64], stride=32, truncate=True, data=paths).rows
    assert row["n"] == 2


def test_own_is_one_scheme_however_it_is_named(model, tokenizer):
    found = run(model, tokenizer, schemes=[None, "own"])
    assert [row["scheme"] for row in found.rows] == [None]
    assert found.notes == ("300 tokens are beyond the 256 positions of model",)
    assert run(model, tokenizer, schemes=["yarn:4"]).notes == ()


def test_a_model_that_takes_no_schemes_is_evaluated_as_it_is(tokenizer):
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=512)
    found = run(GPT2LMHeadModel(config), tokenizer, schemes=["own"])
    assert found.rows[0]["n"] == 24
    with pytest.raises(ValueError, match="GPT2LMHeadModel is a model of type gpt2"):
        run(GPT2LMHeadModel(config), tokenizer, schemes=["yarn:4"])


def test_recall_takes_a_tokenizer_that_puts_a_space_before_every_text(tokenizer):
    spaced = PreTrainedTokenizerFast(tokenizer_object=copy_of(tokenizer), bos_token="<s>", unk_token="<unk>")
    own = EvaluationSpec(suite="recall", lengths=[300], pairs=8, limit=1)
    (task,) = recall.Recall(own, Texts.find((), "text")).tasks(spaced, pytest.fail)
    context = task.samples[0].content
    words = [spaced.convert_ids_to_tokens(value) for value in context.values]
    assert set(words) <= {f"▁{word}" for word in recall.VALUES}


def copy_of(tokenizer):
    """As in Llama 2: spaces are ▁, and a text that stands alone gets one in front."""
    words = {f"▁{word}": i for i, word in enumerate(tokenizer.get_vocab())}
    for word in ["<s>", "<unk>", "▁", ":", ".", "\n", *recall.KEYS]:
        words.setdefault(word, len(words))
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.pre_tokenizer = pre_tokenizers.Split(Regex("▁\\w*|\\w+|[^\\w▁]"), "isolated")
    return made


def test_probabilities_that_are_not_finite_are_refused(tokenizer, model):
    import copy

    broken = copy.deepcopy(model)
    broken.lm_head.weight.data[5] = float("nan")
    with pytest.raises(ValueError, match="model, recall: the model gives probabilities that are not finite"):
        run(broken, tokenizer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"suite": "recal"}, "suite must be one of perplexity.*did you mean recall"),
        ({"lengths": []}, "`lengths` must be given for recall"),
        ({"suite": "short", "lengths": [64]}, "`lengths` has no effect on short"),
        ({"lengths": [8]}, "lengths must be an integer of at least 16, not 8"),
        ({"tasks": ["niah_single_1"]}, "`tasks` has no effect on recall"),
        ({"suite": "perplexity", "lengths": [64, 512]}, "stride must be less than the shortest length, 64, not 256"),
        ({"pairs": 65}, "pairs must be at most 64"),
        ({"limit": 0}, "limit must be an integer of at least 1"),
        ({"depths": 0}, "depths must be an integer of at least 1"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        EvaluationSpec(**{"suite": "recall", "lengths": [1024]} | options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limmit": 3}, "evaluate has no option limmit; did you mean limit"),
        ({"schemes": ["yarm:4"]}, "unknown position scheme|did you mean yarn"),
        ({"schemes": ["table2"]}, "is for 32 KV heads, and .* 4 heads and 2 KV heads"),
        ({"schemes": []}, "`schemes` must name at least one"),
        ({"essays": "x"}, "`essays` has no effect on recall"),
        ({"data": ["nowhere.jsonl"]}, "nowhere.jsonl does not exist"),
    ],
)
def test_requests_are_checked(model, tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        run(model, tokenizer, **options)


def test_a_spec_survives_its_file():
    own = EvaluationSpec(suite="perplexity", lengths=[512, 300], **spec.preset_options("proof-pile"))
    assert EvaluationSpec(**json.loads(json.dumps(own.to_dict()))) == own
    assert own.lengths == (300, 512)


ROW = {"model": "m", "scheme": None, "suite": "recall", "task": "recall", "length": 64, "n": 3, "interval": None}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"accuracy": None}, "must have one figure"),
        ({}, "must have one figure"),
        ({"accuracy": 1, "perplexity": 2}, "must have one figure"),
        ({"accuracy": 0.5, "n": 1.5}, "n must be a whole number"),
        ({"accuracy": 0.5, "interval": [1]}, "interval must be two numbers or null"),
        ({"accuracy": 0.5, "scheme": 3}, "scheme must be a text or null"),
        ({"accuracy": 0.5, "by_distance": {"from": [1]}}, "by_distance must be lists of one length"),
    ],
)
def test_rows_that_are_none_are_refused(tmp_path, row, message):
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"format": "ropesearch.evaluation", "version": 1, "spec": {}, "rows": [ROW | row]}))
    with pytest.raises(ValueError, match=f"r.json is not a results file: row 0: .*{message}"):
        Results.load(path)


def test_a_results_file_cut_off_is_named(tmp_path):
    path = tmp_path / "r.json"
    Results({}, ({**ROW, "accuracy": 0.5},)).save(path)
    assert Results.load(path).rows[0]["accuracy"] == 0.5
    path.write_text(path.read_text()[:-5])
    with pytest.raises(ValueError, match=r"r.json is not a results file: .* cut off"):
        Results.load(path)


# Real weights


@pytest.mark.slow
def test_perplexity_of_smollm2_is_a_dense_sum(smollm2, tmp_path):
    model, tokenizer = load_model(smollm2, dtype="float32")
    path = tmp_path / "essay.txt"
    path.write_text(shipped_texts()["essay"])
    ids = torch.tensor([tokenizer(path.read_text()).input_ids[:2048]])
    with torch.inference_mode():
        dense = naive_log_probabilities(model(ids).logits.double(), ids)
    found = evaluate(model, tokenizer, "perplexity", lengths=[2048], data=[path], truncate=True, chunk=512)
    assert found.rows[0]["perplexity"] == pytest.approx(math.exp(-float(dense.mean())), abs=1e-4)


@pytest.mark.slow
def test_smollm2_finds_needles_and_values_where_it_was_trained(smollm2):
    model, tokenizer = load_model(smollm2, dtype="float32")
    found = evaluate(model, tokenizer, "needle", lengths=[512], depths=3, limit=2)
    assert sum(row["accuracy"] * row["n"] for row in found.rows) >= 4
    schemes = ["own", "abf:200", "self-extend:600,group=4"]
    own, broken, extended = evaluate(model, tokenizer, "recall", lengths=[600], limit=2, schemes=schemes).rows
    assert own["accuracy"] > 0.2  # guessing gives 0.03
    assert broken["accuracy"] < own["accuracy"] / 2
    assert broken["nats"] > own["nats"] + 1
    assert extended["accuracy"] == own["accuracy"]  # within its window it changes nothing
    assert extended["nats"] == pytest.approx(own["nats"], abs=1e-3)
